"""Files of a segmentation to labels, with the checks that the codecs leave out.

A store can hand out less than was put there: an upload that broke off, a proxy's error page. cloud-volume takes an
empty file for background, and the compressed_segmentation codec follows every offset of its input without looking
where it ends, so that a file cut short gives wrong labels or ends the process.
"""

import numpy as np
from cloudvolume import chunks

LABEL_TYPES = ("uint8", "uint16", "uint32", "uint64")
_ENCODINGS = ("raw", "compressed_segmentation", "compresso", "crackle", "png")
_WORD_BYTES = 4
_BITS_PER_INDEX = (0, 1, 2, 4, 8, 16)


def encoding_fault(encoding: str) -> str | None:
    """What keeps files of an encoding from being decoded: it loses labels, or its codec is not installed."""
    if encoding not in _ENCODINGS:
        return f"its encoding is {encoding!r}, expected {', '.join(_ENCODINGS)}"
    try:
        chunks.check_installed(encoding)
    except ImportError:
        return f"its encoding {encoding} needs a package: pip install {chunks.NEEDS_INSTALL[encoding]}"
    return None


def decode_labels(
    content: bytes,
    encoding: str,
    shape: tuple[int, int, int],
    dtype: np.dtype,
    block_shape: tuple[int, int, int] | None = None,
) -> np.ndarray:
    """Decode one file of a Precomputed segmentation.

    Parameters
    ----------
    content : bytes
        The file, decompressed.
    encoding : str
        `raw`, `compressed_segmentation` or another one that cloud-volume knows.
    shape : (3,) int
        Voxels in the file.
    dtype : numpy.dtype
        Type of a label.
    block_shape : (3,) int, optional
        Voxels in a block of compressed_segmentation.

    Returns
    -------
    (nx, ny, nz) array of dtype

    Raises
    ------
    ValueError
        The file does not hold what it must; a codec may raise others.
    """
    if not content:
        raise ValueError("it is empty")
    if encoding == "compressed_segmentation":
        if block_shape is None:
            raise ValueError("the info file names no block size")
        compressed_segmentation_words(content, shape, dtype, block_shape)
    labels = chunks.decode(content, encoding=encoding, shape=[*shape, 1], dtype=dtype, block_size=block_shape)
    return labels[..., 0]


def compressed_segmentation_words(
    content: bytes, shape: tuple[int, int, int], dtype: np.dtype, block_shape: tuple[int, int, int]
) -> np.ndarray:
    """The words of a file after the first, (n,) uint32, when every offset in it lies in it.

    The format: the number of channels, then for each block of voxels two words (offset of its table of labels, 24
    bits, and bits of an index into it, 8 bits; offset of its indices), then tables and indices. Offsets count words
    of 32 bits from the end of the first. Source: neuroglancer, "Compressed segmentation format".

    Raises
    ------
    ValueError
        The file is cut short, or something else.
    """
    if not content:
        raise ValueError("it is empty")
    if len(content) % _WORD_BYTES:
        raise ValueError(f"{len(content)} bytes are no whole number of words")
    words = np.frombuffer(content, dtype="<u4")
    if words[0] != 1:
        raise ValueError("it is not in the format compressed_segmentation with one channel")
    words = words[1:]
    n_blocks = int(np.prod([-(-n // block) for n, block in zip(shape, block_shape, strict=True)]))
    if words.size < 2 * n_blocks:
        raise ValueError(f"it ends in its header ({len(content)} bytes)")
    headers = words[: 2 * n_blocks].reshape(n_blocks, 2).astype(np.int64)
    table, bits, indices = headers[:, 0] & 0xFFFFFF, headers[:, 0] >> 24, headers[:, 1]
    if not np.isin(bits, _BITS_PER_INDEX).all():
        raise ValueError("a block has an impossible number of bits")
    if (table < 2 * n_blocks).any():
        raise ValueError("the labels of a block lie in the header")
    n_index_words = -(-bits * int(np.prod(block_shape)) // 32)
    if ((bits > 0) & (indices + n_index_words > words.size)).any():
        raise ValueError(f"it ends in the indices of a block ({len(content)} bytes)")
    words_per_label = np.dtype(dtype).itemsize // _WORD_BYTES
    # Only a table near the end can reach beyond it, so only the indices into those are looked at.
    for block in np.flatnonzero(table + (words_per_label << bits) > words.size):
        packed = words[indices[block] : indices[block] + n_index_words[block]]
        largest = _largest_index(packed, int(bits[block]))
        if table[block] + words_per_label * (largest + 1) > words.size:
            raise ValueError(f"it ends in the labels of a block ({len(content)} bytes)")
    return words


def _largest_index(packed: np.ndarray, bits: int) -> int:
    """Largest of the indices of some bits each that are packed into words."""
    if bits == 0:
        return 0
    mask = (1 << bits) - 1
    return max(int(((packed >> shift) & mask).max()) for shift in range(0, 32, bits))
