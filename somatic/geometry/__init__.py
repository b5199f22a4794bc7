"""Masks of one bit a voxel, and meshes: what is done with shapes, whatever they are shapes of."""
