"""CAVE as a client meets it: connecting, asking within limits, and the tables of a datastack."""
