"""Masks of one bit a voxel, against arrays of bool."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from somatic.geometry.bitmask import BitMask
from somatic.geometry.box import Box

SHAPES = st.tuples(st.sampled_from([1, 5, 63, 64, 65, 130]), st.integers(1, 6), st.integers(1, 6))


def made(shape: tuple[int, int, int], seed: int, share: float) -> np.ndarray:
    """Voxels set by chance."""
    return np.random.default_rng(seed).random(shape) < share


@settings(max_examples=100, deadline=None, derandomize=True)
@given(SHAPES, st.integers(0, 1000), st.sampled_from([0.0, 0.01, 0.5, 1.0]))
def test_what_is_packed(shape: tuple[int, int, int], seed: int, share: float) -> None:
    """Voxels, their number and the box that holds them are those of the array; the rest of a word is empty."""
    array = made(shape, seed, share)
    mask = BitMask.of(array)
    assert mask.shape == shape
    np.testing.assert_array_equal(mask.to_array(), array)
    assert mask.count() == np.count_nonzero(array)
    extent, places = mask.extent(), np.argwhere(array)
    if extent is None:
        assert not len(places)
    else:
        np.testing.assert_array_equal([extent.lower_vx, extent.upper_vx - 1], [places.min(axis=0), places.max(axis=0)])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(SHAPES, st.integers(0, 1000))
def test_a_part(shape: tuple[int, int, int], seed: int) -> None:
    """Any box of it, wherever in a word it begins and ends, is that part of the array and a mask of its own."""
    rng = np.random.default_rng(seed)
    array = made(shape, seed, 0.5)
    mask = BitMask.of(array)
    lower = rng.integers(0, shape)
    upper = rng.integers(lower, shape) + 1
    part = mask.cropped_to(Box(lower, upper))
    cut = tuple(slice(a, b) for a, b in zip(lower, upper, strict=True))
    np.testing.assert_array_equal(part.to_array(), array[cut])
    assert part.count() == np.count_nonzero(array[cut])
    part.words[:] = 0
    assert mask.count() == np.count_nonzero(array)


def test_adding() -> None:
    """A part is set where it belongs, in whatever order its array lies, and what was set stays."""
    mask = BitMask.of(made((70, 9, 8), 0, 0.2))
    expected = mask.to_array()
    part = np.asfortranarray(made((40, 5, 6), 1, 0.5))
    mask.add(part, np.array([29, 3, 1]))
    expected[29:69, 3:8, 1:7] |= part
    np.testing.assert_array_equal(mask.to_array(), expected)


@pytest.mark.parametrize("shape", [(0, 4, 4), (4, 0, 4), (64, 4, 0)])
def test_a_box_without_voxels(shape: tuple[int, int, int]) -> None:
    """Nothing in it, and no error."""
    mask = BitMask.empty(shape)
    assert (mask.shape, mask.count(), mask.extent()) == (shape, 0, None)
