"""BCQ and CQL on d3rlpy, from recorded trajectories alone or with synthetic ones."""
