"""Measuring cells in processes of their own, within the memory that there is."""
