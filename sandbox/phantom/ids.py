"""The ids of the phantom: root ids of its objects in each version, supervoxels, nuclei."""

import numpy as np
from numpy.typing import NDArray

from sandbox.phantom.layout import CELLS, WITHOUT_ROOT
from sandbox.phantom.neuropil import N_KEYS
from sandbox.phantom.objects import FIRST_CELL, FIRST_NEURITE, N_OBJECTS, VESSEL_WALL

_CELL_ROOTS = 864_691_135_000_000_000
_NEURITE_ROOTS = 864_691_136_000_000_000
_PRIME = 999_999_937


def nucleus_ids(seed: int) -> NDArray[np.int64]:
    """Six-digit id of the nucleus of every cell of the layout, in no order."""
    rng = np.random.default_rng([seed, 4])
    return rng.choice(np.arange(200_000, 800_000), len(CELLS), replace=False).astype(np.int64)


def segmentation_roots(seed: int, version: int) -> NDArray[np.uint64]:
    """Root id of every object as the voxels of one version have it.

    Parameters
    ----------
    seed : int
    version : int
        1 or 2.

    Returns
    -------
    (N_OBJECTS,) uint64
        0 for objects that are not segmented.
    """
    first, second, _ = _drawn(seed)
    roots = np.zeros(N_OBJECTS, np.uint64)
    # Multiplication modulo a prime gives every neurite another nine digits.
    neurite = np.arange(1, N_KEYS + 1)
    factor = 100_000_007 + 1_000_003 * seed % _PRIME
    roots[FIRST_NEURITE:] = _NEURITE_ROOTS + neurite * factor % _PRIME
    roots[VESSEL_WALL] = _NEURITE_ROOTS
    merged_root = first[next(i for i, cell in enumerate(CELLS) if cell.role == "merged")]
    for i, cell in enumerate(CELLS):
        root = first[i]
        if cell.role in WITHOUT_ROOT:
            root = 0
        elif cell.role == "merged":
            root = merged_root if version == 1 else second[i]
        elif cell.role == "re-rooted" and version == 2:
            root = second[i]
        roots[FIRST_CELL + i] = root
    return roots


def table_roots(seed: int, version: int) -> NDArray[np.uint64]:
    """Root id of every object as the tables of one version have it: one cell's is not in the segmentation."""
    roots = segmentation_roots(seed, version)
    *_, nowhere = _drawn(seed)
    for i, cell in enumerate(CELLS):
        if cell.role == "not in segmentation":
            roots[FIRST_CELL + i] = nowhere[i]
    return roots


def supervoxel_ids(rng: np.random.Generator, roots: NDArray[np.int64]) -> NDArray[np.int64]:
    """An id as a watershed gives them for every root, 0 where there is no root."""
    drawn = rng.integers(80_000_000_000_000_000, 110_000_000_000_000_000, len(roots))
    return np.where(roots == 0, 0, drawn)


def _drawn(seed: int) -> NDArray[np.int64]:
    """Root ids for each cell of the layout, three of them, all different."""
    rng = np.random.default_rng([seed, 5])
    return _CELL_ROOTS + rng.choice(_PRIME, (3, len(CELLS)), replace=False)
