"""The command `somatic`."""
