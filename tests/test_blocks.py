"""Labels that are looked for in files of blocks, against the codec's own decoding."""

import numpy as np
import pytest
from cloudvolume import chunks
from hypothesis import given, settings
from hypothesis import strategies as st

from somatic.geometry.bitmask import BitMask
from somatic.geometry.box import Box
from somatic.volume.blocks import mark_labels

FILE = Box(np.array([-20, 7, 1000]), np.array([17, 36, 1023]))


def labels_of(n_labels: int, grain: int, seed: int, dtype: str) -> np.ndarray:
    """Cubes of labels, 0 among them, some of them the same in their lower or upper 32 bits."""
    rng = np.random.default_rng(seed)
    pool = rng.integers(1, 2**62 if dtype == "uint64" else 2**31, n_labels).astype(dtype)
    pool[::7] = 0
    if dtype == "uint64":
        pool[1::5] = pool[0] ^ np.uint64(1 << 40)
        pool[2::5] = pool[0] ^ np.uint64(1)
    coarse = rng.integers(0, n_labels, [-(-n // grain) for n in FILE.shape])
    x, y, z = FILE.shape
    return pool[np.kron(coarse, np.ones((grain,) * 3, int))[:x, :y, :z]]


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    dtype=st.sampled_from(["uint32", "uint64"]),
    block=st.sampled_from([(8, 8, 8), (4, 4, 4), (16, 8, 2), (5, 3, 7), (64, 64, 1)]),
    n_labels=st.sampled_from([1, 2, 3, 20, 400, 5000]),
    grain=st.sampled_from([1, 2, 9]),
    seed=st.integers(0, 1000),
    lower=st.tuples(st.integers(-25, 0), st.integers(0, 20), st.integers(995, 1010)),
    size=st.tuples(st.integers(21, 80), st.integers(21, 60), st.integers(16, 40)),
    n_wanted=st.integers(0, 30),
)
def test_the_same_as_decoding(
    dtype: str, block: tuple, n_labels: int, grain: int, seed: int, lower: tuple, size: tuple, n_wanted: int
) -> None:
    """Voxels of any set of labels and the number of zeros, in any part of a file, with any number of bits an index."""
    labels = labels_of(n_labels, grain, seed, dtype)
    content = chunks.encode(labels[..., np.newaxis], "compressed_segmentation", block)
    wanted = np.unique(np.random.default_rng(seed).choice(labels.ravel(), n_wanted)).astype(np.uint64)
    wanted = np.union1d(wanted[wanted > 0], np.array([2**40 + 3], np.uint64))
    box = Box(np.array(lower), np.array(lower) + size)
    mask, unlabelled = BitMask.empty(box.shape), BitMask.empty(box.shape)
    n_zero = mark_labels(content, np.dtype(dtype), block, wanted, FILE, mask, box)
    again = BitMask.empty(box.shape)
    assert mark_labels(content, np.dtype(dtype), block, wanted, FILE, again, box, unlabelled) == n_zero
    np.testing.assert_array_equal(again.words, mask.words)

    part = FILE.clipped_to(box)
    inside = labels[part.slices_within(FILE)]
    expected = np.zeros(box.shape, bool)
    expected[part.slices_within(box)] = np.isin(inside, wanted)
    np.testing.assert_array_equal(mask.to_array(), expected)
    assert n_zero == np.count_nonzero(inside == 0)
    expected[part.slices_within(box)] = inside == 0
    np.testing.assert_array_equal(unlabelled.to_array(), expected)


def test_no_labels() -> None:
    """A root without leaves has no voxel; what is unlabelled is counted all the same."""
    labels = labels_of(20, 2, 0, "uint64")
    content = chunks.encode(labels[..., np.newaxis], "compressed_segmentation", (8, 8, 8))
    mask = BitMask.empty(FILE.shape)
    n_zero = mark_labels(content, np.dtype("uint64"), (8, 8, 8), np.empty(0, np.uint64), FILE, mask, FILE)
    assert (mask.count(), n_zero) == (0, np.count_nonzero(labels == 0))


@pytest.mark.parametrize("n_bytes", [0, 3, 4, 400, 5000])
def test_a_file_cut_short(n_bytes: int) -> None:
    """It is an error as it is for who decodes, and nothing is read beyond its end."""
    content = chunks.encode(labels_of(400, 2, 0, "uint64")[..., np.newaxis], "compressed_segmentation", (8, 8, 8))
    assert n_bytes < len(content)
    mask = BitMask.empty(FILE.shape)
    with pytest.raises(ValueError, match="it|word"):
        mark_labels(content[:n_bytes], np.dtype("uint64"), (8, 8, 8), np.array([1], np.uint64), FILE, mask, FILE)
