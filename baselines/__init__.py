"""The methods PerSim is compared with (CaDM, BCQ, CQL, MOReL), behind the same protocol as PerSim."""
