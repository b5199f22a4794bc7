"""Repair of a soma mask that leaves its volume where it is (docs/definitions.md, "Soma mask")."""

import hashlib

import numpy as np
import trimesh
from scipy import ndimage

from somatic.cutout import Cutout
from somatic.features import Row
from somatic.geometry.bitmask import BITS, BitMask
from somatic.geometry.box import Box
from somatic.geometry.compiled import compiled
from somatic.geometry.morphology import close, dilate, fill_holes, inverted, keep_region, n_set_in_run
from somatic.geometry.voxels import voxels_inside
from somatic.soma import Place, SomaMask

_SLIT_NM = 240.0
"""Unlabelled gaps of up to this width between two parts of the cell are filled: organelles, membranes, cracks."""
_MISSING_SECTIONS = 4
"""Of so many unlabelled sections in a row each belongs to what is nearest along z."""
NO_NUCLEUS = "none"
"""Stands for the hash of a nucleus where there is none."""
_SHELL_VX = 2
_SURROUNDED = 0.5
_COARSE_NM = 400.0
_THINNEST_SOMA_NM = 2000.0
_BULGE = 1.2
_RADIUS_STEP_NM = 200.0


def repair(cutout: Cutout, place: Place, nucleus: trimesh.Trimesh | None) -> SomaMask:
    """Join the nucleus, fill what is not labelled, fill holes, keep what holds the nucleus.

    Parameters
    ----------
    cutout : Cutout
        With its unlabelled voxels; not empty.
    place : Place
        Where it lies. Where there is no nucleus, what holds its centre is kept.
    nucleus : trimesh.Trimesh or None
        Closed mesh of the nucleus, in nm.

    Returns
    -------
    SomaMask
        Goes up to the faces of the cutout, and of the volume, where the cell does.
    """
    occupied, unlabelled = cutout.mask.extent(), cutout.unlabelled
    assert occupied is not None
    assert unlabelled is not None
    reach_vx = np.maximum(np.rint(_SLIT_NM / 2 / place.resolution_nm), 1).astype(np.int64)
    margin = reach_vx + _SHELL_VX + 1
    part = Box(occupied.lower_vx - margin, occupied.upper_vx + margin).clipped_to(cutout.inside)
    lower_vx = place.box.lower_vx + part.lower_vx
    mask, unlabelled = cutout.mask.cropped_to(part), unlabelled.cropped_to(part)
    n_labelled = cutout.inside.n_voxels - cutout.n_unlabelled
    columns: Row = {"frac_zero": 1.0 - n_labelled / cutout.n_voxels}
    seed = _voxel_at(np.floor(place.centre_nm / place.resolution_nm).astype(np.int64) - lower_vx, mask)
    if nucleus is not None:
        inside = voxels_inside(nucleus, part.moved(place.box.lower_vx), place.resolution_nm)
        if n_nucleus := inside.count():
            seed = inside
            columns["frac_nucleus_in_segment"] = _both(mask, inside).count() / n_nucleus
            if _surrounds(mask, unlabelled, inside):
                mask = _either(mask, inside)
    sections, unknown = fill_sections(mask, unlabelled)
    mask = _either(sections, _both(close(mask, reach_vx.tolist()), unknown))
    mask, columns["n_components"] = keep_region(fill_holes(mask), seed)
    columns["n_somata"] = count_somata(mask, place.resolution_nm)
    return SomaMask(mask, part.lower_vx, columns)


def nucleus_hash(nucleus: trimesh.Trimesh | None, place: Place) -> str:
    """Hash of all that `repair` takes from the mesh of a nucleus: the voxels of the cutout inside it.

    Parameters
    ----------
    nucleus : trimesh.Trimesh or None
        Closed mesh of the nucleus, in nm.
    place : Place
        Where the cutout lies.

    Returns
    -------
    str
        16 hexadecimal digits; `NO_NUCLEUS` where there is no mesh, or none of it in the cutout.
    """
    if nucleus is None:
        return NO_NUCLEUS
    lower, upper = nucleus.bounds / place.resolution_nm
    box = Box(np.floor(lower).astype(np.int64) - 1, np.ceil(upper).astype(np.int64) + 1).clipped_to(place.box)
    inside = voxels_inside(nucleus, box, place.resolution_nm)
    occupied = inside.extent()
    if occupied is None:
        return NO_NUCLEUS
    digest = hashlib.sha256(np.array([box.lower_vx + occupied.lower_vx, occupied.shape], dtype="<i8").tobytes())
    digest.update(inside.cropped_to(occupied).words.astype("<u8").tobytes())
    return digest.hexdigest()[:16]


def fill_sections(mask: BitMask, unlabelled: BitMask) -> tuple[BitMask, BitMask]:
    """Have each unlabelled voxel between two labelled ones along z be what the nearer one is.

    Only in gaps of up to four sections. In the middle of a gap of one or three, where both are equally near and one is
    of the cell and the other not, every second voxel is: half of them, as the surface runs from one to the other.

    Returns
    -------
    BitMask
        The mask with these.
    BitMask
        The unlabelled voxels of which nothing is known yet, since they lie in no such gap.
    """
    filled, unknown = BitMask(mask.words.copy(), mask.n_x), BitMask(unlabelled.words & ~mask.words, mask.n_x)
    _fill_sections(mask.words, unknown.words.copy(), filled.words, unknown.words)
    return filled, unknown


