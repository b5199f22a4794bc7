"""The repair that leaves volumes where they are, against bodies of known volume and cases counted by hand."""

import numpy as np
import pytest
import trimesh
from scipy import ndimage

from sandbox.bodies import ellipsoid_voxels
from somatic.corrected import mask as steps
from somatic.cutout import Cutout
from somatic.geometry.bitmask import BitMask
from somatic.geometry.box import Box
from somatic.soma import Place, SomaMask

LABEL, NEIGHBOUR, UNLABELLED = 2**60 + 1, 7, 0
RESOLUTION = (64, 64, 40)


def repaired(
    labels: np.ndarray, resolution: tuple = RESOLUTION, nucleus: trimesh.Trimesh | None = None, outside: int = 0
) -> tuple[np.ndarray, dict]:
    """The repaired mask of a cutout and the columns; the first `outside` voxels along x are not in the volume."""
    whole = Box(np.zeros(3, dtype=np.int64), np.array(labels.shape))
    inside = Box(np.array([outside, 0, 0]), whole.upper_vx)
    unlabelled = BitMask.of((labels == UNLABELLED) & (np.arange(len(labels)) >= outside)[:, None, None])
    cutout = Cutout(BitMask.of(labels == LABEL), inside, unlabelled.count(), unlabelled)
    size = np.array(resolution, float)
    soma: SomaMask = steps.repair(cutout, Place(whole, size, labels.shape * size / 2, 0.0), nucleus)
    found, part = np.zeros(labels.shape, bool), soma.mask.to_array()
    x, y, z = soma.lower_vx
    found[x : x + part.shape[0], y : y + part.shape[1], z : z + part.shape[2]] = part
    return found, soma.columns


def ball(radius_nm: float, resolution: tuple = RESOLUTION, seed: int = 0, margin_nm: float = 800) -> np.ndarray:
    """Labels of a ball in a volume full of a neighbour."""
    mask, _ = ellipsoid_voxels(np.full(3, radius_nm), resolution, seed, margin_nm)
    return np.where(mask, LABEL, NEIGHBOUR).astype(np.uint64)


def nucleus_at(labels: np.ndarray, radius_nm: float, shift_nm: tuple = (0, 0, 0)) -> trimesh.Trimesh:
    """A round nucleus near the middle of a cutout."""
    centre = np.array(labels.shape) * RESOLUTION / 2 + shift_nm
    return trimesh.creation.icosphere(4, radius_nm).apply_translation(centre)


def fill(labels: np.ndarray, mesh: trimesh.Trimesh, label: int) -> None:
    """Label the voxels of a nucleus."""
    low, high = mesh.bounds
    centre, radius = (low + high) / 2, (high - low).mean() / 2
    middles = [(np.arange(n) + 0.5) * size for n, size in zip(labels.shape, RESOLUTION, strict=True)]
    x, y, z = np.meshgrid(*[m - c for m, c in zip(middles, centre, strict=True)], indexing="ij", sparse=True)
    labels[x**2 + y**2 + z**2 < radius**2] = label


@pytest.mark.parametrize("around", [NEIGHBOUR, UNLABELLED])
@pytest.mark.parametrize("resolution", [(64, 64, 40), (32, 32, 40), (30, 40, 90)])
def test_what_needs_no_repair_stays(around: int, resolution: tuple) -> None:
    """A ball among neighbours is the same voxel by voxel; with nothing around its steps alone may be filled."""
    labels = ball(1500, resolution)
    mask = labels == LABEL
    labels[~mask] = around
    found, columns = repaired(labels, resolution)
    assert found[mask].all()
    assert found.sum() <= mask.sum() * (1 if around == NEIGHBOUR else 1.004)
    assert columns["n_components"] == 1


