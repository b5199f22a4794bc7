"""The repair of a soma mask, against scipy on whole arrays and against masks counted by hand."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from somatic.geometry import morphology
from somatic.geometry.bitmask import BitMask
from somatic.geometry.box import Box
from somatic.published import mask as steps


def on_arrays(step: Callable[[BitMask], BitMask]) -> Callable[[np.ndarray], np.ndarray]:
    """A step on arrays of bool."""
    return lambda mask: step(BitMask.of(mask)).to_array()


dilate, erode, fill_slits = (on_arrays(step) for step in (morphology.dilate, morphology.erode, steps.fill_slits))


def repair(mask: np.ndarray) -> np.ndarray:
    """The repair as a cell's is done: of the part of the box that holds the cell."""
    packed = BitMask.of(mask)
    occupied = packed.extent()
    repaired = np.zeros_like(mask)
    if occupied is not None:
        whole = Box(np.zeros(3, int), np.array(mask.shape))
        part = steps.room_for_repair(occupied, whole)
        repaired[part.slices_within(whole)] = steps.repaired(packed.cropped_to(part)).to_array()
    return repaired


CROSS = ndimage.generate_binary_structure(3, 1)


def slits_by_definition(mask: np.ndarray) -> np.ndarray:
    """out[y, z] = OR of mask[y - dy, z - dz], voxel by voxel, where that lies in the array."""
    out = np.zeros_like(mask)
    _, n_y, n_z = mask.shape
    for y in range(n_y):
        for z in range(n_z):
            for dy in (0, 1, 2):
                for dz in (-2, -1, 0, 1, 2):
                    if 0 <= y - dy < n_y and 0 <= z - dz < n_z:
                        out[:, y, z] |= mask[:, y - dy, z - dz]
    return out


def repair_by_definition(mask: np.ndarray) -> np.ndarray:
    """The steps of definitions.md over the whole array, by scipy."""
    grown = ndimage.binary_dilation(slits_by_definition(mask), CROSS)
    filled = ndimage.binary_fill_holes(grown, CROSS)
    return ndimage.binary_erosion(filled, CROSS, iterations=2, border_value=0)


def shell(shape: tuple[int, int, int], inner: int, outer: int, centre: tuple[int, int, int]) -> np.ndarray:
    """Voxels between two radii round a centre."""
    distance = np.linalg.norm(np.indices(shape).T - np.array(centre), axis=-1).T
    return (distance <= outer) & (distance >= inner)


MASKS = st.one_of(
    arrays(bool, array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=12)),
    # Mostly full and mostly empty ones, which have holes and islands.
    st.builds(
        lambda shape, seed, share: np.random.default_rng(seed).random(shape) < share,
        array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=14),
        st.integers(0, 2**32),
        st.sampled_from([0.001, 0.01, 0.05, 0.3, 0.9, 0.99]),
    ),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(MASKS)
def test_the_same_as_the_definition_over_the_whole_array(mask: np.ndarray) -> None:
    """Cropping to the cell changes nothing, whatever the mask, touching any faces or none."""
    before = mask.copy()
    np.testing.assert_array_equal(repair(mask), repair_by_definition(mask))
    np.testing.assert_array_equal(mask, before)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(MASKS)
def test_each_step_is_scipys(mask: np.ndarray) -> None:
    """Slits, dilation and erosion, each by itself."""
    np.testing.assert_array_equal(fill_slits(mask), slits_by_definition(mask))
    np.testing.assert_array_equal(dilate(mask), ndimage.binary_dilation(mask, CROSS))
    np.testing.assert_array_equal(erode(mask), ndimage.binary_erosion(mask, CROSS, border_value=0))


@pytest.mark.parametrize("centre", [(20, 22, 24), (3, 22, 24), (20, 40, 24), (20, 22, 45), (0, 0, 0), (39, 43, 47)])
def test_hollow_cells_in_a_large_box(centre: tuple[int, int, int]) -> None:
    """A shell with its nucleus cut out is filled where it is closed in the box, and stays open where it is cut."""
    mask = shell((40, 44, 48), 6, 9, centre)
    np.testing.assert_array_equal(repair(mask), repair_by_definition(mask))


def test_an_enclosed_hole_is_filled() -> None:
    """A hollow block of 11^3 becomes a solid one of 9 x 11 x 13.

    Slits add 2 behind in y and 2 on both sides in z; one dilation and two erosions take one voxel all round.
    """
    mask = np.zeros((30, 30, 30), bool)
    mask[10:21, 10:21, 10:21] = True
    mask[13:18, 13:18, 13:18] = False
    expected = np.zeros_like(mask)
    expected[11:20, 11:22, 9:22] = True
    np.testing.assert_array_equal(repair(mask), expected)


def test_one_voxel_fills_slits_one_sided_in_y() -> None:
    """It grows by two towards higher y only, by two to both sides in z, not at all in x: 3 x 5 voxels."""
    mask = np.zeros((9, 9, 9), bool)
    mask[4, 4, 4] = True
    expected = np.zeros_like(mask)
    expected[4, 4:7, 2:7] = True
    np.testing.assert_array_equal(fill_slits(mask), expected)


@pytest.mark.parametrize("y", [0, 1, 7, 8])
@pytest.mark.parametrize("z", [0, 1, 7, 8])
def test_slits_do_not_wrap_round(y: int, z: int) -> None:
    """At the end of an axis nothing appears at its other end."""
    mask = np.zeros((3, 9, 9), bool)
    mask[1, y, z] = True
    expected = np.zeros_like(mask)
    expected[1, y : y + 3, max(z - 2, 0) : z + 3] = True
    np.testing.assert_array_equal(fill_slits(mask), expected)


@pytest.mark.parametrize(("n_missing", "bridged"), [(1, True), (4, True), (5, False)])
def test_missing_sections_are_bridged(n_missing: int, bridged: bool) -> None:
    """Up to four missing sections between two halves of a cell are closed, five are not."""
    mask = np.zeros((20, 20, 40), bool)
    mask[4:16, 4:16, 5:18] = True
    mask[4:16, 4:16, 18 + n_missing : 35] = True
    assert fill_slits(mask)[10, 10, 5:35].all() == bridged


def test_empty_and_full() -> None:
    """Nothing stays nothing; a full box loses two voxels on every face, so that its mesh is closed."""
    assert not repair(np.zeros((7, 8, 9), bool)).any()
    found = repair(np.ones((7, 8, 9), bool))
    assert found[2:-2, 2:-2, 2:-2].all()
    assert np.count_nonzero(found) == 3 * 4 * 5


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_voxels(n: int) -> None:
    """What the slits add in y and z is eroded away again with the voxel itself: nothing is thick enough in x."""
    mask = np.zeros((20, 20, 20), bool)
    mask[10 : 10 + n, 10, 10] = True
    assert not repair(mask).any()


@pytest.mark.parametrize("face", range(6))
def test_the_result_never_touches_a_face(face: int) -> None:
    """A cell cut by the box is closed there."""
    axis, last = divmod(face, 2)
    mask = np.zeros((24, 24, 24), bool)
    mask[8:16, 8:16, 8:16] = True
    cut = np.moveaxis(mask, axis, 0)
    cut[12 if last else 0 : 24 if last else 12] = cut[12]
    found = repair(mask)
    assert found.any()
    assert not any(np.moveaxis(found, a, 0)[side].any() for a in range(3) for side in (0, -1))
    np.testing.assert_array_equal(found, repair_by_definition(mask))
