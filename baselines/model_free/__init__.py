"""BCQ and CQL on d3rlpy, alone and fed with synthetic trajectories."""