@pytest.mark.parametrize("missing", [1, 2, 3, 4])
@pytest.mark.parametrize("every", [7, 11])
def test_missing_sections(missing: int, every: int) -> None:
    """Sections without labels, in a row and again and again: the volume comes back within 0.3 %, symmetric in y."""
    labels = ball(2500)
    mask = labels == LABEL
    gone = np.arange(labels.shape[2]) % every < missing
    labels[:, :, gone] = UNLABELLED
    found, _ = repaired(labels)
    assert found.sum() == pytest.approx(mask.sum(), rel=0.003)
    assert found[:, :, ~gone].sum() == mask[:, :, ~gone].sum()
    # The middle of a section with an odd number of rows lies in a row: mirrored, every second voxel is the same.
    mirrored, _ = repaired(labels[:, ::-1])
    assert mirrored.sum() == pytest.approx(found.sum(), abs=0.001 * found.sum())
    if missing in (2, 4):
        np.testing.assert_array_equal(mirrored[:, ::-1], found)


def test_nine_missing_sections_are_too_many() -> None:
    """A gap that is wider than what the closing bridges is not made up: the larger part on one side is kept."""
    labels = ball(2500)
    labels[:, :, 60:69] = UNLABELLED
    found, columns = repaired(labels)
    assert not found[:, :, 63:66].any()
    assert columns["n_components"] == 2


@pytest.mark.parametrize(("between", "is_filled"), [(UNLABELLED, True), (NEIGHBOUR, False)])
@pytest.mark.parametrize("axis", range(3))
def test_slits_are_filled_only_where_unlabelled(axis: int, between: int, is_filled: bool) -> None:
    """A slit of two voxels through the cell, to its outside: a crack is closed, a thin neighbour is not."""
    labels = np.full((40, 40, 40), NEIGHBOUR, np.uint64)
    labels[8:32, 8:32, 8:32] = LABEL
    slit = [slice(8, 32)] * 3
    slit[axis] = slice(18, 20)
    # Open on one side, so that it is no hole.
    slit[(axis + 1) % 3] = slice(14, 40)
    labels[tuple(slit)] = np.where(labels[tuple(slit)] == LABEL, between, labels[tuple(slit)])
    found, _ = repaired(labels)
    # Where the slit meets the outside its rim is round.
    slit[(axis + 1) % 3] = slice(14, 30)
    within = np.zeros_like(found)
    within[tuple(slit)] = True
    within &= np.pad(np.ones((20, 20, 20), bool), 10)
    assert found[within].all() == is_filled
    assert found[within].any() == is_filled


def test_organelles_are_filled_and_concavities_are_not() -> None:
    """Enclosed holes of any label belong to the cell; a bay of the outside does not, labelled or not."""
    labels = np.full((60, 60, 60), NEIGHBOUR, np.uint64)
    labels[10:50, 10:50, 10:50] = LABEL
    labels[20:26, 20:26, 20:30] = UNLABELLED
    labels[30:36, 30:36, 20:30] = NEIGHBOUR
    labels[44:60, 20:30, 20:30] = UNLABELLED
    labels[20:30, 44:60, 20:30] = NEIGHBOUR
    expected = np.zeros(labels.shape, bool)
    expected[10:50, 10:50, 10:50] = True
    expected[44:50, 20:30, 20:30] = expected[20:30, 44:50, 20:30] = False
    differs = repaired(labels)[0] != expected
    # Inner edges of an unlabelled bay become round.
    assert not differs[45:, 21:29, 22:28].any()
    differs[44:50, 20:30, 20:30] = False
    assert not differs.any()


@pytest.mark.parametrize("label", [NEIGHBOUR, UNLABELLED])
@pytest.mark.parametrize("shift_nm", [(0, 0, 0), (0, 900, 0)])
def test_a_nucleus_segmented_apart_is_joined(label: int, shift_nm: tuple) -> None:
    """The avocado: its stone has another label or none, in the middle or up to the membrane; the whole is one cell."""
    labels = ball(2500)
    mask, nucleus = labels == LABEL, nucleus_at(labels, 1600, shift_nm)
    fill(labels, nucleus, label)
    found, columns = repaired(labels, nucleus=nucleus)
    assert found.sum() == pytest.approx(mask.sum(), rel=0.003)
    assert columns["frac_nucleus_in_segment"] == pytest.approx(0, abs=0.02)
    assert columns["n_components"] == 1


