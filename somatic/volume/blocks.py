"""Looking for labels in files of the encoding compressed_segmentation without decoding them.

A file is cut into blocks, each with a table of its few labels and, for each voxel, an index into it. A block whose table
has none of the labels that are looked for is passed over. `somatic.volume.decoding` has the format's source.
"""

import numpy as np

from somatic.bitmask import BITS, BitMask
from somatic.compiled import compiled
from somatic.volume.box import Box
from somatic.volume.decoding import compressed_segmentation_words

_OTHER, _WANTED, _UNLABELLED = 0, 1, 2
_LARGEST_TABLE = 2**16


def mark_labels(
    content: bytes,
    dtype: np.dtype,
    block_shape: tuple[int, int, int],
    labels: np.ndarray,
    file_box: Box,
    mask: BitMask,
    box: Box,
) -> int:
    """Set the voxels that have one of some labels, in the part of a file that lies in a box.

    Parameters
    ----------
    content : bytes
        The file, decompressed.
    dtype : numpy.dtype
        Type of a label.
    block_shape : (3,) int
        Voxels in a block.
    labels : (n,) uint64
        Sorted.
    file_box, box : Box
        What the file holds, and what the mask does.
    mask : BitMask
        Is changed.

    Returns
    -------
    int
        Number of voxels of the part with label 0.

    Raises
    ------
    ValueError
        The file does not hold what it must.
    """
    words = compressed_segmentation_words(content, file_box.shape, dtype, block_shape)
    part = file_box.clipped_to(box)
    start, stop = part.lower_vx - file_box.lower_vx, part.upper_vx - file_box.lower_vx
    return _mark(
        words,
        np.dtype(dtype).itemsize == 8,
        np.array(file_box.shape),
        np.array(block_shape),
        labels,
        start,
        stop,
        mask.words,
        file_box.lower_vx - box.lower_vx,
    )


@compiled
def _mark(words, is_long, file_shape, block, labels, start, stop, mask, offset):  # noqa: ANN001, ANN202
    n_x, n_y = -(-file_shape[0] // block[0]), -(-file_shape[1] // block[1])
    words_per_label = 2 if is_long else 1
    kinds = np.empty(_LARGEST_TABLE, np.uint8)
    n_unlabelled = 0
    for block_z in range(start[2] // block[2], (stop[2] - 1) // block[2] + 1):
        for block_y in range(start[1] // block[1], (stop[1] - 1) // block[1] + 1):
            for block_x in range(start[0] // block[0], (stop[0] - 1) // block[0] + 1):
                header = 2 * (block_x + n_x * (block_y + n_y * block_z))
                table = np.int64(words[header] & 0xFFFFFF)
                bits = np.int64(words[header] >> 24)
                indices = np.int64(words[header + 1])
                # Where a table ends is not said; what follows it is taken for labels here, to which no index points.
                n_labels = min(1 << bits, (len(words) - table) // words_per_label)
                matters = False
                for i in range(n_labels):
                    at = table + words_per_label * i
                    label = np.uint64(words[at])
                    if is_long:
                        label |= np.uint64(words[at + 1]) << np.uint64(32)
                    kinds[i] = _kind(label, labels)
                    matters |= kinds[i] != _OTHER
                if not matters:
                    continue
                in_word = (1 << bits) - 1
                low_x, high_x = max(block_x * block[0], start[0]), min((block_x + 1) * block[0], stop[0])
                low_y, high_y = max(block_y * block[1], start[1]), min((block_y + 1) * block[1], stop[1])
                low_z, high_z = max(block_z * block[2], start[2]), min((block_z + 1) * block[2], stop[2])
                for z in range(low_z, high_z):
                    for y in range(low_y, high_y):
                        line = (y % block[1] + block[1] * (z % block[2])) * block[0]
                        for x in range(low_x, high_x):
                            index = 0
                            if bits > 0:
                                bit = (line + x % block[0]) * bits
                                index = (words[indices + bit // 32] >> (bit % 32)) & in_word
                            kind = kinds[index]
                            n_unlabelled += kind == _UNLABELLED
                            if kind == _WANTED:
                                x_in_mask = x + offset[0]
                                bit_in_mask = np.uint64(1) << np.uint64(x_in_mask % BITS)
                                mask[x_in_mask // BITS, y + offset[1], z + offset[2]] |= bit_in_mask
    return n_unlabelled


@compiled
def _kind(label, labels):  # noqa: ANN001, ANN202
    if label == 0:
        return _UNLABELLED
    if len(labels) == 0 or label < labels[0] or label > labels[-1]:
        return _OTHER
    at = np.searchsorted(labels, label)
    return _WANTED if labels[at] == label else _OTHER
