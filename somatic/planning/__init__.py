"""Which nuclei, in which order, in which chunks and shards, and what that will take."""
