"""Precomputed volumes: opening layers, reading files and decoding them."""
