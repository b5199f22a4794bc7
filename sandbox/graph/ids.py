"""How the ids of a chunked graph are made: layer, chunk, and a number within the chunk."""

import numpy as np
from numpy.typing import NDArray

N_LAYERS = 12
"""Layer of the roots: the one that the root ids of the field begin with."""
BITS_OF_LAYER = 8
_LAYER_AT, _X_AT, _Y_AT, _Z_AT = (np.uint64(bit) for bit in (56, 46, 36, 26))
_CHUNK_MASK = np.uint64(1023)

Ids = NDArray[np.uint64]


def bits_per_axis(layer: int) -> int:
    """Bits that the chunk's coordinate along an axis has in ids of a layer."""
    return 10 if layer <= 2 else max(1, N_LAYERS - layer)


def make_ids(layer: int, chunk: NDArray[np.integer], number: NDArray[np.integer]) -> Ids:
    """Ids of layer 1 (supervoxels) or 2.

    Parameters
    ----------
    layer : int
    chunk : (..., 3) int
        Coordinates of the chunk, 0 to 1023.
    number : (...) int
        Which one within the chunk, 1 to 2^26 - 1.

    Returns
    -------
    (...) uint64
    """
    x, y, z = np.moveaxis(np.asarray(chunk).astype(np.uint64), -1, 0)
    in_chunk = np.asarray(number).astype(np.uint64)
    return (np.uint64(layer) << _LAYER_AT) | (x << _X_AT) | (y << _Y_AT) | (z << _Z_AT) | in_chunk


def layer_of(node_ids: Ids) -> NDArray[np.int64]:
    """Layer of any ids."""
    return (node_ids >> _LAYER_AT).astype(np.int64)


def chunks_of(node_ids: Ids) -> NDArray[np.int64]:
    """Chunk of ids of layer 1 or 2, (n, 3)."""
    return np.stack([(node_ids >> at) & _CHUNK_MASK for at in (_X_AT, _Y_AT, _Z_AT)], axis=-1).astype(np.int64)
