"""Boxes of voxels."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Box:
    """A box of voxels of one mip: `lower_vx` inclusive, `upper_vx` exclusive, each (3,) int64."""

    lower_vx: np.ndarray
    upper_vx: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along x, y, z."""
        x, y, z = np.maximum(self.upper_vx - self.lower_vx, 0).tolist()
        return x, y, z

    @property
    def n_voxels(self) -> int:
        """Number of voxels."""
        x, y, z = self.shape
        return x * y * z

    def clipped_to(self, other: "Box") -> "Box":
        """The part of this box that lies in the other."""
        return Box(np.maximum(self.lower_vx, other.lower_vx), np.minimum(self.upper_vx, other.upper_vx))

    def moved(self, by_vx: np.ndarray) -> "Box":
        """The same box elsewhere."""
        return Box(self.lower_vx + by_vx, self.upper_vx + by_vx)

    def slices_within(self, outer: "Box") -> tuple[slice, slice, slice]:
        """Index of this box in an array that holds `outer`."""
        start = self.lower_vx - outer.lower_vx
        stop = self.upper_vx - outer.lower_vx
        return slice(start[0], stop[0]), slice(start[1], stop[1]), slice(start[2], stop[2])