def count_somata(mask: BitMask, resolution_nm: np.ndarray) -> int:
    """How many parts of a mask are as thick as a soma, with a waist between them.

    The largest number of separate parts, over all radii from 2 um on, that hold a ball of 1.2 times that radius, of
    those voxels that lie deeper than the radius below the surface. Where the mask touches its box it is taken to go on.

    Returns
    -------
    int
        0 where no ball of 2.4 um fits in.
    """
    factors = np.maximum(1, np.floor(_COARSE_NM / resolution_nm)).astype(np.int64)
    thick = _coarse(mask.words, mask.n_x, factors)
    if thick.all():
        return 1
    depth_nm = ndimage.distance_transform_edt(thick, sampling=factors * resolution_nm)
    # The first voxel outside is half a voxel from the surface.
    depth_nm -= 0.5 * (factors * resolution_nm).mean()
    thickest = ndimage.find_objects((depth_nm > _THINNEST_SOMA_NM).astype(np.int8))
    if not thickest:
        return 0
    depth_nm = depth_nm[thickest[0]]
    most = 0
    for radius_nm in np.arange(_THINNEST_SOMA_NM, depth_nm.max() / _BULGE, _RADIUS_STEP_NM):
        parts, _ = ndimage.label(depth_nm > radius_nm)
        most = max(most, len(np.unique(parts[depth_nm >= _BULGE * radius_nm])))
    return most


def _surrounds(mask: BitMask, unlabelled: BitMask, nucleus: BitMask) -> bool:
    """Whether most of what is labelled around a nucleus, which has a voxel, is of the cell."""
    occupied = nucleus.extent()
    assert occupied is not None
    whole = Box(np.zeros(3, dtype=np.int64), np.array(nucleus.shape))
    around = Box(occupied.lower_vx - _SHELL_VX, occupied.upper_vx + _SHELL_VX).clipped_to(whole)
    mask, unlabelled, nucleus = (one.cropped_to(around) for one in (mask, unlabelled, nucleus))
    grown = nucleus
    for _ in range(_SHELL_VX):
        grown = dilate(grown)
    shell = _both(_both(grown, inverted(nucleus)), inverted(unlabelled))
    return _both(shell, mask).count() > _SURROUNDED * shell.count()


def _voxel_at(index: np.ndarray, like: BitMask) -> BitMask:
    """A mask of one voxel; of none where it lies outside."""
    voxel = BitMask.empty(like.shape)
    if (index >= 0).all() and (index < like.shape).all():
        voxel.fill(Box(index, index + 1))
    return voxel


def _both(one: BitMask, other: BitMask) -> BitMask:
    return BitMask(one.words & other.words, one.n_x)


def _either(one: BitMask, other: BitMask) -> BitMask:
    return BitMask(one.words | other.words, one.n_x)


@compiled
def _fill_sections(mask, unlabelled, filled, unknown):
    n_words, n_y, n_z = mask.shape
    for w in range(n_words):
        for y in range(n_y):
            # Of two voxels next to each other one.
            every_second = np.uint64(0x5555555555555555) << np.uint64(y % 2)
            for z in range(n_z):
                gap_below = unlabelled[w, y, z]
                for below in range(1, min(_MISSING_SECTIONS, z) + 1):
                    if gap_below == 0:
                        break
                    cell_below = gap_below & mask[w, y, z - below]
                    other_below = gap_below & ~mask[w, y, z - below] & ~unlabelled[w, y, z - below]
                    gap_above = unlabelled[w, y, z]
                    for above in range(1, min(_MISSING_SECTIONS + 1 - below, n_z - 1 - z) + 1):
                        cell_above = gap_above & mask[w, y, z + above]
                        other_above = gap_above & ~mask[w, y, z + above] & ~unlabelled[w, y, z + above]
                        found = cell_below & cell_above
                        if below < above:
                            found |= cell_below & other_above
                        elif above < below:
                            found |= other_below & cell_above
                        else:
                            found |= every_second & ((cell_below & other_above) | (other_below & cell_above))
                        filled[w, y, z] |= found
                        unknown[w, y, z] &= ~((cell_below | other_below) & (cell_above | other_above))
                        gap_above &= unlabelled[w, y, z + above]
                    gap_below &= unlabelled[w, y, z - below]


@compiled
def _coarse(words, n_x, factors):
    """Which merged voxels are set by half or more."""
    n_words, n_y, n_z = words.shape
    n_set = np.zeros((-(-n_x // factors[0]), -(-n_y // factors[1]), -(-n_z // factors[2])), np.int64)
    for y in range(n_y):
        for z in range(n_z):
            for w in range(n_words):
                if words[w, y, z] == 0:
                    continue
                for x in range(w * BITS // factors[0], min(((w + 1) * BITS - 1) // factors[0] + 1, len(n_set))):
                    start, stop = max(x * factors[0], w * BITS), min((x + 1) * factors[0], (w + 1) * BITS, n_x)
                    n_set[x, y // factors[1], z // factors[2]] += n_set_in_run(words, start, stop, y, z)
    return 2 * n_set >= factors[0] * factors[1] * factors[2]
