"""The Hilbert curve: an order of points in which neighbours in a row are neighbours in space."""

import numpy as np
import numpy.typing as npt


def hilbert_index(cells: npt.NDArray[np.int64], bits: int) -> npt.NDArray[np.int64]:
    """Place of each cell of a cubic grid along the Hilbert curve through all of them.

    Skilling, "Programming the Hilbert curve", AIP Conf. Proc. 707 (2004), doi 10.1063/1.1751381.

    Parameters
    ----------
    cells : (n, 3) int64
        Grid coordinates, 0 <= cell < 2**bits.
    bits : int
        Size of the grid as a power of two, 1 to 20.

    Returns
    -------
    (n,) int64
        0 <= index < 8**bits; cells with consecutive indices share a face.
    """
    if not 1 <= bits <= 20:
        raise ValueError(f"bits must lie between 1 and 20, not {bits}")
    if cells.size and (cells.min() < 0 or cells.max() >= 1 << bits):
        raise ValueError(f"cells must lie between 0 and {(1 << bits) - 1}")
    x, y, z = axes = cells.T.astype(np.int64)

    for level in reversed(range(1, bits)):
        below = (1 << level) - 1
        for axis in axes:
            inside = (axis >> level) & 1 == 1
            swapped = np.where(inside, 0, (x ^ axis) & below)
            x ^= np.where(inside, below, swapped)
            axis ^= swapped

    y ^= x
    z ^= y
    flips = np.zeros_like(x)
    for level in range(1, bits):
        flips ^= np.where((z >> level) & 1 == 1, (1 << level) - 1, 0)
    axes ^= flips

    index = np.zeros_like(x)
    for level in reversed(range(bits)):
        for axis in axes:
            index = (index << 1) | ((axis >> level) & 1)
    return index
