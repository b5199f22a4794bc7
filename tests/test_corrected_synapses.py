"""Synapses by their distance to a surface, against trimesh and against spheres."""

import numpy as np
import pandas as pd
import pytest
import trimesh

from somatic import corrected, published
from somatic.synapses import synapse_columns
from somatic.tables import Synapses, synapses_from_raw

ROOT = 864691135012345679


def synapses_at(points_nm: np.ndarray, sizes: list | None = None) -> Synapses:
    """Synapses with their ctr_pt there."""
    raw = pd.DataFrame({"id": np.arange(1, len(points_nm) + 1), "pre_pt_root_id": 7, "post_pt_root_id": ROOT})
    for axis, name in enumerate("xyz"):
        raw[f"ctr_pt_position_{name}"] = points_nm[:, axis]
    if sizes is not None:
        raw["size"] = sizes
    return synapses_from_raw(raw, resolution_nm=(1, 1, 1), where="synapses")


@pytest.mark.parametrize("edge_nm", [2500.0, 900.0, 300.0])
@pytest.mark.parametrize("centre", [(0, 0, 0), (1e6, -2e5, 3e6)])
def test_recall_at_every_distance(edge_nm: float, centre: tuple) -> None:
    """Off flat faces of any size all synapses within 150 nm are found and none beyond; of vertices few are near."""
    box = trimesh.creation.box((5000, 5000, 5000)).subdivide_to_size(edge_nm).apply_translation(centre)
    rng = np.random.default_rng(0)
    points = rng.uniform(-2000, 2000, (400, 3))
    axis = rng.integers(0, 3, 400)
    side = rng.choice([-1, 1], 400)
    for distance_nm in (-149, -20, 0, 20, 100, 149):
        points[np.arange(400), axis] = side * (2500 + distance_nm)
        assert corrected.on_soma(synapses_at(points + centre), box).all()
    assert published.on_soma(synapses_at(points + centre), box).mean() < 0.5
    for distance_nm in (-151, 151, 400):
        points[np.arange(400), axis] = side * (2500 + distance_nm)
        assert not corrected.on_soma(synapses_at(points + centre), box).any()


def test_against_trimesh() -> None:
    """Near corners, edges and faces of a ragged body: the distance that trimesh finds, to every point."""
    body = trimesh.creation.icosphere(3, 1000)
    rng = np.random.default_rng(1)
    body.vertices = np.rint(body.vertices * rng.uniform(0.8, 1.2, (len(body.vertices), 1)))
    points = np.rint(rng.standard_normal((3000, 3)) * 700)
    distance_nm = np.abs(_distance(body, points))
    found = corrected.on_soma(synapses_at(points), body)
    sure = np.abs(distance_nm - 150) > 1e-3
    assert 100 < found.sum() < 2900
    np.testing.assert_array_equal(found[sure], (distance_nm < 150)[sure])


def test_degenerate_faces_and_no_synapses() -> None:
    """A face without area is a line or a point; a mesh without faces has nothing near it."""
    line = trimesh.Trimesh([[0, 0, 0], [1000, 0, 0], [500, 0, 0]], [[0, 1, 2]], process=False)
    points = np.array([[250.0, 149, 0], [250, 0, 151], [1149, 0, 0]])
    assert corrected.on_soma(synapses_at(points), line).tolist() == [True, False, True]
    assert corrected.on_soma(synapses_at(points[:0]), line).tolist() == []
    nothing = trimesh.Trimesh(np.zeros((0, 3)), np.zeros((0, 3), int), process=False)
    assert not corrected.on_soma(synapses_at(points), nothing).any()


def test_sizes() -> None:
    """Sum and mean of those on the soma; null where the table has none, the mean also where there is no synapse."""
    some = synapses_at(np.zeros((4, 3)), [1, 10, 100, 1000])
    of_two = synapse_columns(some, np.array([False, True, False, True]))
    assert of_two == {"soma_synapse_number": 2, "soma_synapse_size_sum": 1010.0, "soma_synapse_size_mean": 505.0}
    of_none = synapse_columns(some, np.zeros(4, bool))
    assert of_none == {"soma_synapse_number": 0, "soma_synapse_size_sum": 0.0, "soma_synapse_size_mean": None}
    without = synapse_columns(synapses_at(np.zeros((4, 3))), np.ones(4, bool))
    assert without == {"soma_synapse_number": 4, "soma_synapse_size_sum": None, "soma_synapse_size_mean": None}


def _distance(mesh: trimesh.Trimesh, points: np.ndarray) -> np.ndarray:
    """The least distance to any face, all of them tried."""
    triangles = np.asarray(mesh.triangles)
    least = np.full(len(points), np.inf)
    for triangle in triangles:
        nearest = trimesh.triangles.closest_point(np.broadcast_to(triangle, (len(points), 3, 3)), points)
        least = np.minimum(least, np.linalg.norm(points - nearest, axis=1))
    return least
