"""Pages that show results: one of a result set, one of a cell. Each is one file that needs no network."""
