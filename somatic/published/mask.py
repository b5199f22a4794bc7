"""Repair of a soma mask, as the published features do it (definitions.md, "Soma mask, published", 3 and 4)."""

import numpy as np
import trimesh

from somatic.cutout import Cutout
from somatic.geometry.bitmask import BitMask
from somatic.geometry.box import Box
from somatic.geometry.morphology import dilate, erode, fill_holes
from somatic.soma import Place, SomaMask

_SLIT_Y_VX = 2
_SLIT_Z_VX = 2
_GROWTH_VX = 1


def room_for_repair(occupied: Box, within: Box) -> Box:
    """Box around the voxels of a mask in which its repair is that in all of `within`."""
    margin = np.array([_GROWTH_VX + 1, _GROWTH_VX + 1 + _SLIT_Y_VX, _GROWTH_VX + 1 + _SLIT_Z_VX])
    return Box(occupied.lower_vx - margin, occupied.upper_vx + margin).clipped_to(within)


def repair(cutout: Cutout, place: Place, nucleus: trimesh.Trimesh | None) -> SomaMask:  # noqa: ARG001
    """Close slits, fill enclosed holes and smooth.

    Parameters
    ----------
    cutout : Cutout
        Not empty.
    place : Place
        Where it lies, which makes no difference.
    nucleus : trimesh.Trimesh or None
        Makes no difference.

    Returns
    -------
    SomaMask
        Never touches a face of the cutout, so that its mesh is closed.
    """
    occupied = cutout.mask.extent()
    assert occupied is not None
    part = room_for_repair(occupied, Box(np.zeros(3, dtype=np.int64), np.array(cutout.mask.shape)))
    return SomaMask(repaired(cutout.mask.cropped_to(part)), part.lower_vx)


def repaired(mask: BitMask) -> BitMask:
    """The mask of a whole cutout, or of the part of it that `room_for_repair` says, after its repair."""
    return erode(erode(fill_holes(dilate(fill_slits(mask)))))


def fill_slits(mask: BitMask) -> BitMask:
    """Bridge missing sections: out[x, y, z] is the OR of mask[x, y - dy, z - dz], dy in 0..2, dz in -2..2.

    One-sided in y, as published; nothing wraps round.
    """
    along_y = mask.words.copy()
    for dy in range(1, _SLIT_Y_VX + 1):
        along_y[:, dy:] |= mask.words[:, :-dy]
    filled = along_y.copy()
    for dz in range(1, _SLIT_Z_VX + 1):
        filled[:, :, dz:] |= along_y[:, :, :-dz]
        filled[:, :, :-dz] |= along_y[:, :, dz:]
    return BitMask(filled, mask.n_x)
