"""Meshes of nuclei, whole and broken, in every form that a layer may store them."""

from pathlib import Path

import numpy as np
import pytest
import trimesh
from volumes import cut_by_plane, put_multilod_nuclei, put_nuclei, put_volume

from somatic.errors import DegenerateMesh, MissingNucleusMesh, OpenNucleusMesh, SegmentationError
from somatic.measures import measure
from somatic.nucleus import NucleusLayer, closed
from somatic.published.nucleus import aspect_ratio, mean_radius_nm

RADIUS = 5000.0
ID = 2**53 + 1


def ball(radius_nm: float = RADIUS, centre_nm: tuple = (0, 0, 0), n_subdivisions: int = 4) -> trimesh.Trimesh:
    """A sphere; with 5120 faces its volume is 0.2 % short."""
    return trimesh.creation.icosphere(n_subdivisions, radius_nm).apply_translation(centre_nm)


def without(mesh: trimesh.Trimesh, faces: np.ndarray) -> trimesh.Trimesh:
    """A mesh with some faces taken out."""
    keep = np.ones(len(mesh.faces), bool)
    keep[faces] = False
    return trimesh.Trimesh(mesh.vertices, mesh.faces[keep])


def soup(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """A mesh in which every face has vertices of its own."""
    return trimesh.Trimesh(mesh.triangles.reshape(-1, 3), np.arange(3 * len(mesh.faces)).reshape(-1, 3), process=False)


def volume_of_closed(mesh: trimesh.Trimesh) -> float:
    """Volume after the repair, um^3, for a mesh that needs one."""
    repaired, was_needed = closed(mesh)
    assert was_needed
    assert repaired.is_watertight
    assert repaired.is_winding_consistent
    return measure(repaired).volume_um3


def test_ids_beyond_floats(tmp_path: Path) -> None:
    """Nuclei whose ids differ in the last bit have their own meshes, in nm, within float32."""
    spheres = {ID: [ball(1000, (10_000, 0, 0))], ID - 1: [ball(2000)], 2**63 - 1: [ball(3000)]}
    layer = NucleusLayer(put_nuclei(tmp_path, spheres))
    for nucleus_id, (sphere,) in spheres.items():
        found = layer.mesh(nucleus_id)
        np.testing.assert_allclose(found.bounds, sphere.bounds, atol=1e-3)
        assert found.is_watertight


def test_fragments_are_joined(tmp_path: Path) -> None:
    """A nucleus in two fragments whose faces share no vertices is one closed mesh, with no vertex twice."""
    sphere = ball()
    upper = sphere.triangles_center[:, 2] > 300
    parts = [soup(without(sphere, np.flatnonzero(half))) for half in (upper, ~upper)]
    found = NucleusLayer(put_nuclei(tmp_path, {ID: parts})).mesh(ID)
    assert found.is_watertight
    assert len(found.vertices) == len(sphere.vertices)
    assert closed(found)[1] is False


@pytest.mark.parametrize("sharded", [False, True])
def test_multi_resolution_meshes(tmp_path: Path, sharded: bool) -> None:
    """Draco fragments of a multi-resolution mesh are joined to one closed mesh, in its place."""
    sphere = ball(centre_nm=(100, -300, 50))
    layer = NucleusLayer(put_multilod_nuclei(tmp_path, ID, sphere, sharded=sharded))
    found = layer.mesh(ID)
    assert found.is_watertight
    # 16 bits on 10 um are 0.15 nm.
    assert measure(found).volume_um3 == pytest.approx(sphere.volume / 1e9, rel=1e-4)
    np.testing.assert_allclose(measure(found).centre_nm, (100, -300, 50), atol=0.5)
    with pytest.raises(MissingNucleusMesh, match="77"):
        layer.mesh(77)


def test_a_nucleus_without_a_mesh(tmp_path: Path) -> None:
    """No manifest, or a mesh without faces: an error that names the nucleus, and no place (a row has none)."""
    empty = trimesh.Trimesh(np.zeros((0, 3)), np.zeros((0, 3), int))
    url = put_nuclei(tmp_path, {5: [empty], ID: [ball()]})
    layer = NucleusLayer(url)
    for nucleus_id in (4, 5, ID + 1):
        with pytest.raises(MissingNucleusMesh, match=str(nucleus_id)) as caught:
            layer.mesh(nucleus_id)
        assert str(tmp_path) not in str(caught.value)


def test_a_layer_without_meshes(tmp_path: Path) -> None:
    """Said when the layer is opened."""
    with pytest.raises(SegmentationError, match="no mesh"):
        NucleusLayer(put_volume(tmp_path, np.ones((8, 8, 8), np.uint64)))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("side", ["lower", "upper"])
@pytest.mark.parametrize(("gap_nm", "is_clipped"), [(0, True), (2990, True), (3010, False)])
def test_clipped(tmp_path: Path, axis: int, side: str, gap_nm: float, is_clipped: bool) -> None:
    """A nucleus less than 3 um from one face of the layer is clipped, farther from all of them it is not."""
    layer = NucleusLayer(put_nuclei(tmp_path, {}, lower_nm=(-40_000, 10_000, 0), upper_nm=(20_000, 60_000, 50_000)))
    centre = np.array([-10_000.0, 35_000, 25_000])
    face = (layer.lower_nm if side == "lower" else layer.upper_nm)[axis]
    centre[axis] = face + (RADIUS + gap_nm) * (1 if side == "lower" else -1)
    assert layer.is_clipped(ball(centre_nm=tuple(centre))) is is_clipped


def test_a_whole_mesh_is_left_alone() -> None:
    """Not repaired: the same object."""
    sphere = ball()
    assert closed(sphere) == (sphere, False)


def test_small_holes() -> None:
    """Forty missing faces change the volume by less than 0.1 %."""
    sphere = ball()
    missing = np.random.default_rng(0).choice(len(sphere.faces), 40, replace=False)
    assert volume_of_closed(without(sphere, missing)) == pytest.approx(sphere.volume / 1e9, rel=1e-3)


@pytest.mark.parametrize("height_nm", [500, 2000, 5000])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_nucleus_cut_by_the_volume(height_nm: float, axis: int) -> None:
    """Cut flat, up to its middle, it is closed flat: 4/3 pi r^3 less the cap pi h^2 (3 r - h) / 3."""
    normal = -np.eye(3)[axis]
    cut = cut_by_plane(ball(n_subdivisions=5), normal, -normal * (RADIUS - height_nm))
    expected = 4 / 3 * np.pi * RADIUS**3 - np.pi * height_nm**2 * (3 * RADIUS - height_nm) / 3
    assert volume_of_closed(cut) == pytest.approx(expected / 1e9, rel=2e-3)


def test_several_large_holes() -> None:
    """Three caps off a sphere, each cut flat."""
    cut = ball(n_subdivisions=5)
    for axis in range(3):
        cut = cut_by_plane(cut, -np.eye(3)[axis], np.eye(3)[axis] * 4000)
    expected = 4 / 3 * np.pi * 125 - 3 * np.pi * (15 - 1) / 3
    assert volume_of_closed(cut) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("share", [0.01, 0.1])
def test_ragged_holes(share: float) -> None:
    """Holes that meet in a vertex, with ears and islands: a tenth of the faces gone costs less than 1 % of volume."""
    sphere = ball(n_subdivisions=5)
    missing = np.random.default_rng(1).random(len(sphere.faces)) < share
    assert volume_of_closed(without(sphere, missing)) == pytest.approx(sphere.volume / 1e9, rel=0.01)
    caps = (np.abs(sphere.triangles_center) > 4500).any(axis=1)
    height = 500
    expected = 4 / 3 * np.pi * 125 - 6 * np.pi * (height / 1000) ** 2 * (15 - height / 1000) / 3
    assert volume_of_closed(without(sphere, caps)) == pytest.approx(expected, rel=0.01)


def test_two_holes_that_meet_in_a_vertex() -> None:
    """Opposite faces of one vertex missing."""
    sphere = ball()
    around = [face for face in sphere.vertex_faces[100] if face >= 0]
    assert volume_of_closed(without(sphere, np.array([around[0], around[3]]))) == pytest.approx(
        sphere.volume / 1e9, rel=1e-3
    )


def test_faces_stored_twice() -> None:
    """They count once."""
    sphere = ball()
    doubled = trimesh.Trimesh(sphere.vertices, np.vstack([sphere.faces, sphere.faces[:7]]))
    assert not doubled.is_watertight
    assert volume_of_closed(doubled) == pytest.approx(sphere.volume / 1e9)


def test_a_fin_on_the_surface() -> None:
    """A face that hangs on an edge of two others does not keep the mesh from being closed."""
    sphere = ball()
    a, b, _ = sphere.faces[0]
    vertices = np.vstack([sphere.vertices, sphere.vertices[a] * 1.2])
    finned = trimesh.Trimesh(vertices, np.vstack([sphere.faces, [[a, b, len(sphere.vertices)]]]))
    assert volume_of_closed(finned) == pytest.approx(sphere.volume / 1e9, rel=2e-3)


def test_of_several_bodies_the_largest() -> None:
    """When a mesh has to be repaired, a crumb beside it is dropped; when it is closed, all of it is kept."""
    crumb = ball(1000, (9000, 0, 0), 3)
    both = trimesh.util.concatenate([ball(), crumb])
    kept, was_needed = closed(both)
    assert not was_needed
    assert kept.body_count == 2
    opened = trimesh.util.concatenate([crumb, without(ball(), np.array([5]))])
    assert volume_of_closed(opened) == pytest.approx(ball().volume / 1e9, rel=1e-3)
    assert closed(opened)[0].body_count == 1


@pytest.mark.parametrize("is_open", [False, True])
def test_a_mesh_that_is_inside_out(is_open: bool) -> None:
    """Its volume is positive and its measures are those of the other winding."""
    sphere = without(ball(), np.arange(3)) if is_open else ball()
    inverted = sphere.copy()
    inverted.invert()
    found, expected = measure(closed(inverted)[0]), measure(closed(sphere)[0])
    assert found.volume_um3 == pytest.approx(expected.volume_um3)
    assert found.area_to_volume == pytest.approx(expected.area_to_volume)
    np.testing.assert_allclose(found.centre_nm, expected.centre_nm, atol=1e-6)


def test_faces_of_both_windings() -> None:
    """A mesh whose fragments are wound differently has the volume of the whole."""
    sphere = ball(n_subdivisions=3)
    faces = sphere.faces.copy()
    faces[:300] = faces[:300, ::-1]
    mixed = trimesh.Trimesh(sphere.vertices, faces, process=False)
    assert measure(closed(mixed)[0]).volume_um3 == pytest.approx(sphere.volume / 1e9)


def test_the_repair_leaves_its_input_alone() -> None:
    """The mesh that was read stays as it was."""
    cut = without(ball(), np.arange(5))
    before = cut.vertices.copy(), cut.faces.copy()
    closed(cut)
    np.testing.assert_array_equal(cut.vertices, before[0])
    np.testing.assert_array_equal(cut.faces, before[1])


def test_what_cannot_be_closed() -> None:
    """A single face has no volume, and of three faces round one edge nothing is left: permanent errors."""
    with pytest.raises(DegenerateMesh):
        measure(closed(trimesh.Trimesh([[0, 0, 0], [9, 0, 0], [0, 9, 0]], [[0, 1, 2]]))[0])
    book = trimesh.Trimesh(
        [[0, 0, 0], [0, 0, 9], [9, 0, 0], [0, 9, 0], [-9, -9, 0]], [[0, 1, 2], [0, 1, 3], [0, 1, 4]], process=False
    )
    with pytest.raises(OpenNucleusMesh):
        closed(book)


@pytest.mark.parametrize("centre", [(0, 0, 0), (1e6, -2e6, 3e5)])
def test_radius_and_aspect_ratio(centre: tuple) -> None:
    """1 and r for a sphere; for axes 3, 2, 1 the covariances are as 9, 4, 1, so 9 / 2.5 = 3.6, wherever it lies."""
    sphere = ball(centre_nm=centre)
    assert mean_radius_nm(sphere, np.array(centre)) == pytest.approx(RADIUS, rel=1e-6)
    assert aspect_ratio(sphere) == pytest.approx(1, abs=1e-6)
    stretched = trimesh.Trimesh(ball().vertices * (3, 1, 2) + centre, sphere.faces, process=False)
    assert aspect_ratio(stretched) == pytest.approx(3.6, rel=1e-3)
