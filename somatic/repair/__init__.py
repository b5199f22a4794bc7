"""Closing of meshes that are stored in parts, open or doubled."""
