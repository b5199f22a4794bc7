"""Which nuclei, in which order, in which chunks."""
