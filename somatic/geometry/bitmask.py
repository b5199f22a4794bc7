"""Masks of one bit a voxel."""

from dataclasses import dataclass

import numpy as np

from somatic.geometry.box import Box
from somatic.geometry.compiled import compiled

BITS = 64


@dataclass(frozen=True)
class BitMask:
    """A mask of which 64 voxels along x are one number.

    Attributes
    ----------
    words : (ceil(nx / 64), ny, nz) uint64
        Bit b of word w is the voxel x = 64 w + b; bits from nx on are 0.
    n_x : int
        Number of voxels along x.
    """

    words: np.ndarray
    n_x: int

    @classmethod
    def empty(cls, shape: tuple[int, int, int]) -> "BitMask":
        """A mask of a shape, (nx, ny, nz), without any voxel."""
        n_x, n_y, n_z = shape
        return cls(np.zeros((-(-n_x // BITS), n_y, n_z), dtype=np.uint64), n_x)

    @classmethod
    def of(cls, mask: np.ndarray) -> "BitMask":
        """Pack a mask, (nx, ny, nz) bool."""
        n_x, n_y, n_z = mask.shape
        packed = cls.empty((n_x, n_y, n_z))
        packed.add(mask, np.zeros(3, dtype=np.int64))
        return packed

    def to_array(self) -> np.ndarray:
        """The voxels as (nx, ny, nz) bool."""
        bits = np.unpackbits(np.moveaxis(self.words, 0, -1).copy().view(np.uint8), axis=-1, bitorder="little")
        return np.moveaxis(bits[..., : self.n_x], -1, 0).astype(bool)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along x, y, z."""
        return (self.n_x, *self.words.shape[1:])

    def add(self, voxels: np.ndarray, lower_vx: np.ndarray) -> None:
        """Set the voxels of a part, (mx, my, mz) bool, whose lower corner is `lower_vx`, (3,) int."""
        _add(self.words, np.ascontiguousarray(voxels), *lower_vx.tolist())

    def fill(self, box: Box) -> None:
        """Set all voxels of a box of its voxels."""
        _fill(self.words, *box.lower_vx.tolist(), *box.upper_vx.tolist())

    def count(self) -> int:
        """Number of voxels."""
        return int(np.bitwise_count(self.words).sum(dtype=np.int64))

    def extent(self) -> Box | None:
        """The smallest box of voxels that holds all of them; None when there is none."""
        columns = np.bitwise_or.reduce(self.words, axis=0)
        along_x = np.bitwise_or.reduce(self.words, axis=(1, 2))
        x = np.flatnonzero(np.unpackbits(along_x.view(np.uint8), bitorder="little"))
        if not x.size:
            return None
        y, z = (np.flatnonzero(columns.any(axis=axis)) for axis in (1, 0))
        ends = [(axis[0], axis[-1] + 1) for axis in (x, y, z)]
        return Box(*np.array(ends, dtype=np.int64).T)

    def cropped_to(self, box: Box) -> "BitMask":
        """The part in a box of its voxels."""
        along_x, along_y, along_z = box.slices_within(Box(np.zeros(3, dtype=np.int64), np.array(self.shape)))
        first, shift = divmod(along_x.start, BITS)
        last = -(-along_x.stop // BITS)
        words = self.words[first:last, along_y, along_z] >> np.uint64(shift)
        if shift:
            words[:-1] |= self.words[first + 1 : last, along_y, along_z] << np.uint64(BITS - shift)
        n_x = along_x.stop - along_x.start
        return without_rest(BitMask(words[: -(-n_x // BITS)].copy(), n_x))


def without_rest(mask: BitMask) -> BitMask:
    """The same mask, after the bits beyond its voxels were cleared in place."""
    if mask.n_x % BITS:
        mask.words[-1] &= np.uint64((1 << int(mask.n_x) % BITS) - 1)
    return mask


@compiled
def set_run(words, start, stop, y, z):
    """Set the voxels from x = start on and before stop."""
    ones = ~np.uint64(0)
    for w in range(start // BITS, (stop - 1) // BITS + 1):
        word = ones
        if w == start // BITS:
            word &= ones << np.uint64(start % BITS)
        if w == stop // BITS:
            word &= ~(ones << np.uint64(stop % BITS))
        words[w, y, z] |= word


@compiled
def _fill(words, x_start, y_start, z_start, x_stop, y_stop, z_stop):
    for y in range(y_start, y_stop):
        for z in range(z_start, z_stop):
            set_run(words, x_start, x_stop, y, z)


@compiled
def _add(words, voxels, lower_x, lower_y, lower_z):
    n_x, n_y, n_z = voxels.shape
    for x in range(n_x):
        bit = np.uint64(1) << np.uint64((x + lower_x) % BITS)
        for y in range(n_y):
            line = words[(x + lower_x) // BITS, y + lower_y]
            for z in range(n_z):
                if voxels[x, y, z]:
                    line[z + lower_z] |= bit
