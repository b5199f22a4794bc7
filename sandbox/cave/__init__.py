"""A CAVE server on this machine, which answers as the real one does."""