def test_a_nucleus_of_another_cell_is_not_joined() -> None:
    """Most around it is the neighbour's."""
    labels = ball(1500)
    mask, nucleus = labels == LABEL, nucleus_at(labels, 700, (2000, 0, 0))
    found, columns = repaired(labels, nucleus=nucleus)
    np.testing.assert_array_equal(found, mask)
    assert columns["frac_nucleus_in_segment"] < 0.2


def test_the_part_with_the_nucleus_is_kept() -> None:
    """And not the largest one; without a nucleus it is the part at the centre, without that the largest."""
    labels = np.full((60, 50, 50), NEIGHBOUR, np.uint64)
    labels[2:30, 5:45, 5:45] = LABEL
    labels[40:55, 15:30, 15:30] = LABEL
    nucleus = nucleus_at(labels, 300, (17.5 * 64, 0, -100))
    found, columns = repaired(labels, nucleus=nucleus)
    assert (found.sum(), columns["n_components"]) == (15**3, 2)
    assert columns["frac_nucleus_in_segment"] == 1
    assert repaired(labels)[0].sum() == 28 * 40 * 40
    moved = np.roll(labels, -15, axis=0)
    moved[-15:] = NEIGHBOUR
    assert repaired(moved)[0].sum() == 15**3


def test_two_somata_in_one_segment() -> None:
    """Two bodies are two, with a thin bridge or a wide waist; one with a thick dendrite is one; a thin one none."""

    def balls(*centres_and_radii: tuple[float, float]) -> np.ndarray:
        x, y, z = np.meshgrid(*[(np.arange(n) + 0.5) * 200.0 for n in (110, 60, 60)], indexing="ij", sparse=True)
        found = np.zeros((110, 60, 60), bool)
        for at, radius in centres_and_radii:
            found |= (x - at) ** 2 + (y - 6000) ** 2 + (z - 6000) ** 2 < radius**2
        return found

    rod = np.zeros((110, 60, 60), bool)
    y, z = np.meshgrid(*[(np.arange(60) + 0.5) * 200.0 - 6000] * 2, indexing="ij")
    rod[:, y**2 + z**2 < 1500**2] = True
    size = np.full(3, 200.0)

    def count(mask: np.ndarray) -> int:
        return steps.count_somata(BitMask.of(mask), size)

    assert count(balls((7000, 5000))) == 1
    assert count(balls((7000, 5000)) | rod) == 1
    assert count(rod) == 0
    assert count(balls((5000, 4500), (17000, 3500)) | rod) == 2
    assert count(balls((6000, 5000), (14000, 5000))) == 2
    assert count(balls((6000, 5000), (8000, 5000))) == 1
    assert count(np.ones((110, 60, 60), bool)) == 1


@pytest.mark.parametrize("radius_nm", [1500, 2500])
def test_the_volume_is_unbiased(radius_nm: float) -> None:
    """Over places and missing sections the repair makes a body on average neither larger nor smaller, to 0.1 %."""
    ratios = []
    for seed in range(6):
        labels = ball(radius_nm, seed=seed)
        mask = labels == LABEL
        rng = np.random.default_rng(seed)
        labels[:, :, rng.random(labels.shape[2]) < 0.15] = UNLABELLED
        ratios.append(repaired(labels)[0].sum() / mask.sum())
    assert np.mean(ratios) == pytest.approx(1, abs=0.001)


def test_a_cutout_that_sticks_out_of_the_volume() -> None:
    """What lies outside is neither filled nor a neighbour; the cell is cut there."""
    labels = ball(1500)
    found, _ = repaired(labels, outside=30)
    assert not found[:30].any()
    np.testing.assert_array_equal(found[30:], labels[30:] == LABEL)


def test_random_labels_never_fail() -> None:
    """Whatever lies around, the repaired mask holds nothing that another cell has, but for what it encloses."""
    rng = np.random.default_rng(0)
    for _ in range(15):
        shape = rng.integers(1, 80, 3)
        labels = rng.choice(np.array([LABEL, NEIGHBOUR, UNLABELLED], np.uint64), tuple(shape))
        labels[tuple(shape // 2)] = LABEL
        found, columns = repaired(labels)
        assert found.any()
        taken = found & (labels == NEIGHBOUR)
        assert ndimage.binary_fill_holes(found & ~taken)[taken].all()
        assert columns["n_components"] >= 1
