"""One extraction of a dataset at a version, from its plan to its table, without anything that runs it."""
