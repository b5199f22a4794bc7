"""A chunked graph: the phantom as supervoxels that edits join into roots, served as CAVE serves it."""
