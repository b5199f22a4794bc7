"""Looking for labels in files of the encoding compressed_segmentation without decoding them.

A file is cut into blocks, each with a table of its few labels and, for each voxel, an index into it. A block whose
table has none of the labels that are looked for is passed over. `somatic.volume.decoding` has the format's source.
"""

import numpy as np

from somatic.geometry.bitmask import BITS, BitMask, set_run
from somatic.geometry.box import Box
from somatic.geometry.compiled import compiled, n_set
from somatic.volume.decoding import compressed_segmentation_words

_OTHER, _WANTED, _UNLABELLED = 0, 1, 2
_LARGEST_TABLE = 2**16
_NOWHERE = np.empty((0, 0, 0), dtype=np.uint64)


def mark_labels(
    content: bytes,
    dtype: np.dtype,
    block_shape: tuple[int, int, int],
    labels: np.ndarray,
    file_box: Box,
    mask: BitMask,
    box: Box,
    unlabelled: BitMask | None = None,
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
    unlabelled : BitMask, optional
        Of the same box; voxels with label 0 are set.

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
        _NOWHERE if unlabelled is None else unlabelled.words,
        file_box.lower_vx - box.lower_vx,
    )


@compiled
def _mark(words, is_long, file_shape, block, labels, start, stop, mask, unlabelled, offset):
    marks_unlabelled = unlabelled.size > 0
    n_x, n_y = -(-file_shape[0] // block[0]), -(-file_shape[1] // block[1])
    n_in_block = block[0] * block[1] * block[2]
    kinds = np.empty(_LARGEST_TABLE, np.uint8)
    n_unlabelled = 0
    for block_z in range(start[2] // block[2], (stop[2] - 1) // block[2] + 1):
        low_z, high_z = max(block_z * block[2], start[2]), min((block_z + 1) * block[2], stop[2])
        for block_y in range(start[1] // block[1], (stop[1] - 1) // block[1] + 1):
            low_y, high_y = max(block_y * block[1], start[1]), min((block_y + 1) * block[1], stop[1])
            for block_x in range(start[0] // block[0], (stop[0] - 1) // block[0] + 1):
                low_x, high_x = max(block_x * block[0], start[0]), min((block_x + 1) * block[0], stop[0])
                header = 2 * (block_x + n_x * (block_y + n_y * block_z))
                table = np.int64(words[header] & 0xFFFFFF)
                bits = np.int64(words[header] >> 24)
                indices = np.int64(words[header + 1])
                n_labels, n_wanted, n_zero = _look_up(words, is_long, table, bits, labels, kinds)
                if n_wanted == 0 and n_zero == 0:
                    continue
                n_voxels = (high_x - low_x) * (high_y - low_y) * (high_z - low_z)
                if n_zero > 0 and bits == 0 and marks_unlabelled:
                    n_unlabelled += n_voxels
                    for y in range(low_y + offset[1], high_y + offset[1]):
                        for z in range(low_z + offset[2], high_z + offset[2]):
                            set_run(unlabelled, low_x + offset[0], high_x + offset[0], y, z)
                    continue
                if not marks_unlabelled and n_wanted == 0 and n_voxels == n_in_block and n_in_block * bits % 32 == 0:
                    for i in range(n_labels):
                        if kinds[i] == _UNLABELLED:
                            n_unlabelled += _count(words, indices, n_in_block, bits, np.uint64(i))
                    continue
                for z in range(low_z, high_z):
                    for y in range(low_y, high_y):
                        line = (y % block[1] + block[1] * (z % block[2])) * block[0]
                        for x in range(low_x, high_x):
                            bit = (line + x % block[0]) * bits
                            index = 0 if bits == 0 else (words[indices + bit // 32] >> (bit % 32)) & ((1 << bits) - 1)
                            kind = kinds[index]
                            if kind == _OTHER:
                                continue
                            in_mask = x + offset[0]
                            word = np.uint64(1) << np.uint64(in_mask % BITS)
                            if kind == _WANTED:
                                mask[in_mask // BITS, y + offset[1], z + offset[2]] |= word
                                continue
                            n_unlabelled += 1
                            if marks_unlabelled:
                                unlabelled[in_mask // BITS, y + offset[1], z + offset[2]] |= word
    return n_unlabelled


@compiled
def _look_up(words, is_long, table, bits, labels, kinds):
    """Write the kind of each label of a table; returns the number of labels, of wanted ones and of zeros.

    Where a table ends is not said. What follows it is taken for labels here, to which no index points.
    """
    words_per_label = 2 if is_long else 1
    n_labels = min(1 << bits, (len(words) - table) // words_per_label)
    n_wanted = n_zero = 0
    for i in range(n_labels):
        at = table + words_per_label * i
        label = np.uint64(words[at])
        if is_long:
            label |= np.uint64(words[at + 1]) << np.uint64(32)
        kinds[i] = _OTHER
        if label == 0:
            kinds[i] = _UNLABELLED
            n_zero += 1
        elif len(labels) and labels[0] <= label <= labels[-1] and labels[np.searchsorted(labels, label)] == label:
            kinds[i] = _WANTED
            n_wanted += 1
    return n_labels, n_wanted, n_zero


@compiled
def _count(words, indices, n_in_block, bits, index):
    """How often an index stands in a block whose indices fill whole words."""
    if bits == 0:
        return n_in_block
    lowest = np.uint64(0)
    for shift in range(0, 32, bits):
        lowest |= np.uint64(1) << np.uint64(shift)
    pattern = lowest * index
    n_others = 0
    for at in range(indices, indices + n_in_block * bits // 32):
        # Of each index that is another one some bit differs; all of them are moved to its lowest.
        differs = np.uint64(words[at]) ^ pattern
        some = differs
        for shift in range(1, bits):
            some |= differs >> np.uint64(shift)
        n_others += n_set(some & lowest)
    return n_in_block - n_others
