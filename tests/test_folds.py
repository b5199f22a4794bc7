"""Folds of a nucleus: none where it is smooth, and those of a groove whose place and depth are known."""

import json

import numpy as np
import pytest
import trimesh
from shared import SCENES, expected_of, scene_of

from somatic.nucleus import NucleusLayer
from somatic.published.folds import measure_folds, sphere

RADIUS = 5000.0


def test_the_wrap_starts_as_vtks_sphere() -> None:
    """1538 vertices and 3072 faces, closed, two poles on z and six rings of 256 at multiples of pi / 7."""
    vertices, faces = sphere()
    assert vertices.shape == (1538, 3)
    assert faces.shape == (3072, 3)
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), 12_000)
    np.testing.assert_allclose(vertices[:2], [[0, 0, 12_000], [0, 0, -12_000]], atol=1e-9)
    heights, counts = np.unique(np.round(vertices[:, 2] / 12_000, 9), return_counts=True)
    np.testing.assert_allclose(heights, np.cos(np.pi * np.arange(8) / 7)[::-1], atol=1e-8)
    assert counts.tolist() == [1, 256, 256, 256, 256, 256, 256, 1]
    # Meridian by meridian, the first at y = 0, round the pole in steps of 2 pi / 256.
    np.testing.assert_allclose(vertices[2:8, 1], 0, atol=1e-9)
    assert (vertices[2:8, 0] > 0).all()
    angle = np.arctan2(vertices[8:14, 1], vertices[8:14, 0])
    np.testing.assert_allclose(angle, 2 * np.pi / 256)

    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.euler_number == 2
    assert mesh.volume > 0
    at_the_poles = np.bincount(faces.ravel())[:2]
    assert at_the_poles.tolist() == [256, 256]


@pytest.mark.parametrize("axes", [(1, 1, 1), (0.8, 1, 1.3), (0.6, 0.6, 1.8)])
@pytest.mark.parametrize("n_subdivisions", [3, 5])
def test_smooth_nuclei_have_no_folds(axes: tuple, n_subdivisions: int) -> None:
    """Spheres and ellipsoids, coarse and fine: no area, no share, and a depth that is null and not NaN."""
    smooth = trimesh.creation.icosphere(n_subdivisions, RADIUS)
    smooth = trimesh.Trimesh(smooth.vertices * axes + (1e6, -2e6, 3e6), smooth.faces, process=False)
    folds = measure_folds(smooth)
    assert (folds.area_um2, folds.fraction, folds.mean_depth_nm) == (0, 0, None)


def grooved(depth_nm: float) -> tuple[trimesh.Trimesh, np.ndarray]:
    """A sphere with a groove half round its equator, 12 degrees wide, and the depth of each vertex in it."""
    ball = trimesh.creation.icosphere(6)
    directions = ball.vertices
    latitude = np.abs(np.arcsin(directions[:, 2]))
    width = np.deg2rad(6)
    depth = depth_nm * np.clip(1 - latitude / width, 0, 1) * (directions[:, 0] > 0)
    return trimesh.Trimesh(directions * (RADIUS - depth)[:, None], ball.faces, process=False), depth


@pytest.mark.parametrize("depth_nm", [800, 1200, 2000])
def test_a_groove(depth_nm: float) -> None:
    """Its walls are found, but for a rim that is less than 150 nm from the wrap, and nothing else."""
    mesh, depth = grooved(depth_nm)
    folds = measure_folds(mesh)
    all_of_it = mesh.area_faces[(depth[mesh.faces] > 0).any(axis=1)].sum() / 1e6
    deep = mesh.area_faces[(depth[mesh.faces] > 450).all(axis=1)].sum() / 1e6
    assert deep < folds.area_um2 < all_of_it
    assert folds.fraction == pytest.approx(folds.area_um2 / (mesh.area / 1e6))
    # No vertex is farther from the wrap than it is deep, and half of the groove is not nearer than half of that.
    assert folds.mean_depth_nm is not None
    assert 0.5 * depth[depth > 150].mean() < folds.mean_depth_nm < depth[depth > 150].mean() + 150


def test_a_shallow_groove_is_no_fold() -> None:
    """Less than 150 nm deep, nothing is folded."""
    folds = measure_folds(grooved(140)[0])
    assert (folds.area_um2, folds.mean_depth_nm) == (0, None)


def test_folds_do_not_depend_on_the_place() -> None:
    """A millimetre away a nucleus has the same folds, but for vertices equally near to two others."""
    mesh, _ = grooved(1200)
    moved = trimesh.Trimesh(mesh.vertices + (1_000_000, -500_000, 250_000), mesh.faces, process=False)
    near, far = measure_folds(mesh), measure_folds(moved)
    assert far.area_um2 == pytest.approx(near.area_um2, rel=0.02)
    assert far.mean_depth_nm == pytest.approx(near.mean_depth_nm, rel=0.02)


@pytest.mark.parametrize("scene", SCENES)
def test_the_published_folds(scene: str) -> None:
    """Area, share and depth of the old code, within 2 %."""
    folder = scene_of(scene)
    layer = NucleusLayer(f"precomputed://file://{folder}/nuclei")
    for nucleus in json.loads((folder / "tables.json").read_text())["nuclei"]:
        expected = expected_of(scene, nucleus["id"])
        folds = measure_folds(layer.mesh(nucleus["id"]))
        assert folds.area_um2 == pytest.approx(expected["fold_area_nm"] / 1e6, rel=0.02)
        assert folds.fraction == pytest.approx(expected["fract_fold"], rel=0.02)
        assert folds.mean_depth_nm == pytest.approx(expected["avg_fold_depth"], rel=0.02)
