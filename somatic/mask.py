"""Repair of a soma mask, as the published features do it (definitions.md, "Soma mask, published", 3 and 4)."""

import fill_voids
import numpy as np

_SLIT_Y_VX = 2
_SLIT_Z_VX = 2
_GROWTH_VX = 1


def repair(mask: np.ndarray) -> np.ndarray:
    """Close slits, fill enclosed holes and smooth.

    Works on the part of the mask that holds the cell, with room for what the steps add, so the result is that of
    the same steps over the whole array.

    Parameters
    ----------
    mask : (nx, ny, nz) bool
        Voxels of the root id in its cutout.

    Returns
    -------
    (nx, ny, nz) bool
        Never touches a face of the array, so that its mesh is closed.
    """
    repaired = np.zeros_like(mask)
    occupied = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if not len(occupied[0]):
        return repaired
    margin = (_GROWTH_VX + 1, _GROWTH_VX + 1 + _SLIT_Y_VX, _GROWTH_VX + 1 + _SLIT_Z_VX)
    crop = tuple(
        slice(max(int(where[0]) - room, 0), min(int(where[-1]) + 1 + room, size))
        for where, room, size in zip(occupied, margin, mask.shape, strict=True)
    )
    cell = fill_voids.fill(dilate(fill_slits(mask[crop])))
    repaired[crop] = erode(erode(cell))
    return repaired


def fill_slits(mask: np.ndarray) -> np.ndarray:
    """Bridge missing sections: out[x, y, z] is the OR of mask[x, y - dy, z - dz], dy in 0..2, dz in -2..2.

    One-sided in y, as published; nothing wraps round.
    """
    along_y = mask.copy()
    for dy in range(1, _SLIT_Y_VX + 1):
        along_y[:, dy:] |= mask[:, :-dy]
    filled = along_y.copy()
    for dz in range(1, _SLIT_Z_VX + 1):
        filled[:, :, dz:] |= along_y[:, :, :-dz]
        filled[:, :, :-dz] |= along_y[:, :, dz:]
    return filled


def dilate(mask: np.ndarray) -> np.ndarray:
    """Add the 6 neighbours of every voxel."""
    grown = mask.copy()
    for out, source in ((np.moveaxis(grown, a, 0), np.moveaxis(mask, a, 0)) for a in range(3)):
        out[1:] |= source[:-1]
        out[:-1] |= source[1:]
    return grown


def erode(mask: np.ndarray) -> np.ndarray:
    """Keep the voxels whose 6 neighbours are all set; outside the array counts as empty."""
    kept = mask.copy()
    for out, source in ((np.moveaxis(kept, a, 0), np.moveaxis(mask, a, 0)) for a in range(3)):
        out[1:] &= source[:-1]
        out[:-1] &= source[1:]
        out[0] = False
        out[-1] = False
    return kept
