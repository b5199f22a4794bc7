"""Repair of a soma mask, as the published features do it (definitions.md, "Soma mask, published", 3 and 4)."""

import numpy as np

from somatic.bitmask import BITS, BitMask, without_rest
from somatic.compiled import compiled, trailing_zeros
from somatic.volume.box import Box

_SLIT_Y_VX = 2
_SLIT_Z_VX = 2
_GROWTH_VX = 1
_TOP = np.uint64(BITS - 1)
_ONE = np.uint64(1)


def room_for_repair(occupied: Box, within: Box) -> Box:
    """Box around the voxels of a mask in which its repair is that in all of `within`."""
    margin = np.array([_GROWTH_VX + 1, _GROWTH_VX + 1 + _SLIT_Y_VX, _GROWTH_VX + 1 + _SLIT_Z_VX])
    return Box(occupied.lower_vx - margin, occupied.upper_vx + margin).clipped_to(within)


def repair(mask: BitMask) -> BitMask:
    """Close slits, fill enclosed holes and smooth.

    Parameters
    ----------
    mask : BitMask
        Voxels of the root id in its cutout, or in the part of it that `room_for_repair` says.

    Returns
    -------
    BitMask
        Never touches a face of the box, so that its mesh is closed.
    """
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


def dilate(mask: BitMask) -> BitMask:
    """Add the 6 neighbours of every voxel."""
    words = mask.words
    grown = words | _from_below(words)
    grown |= _from_above(words)
    grown[:, 1:] |= words[:, :-1]
    grown[:, :-1] |= words[:, 1:]
    grown[:, :, 1:] |= words[:, :, :-1]
    grown[:, :, :-1] |= words[:, :, 1:]
    return without_rest(BitMask(grown, mask.n_x))


def erode(mask: BitMask) -> BitMask:
    """Keep the voxels whose 6 neighbours are all set; outside the box counts as empty."""
    words = mask.words
    kept = words & _from_below(words)
    kept &= _from_above(words)
    kept[:, 1:] &= words[:, :-1]
    kept[:, :-1] &= words[:, 1:]
    kept[:, :, 1:] &= words[:, :, :-1]
    kept[:, :, :-1] &= words[:, :, 1:]
    for face in (kept[:, :1], kept[:, -1:], kept[:, :, :1], kept[:, :, -1:]):
        face[:] = 0
    return BitMask(kept, mask.n_x)


def fill_holes(mask: BitMask) -> BitMask:
    """Set the voxels from which no way along 6 neighbours leads through empty voxels to a face of the box."""
    filled = BitMask(mask.words.copy(), mask.n_x)
    _fill_holes(filled.words, filled.n_x)
    return filled


def _from_below(words: np.ndarray) -> np.ndarray:
    """For each voxel the one before it along x."""
    moved = words << _ONE
    moved[1:] |= words[:-1] >> _TOP
    return moved


def _from_above(words: np.ndarray) -> np.ndarray:
    """For each voxel the one after it along x."""
    moved = words >> _ONE
    moved[:-1] |= words[1:] << _TOP
    return moved


@compiled
def _fill_holes(words, n_x):
    # Empty voxels of a line along x come in runs. Runs of neighbouring lines that touch are one region, and region 0
    # is what reaches a face of the box.
    _, n_y, n_z = words.shape
    n_runs = 1
    for y in range(n_y):
        for z in range(n_z):
            start, end = _next_run(words, n_x, y, z, 0)
            while start < n_x:
                n_runs += 1
                start, end = _next_run(words, n_x, y, z, end)
    starts = np.empty(n_runs, np.int32)
    ends = np.empty(n_runs, np.int32)
    region = np.arange(n_runs).astype(np.int32)
    first = np.empty((n_y, n_z + 1), np.int32)
    run = 1
    for y in range(n_y):
        for z in range(n_z):
            first[y, z] = run
            at_face = y in (0, n_y - 1) or z in (0, n_z - 1)
            start, end = _next_run(words, n_x, y, z, 0)
            while start < n_x:
                starts[run], ends[run] = start, end
                if at_face or start == 0 or end == n_x:
                    region[run] = 0
                run += 1
                start, end = _next_run(words, n_x, y, z, end)
        first[y, n_z] = run
    for y in range(n_y):
        for z in range(n_z):
            if y + 1 < n_y:
                _join(starts, ends, region, first[y, z], first[y, z + 1], first[y + 1, z], first[y + 1, z + 1])
            if z + 1 < n_z:
                _join(starts, ends, region, first[y, z], first[y, z + 1], first[y, z + 1], first[y, z + 2])
    for y in range(n_y):
        for z in range(n_z):
            for run in range(first[y, z], first[y, z + 1]):
                if _region_of(region, run) != 0:
                    for x in range(starts[run], ends[run]):
                        words[x // BITS, y, z] |= _ONE << np.uint64(x % BITS)


@compiled
def _next_run(words, n_x, y, z, x):
    """First and last but one x of the next run of empty voxels from x on; n_x where there is none."""
    start = _next_bit(words, n_x, y, z, x, ~np.uint64(0))
    return start, _next_bit(words, n_x, y, z, start, np.uint64(0))


@compiled
def _next_bit(words, n_x, y, z, x, inverted):
    """The next x from x on of a bit that is set, or unset where they are inverted; n_x where there is none."""
    while x < n_x:
        word = (words[x // BITS, y, z] ^ inverted) >> np.uint64(x % BITS)
        if word != 0:
            return min(x + trailing_zeros(word), n_x)
        x += BITS - x % BITS
    return n_x


@compiled
def _join(starts, ends, region, a, a_stop, b, b_stop):
    """Make runs of two lines that touch one region."""
    while a < a_stop and b < b_stop:
        if starts[a] < ends[b] and starts[b] < ends[a]:
            of_a, of_b = _region_of(region, a), _region_of(region, b)
            region[max(of_a, of_b)] = min(of_a, of_b)
        if ends[a] < ends[b]:
            a += 1
        else:
            b += 1


@compiled
def _region_of(region, run):
    while region[run] != run:
        region[run] = region[region[run]]
        run = region[run]
    return run
