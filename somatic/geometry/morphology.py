"""Morphology of masks: growing, shrinking, closing, holes and connected parts, 64 voxels at once."""

from collections.abc import Sequence

import numpy as np

from somatic.geometry.bitmask import BITS, BitMask, set_run, without_rest
from somatic.geometry.compiled import compiled, n_set, trailing_zeros

_TOP = np.uint64(BITS - 1)
_ONE = np.uint64(1)


def dilate(mask: BitMask, axes: Sequence[int] = (0, 1, 2)) -> BitMask:
    """Add the neighbours of every voxel, both along each axis."""
    words = mask.words
    grown = words.copy()
    if 0 in axes:
        grown |= _from_below(words)
        grown |= _from_above(words)
    if 1 in axes:
        grown[:, 1:] |= words[:, :-1]
        grown[:, :-1] |= words[:, 1:]
    if 2 in axes:
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


def close(mask: BitMask, steps_vx: Sequence[int]) -> BitMask:
    """Dilate and erode equally far, which fills gaps of up to twice that and leaves all else where it is.

    Parameters
    ----------
    mask : BitMask
        Nothing is eroded from a face of its box.
    steps_vx : (3,) int
        How far along x, y, z.
    """
    turns = [[axis for axis in range(3) if steps_vx[axis] > turn] for turn in range(max(steps_vx))]
    for axes in turns:
        mask = dilate(mask, axes)
    mask = inverted(mask)
    for axes in turns:
        mask = dilate(mask, axes)
    return inverted(mask)


def inverted(mask: BitMask) -> BitMask:
    """The voxels that are not set."""
    return without_rest(BitMask(~mask.words, mask.n_x))


def fill_holes(mask: BitMask) -> BitMask:
    """Set the voxels from which no way along 6 neighbours leads through empty voxels to a face of the box."""
    filled = BitMask(mask.words.copy(), mask.n_x)
    _fill_holes(filled.words, filled.n_x)
    return filled


def keep_region(mask: BitMask, seed: BitMask) -> tuple[BitMask, int]:
    """The connected part of a mask that has most of another one.

    Parameters
    ----------
    mask : BitMask
        Two voxels are connected where they share a face.
    seed : BitMask
        Of the same box.

    Returns
    -------
    BitMask
        The part that shares most voxels with `seed`; the largest where none shares any.
    int
        How many parts there were.
    """
    kept = BitMask(mask.words.copy(), mask.n_x)
    return kept, _keep_region(kept.words, kept.n_x, seed.words)


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
    # Region 0 is what reaches a face of the box.
    starts, ends, first = _runs(words, n_x, False)
    _, n_y, n_z = words.shape
    region = np.arange(len(starts)).astype(np.int32)
    for y in range(n_y):
        for z in range(n_z):
            at_face = y in (0, n_y - 1) or z in (0, n_z - 1)
            for run in range(first[y, z], first[y, z + 1]):
                if at_face or starts[run] == 0 or ends[run] == n_x:
                    region[run] = 0
    _join_all(starts, ends, first, region)
    for y in range(n_y):
        for z in range(n_z):
            for run in range(first[y, z], first[y, z + 1]):
                if _region_of(region, run) != 0:
                    set_run(words, starts[run], ends[run], y, z)


@compiled
def _keep_region(words, n_x, seed):
    starts, ends, first = _runs(words, n_x, True)
    _, n_y, n_z = words.shape
    region = np.arange(len(starts)).astype(np.int32)
    _join_all(starts, ends, first, region)
    size, shared = np.zeros(len(starts), np.int64), np.zeros(len(starts), np.int64)
    for y in range(n_y):
        for z in range(n_z):
            for run in range(first[y, z], first[y, z + 1]):
                of = _region_of(region, run)
                size[of] += ends[run] - starts[run]
                shared[of] += n_set_in_run(seed, starts[run], ends[run], y, z)
    kept = shared.argmax() if shared.max() > 0 else size.argmax()
    words[:] = 0
    for y in range(n_y):
        for z in range(n_z):
            for run in range(first[y, z], first[y, z + 1]):
                if _region_of(region, run) == kept:
                    set_run(words, starts[run], ends[run], y, z)
    return (size > 0).sum()


@compiled
def _runs(words, n_x, are_set):
    """Runs along x of voxels that are set, or are not: the first x of each, the x after its last, and of each line.

    Those of line y, z are `first[y, z]` to `first[y, z + 1]`. Number 0 is none of them.
    """
    _, n_y, n_z = words.shape
    first = np.empty((n_y, n_z + 1), np.int32)
    n_runs = 1
    for y in range(n_y):
        for z in range(n_z):
            first[y, z] = n_runs
            start, end = _next_run(words, n_x, y, z, 0, are_set)
            while start < n_x:
                n_runs += 1
                start, end = _next_run(words, n_x, y, z, end, are_set)
        first[y, n_z] = n_runs
    starts, ends = np.zeros(n_runs, np.int32), np.zeros(n_runs, np.int32)
    for y in range(n_y):
        for z in range(n_z):
            end = 0
            for run in range(first[y, z], first[y, z + 1]):
                starts[run], end = _next_run(words, n_x, y, z, end, are_set)
                ends[run] = end
    return starts, ends, first


@compiled
def _next_run(words, n_x, y, z, x, are_set):
    """The first x of the next run from x on and the x after its last; n_x where there is none."""
    of_first, of_others = (np.uint64(0), ~np.uint64(0)) if are_set else (~np.uint64(0), np.uint64(0))
    start = _next_bit(words, n_x, y, z, x, of_first)
    return start, _next_bit(words, n_x, y, z, start, of_others)


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
def n_set_in_run(words, start, stop, y, z):
    """How many voxels are set from x = start on and before stop."""
    n, ones = np.int64(0), ~np.uint64(0)
    for w in range(start // BITS, (stop - 1) // BITS + 1):
        word = words[w, y, z]
        if w == start // BITS:
            word &= ones << np.uint64(start % BITS)
        if w == stop // BITS:
            word &= ~(ones << np.uint64(stop % BITS))
        n += n_set(word)
    return n


@compiled
def _join_all(starts, ends, first, region):
    """Make runs of neighbouring lines that touch one region, whose number is that of its first run."""
    n_y, n_z = first.shape[0], first.shape[1] - 1
    for y in range(n_y):
        for z in range(n_z):
            if y + 1 < n_y:
                _join(starts, ends, region, first[y, z], first[y, z + 1], first[y + 1, z], first[y + 1, z + 1])
            if z + 1 < n_z:
                _join(starts, ends, region, first[y, z], first[y, z + 1], first[y, z + 1], first[y, z + 2])


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
