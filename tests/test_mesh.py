"""Meshes of masks whose volume, area and place are known without code."""

import numpy as np
import pytest
import trimesh
from volumes import ellipsoid

from somatic.errors import DegenerateMesh
from somatic.geometry.bitmask import BitMask
from somatic.geometry.mesh import largest_piece, mask_to_mesh
from somatic.measures import measure

RESOLUTIONS = [(64, 64, 40), (256, 256, 200), (100, 100, 100), (9.7, 9.7, 45)]
ORIGINS = [(0, 0, 0), (1_234_567, -2_345_678, 987_654.5)]


def mesh_of(mask: np.ndarray, resolution_nm: tuple, origin_nm: tuple = (0, 0, 0)) -> trimesh.Trimesh:
    """Mesh of a mask that is one piece."""
    mesh, n_pieces = largest_piece(
        mask_to_mesh(BitMask.of(mask), np.array(resolution_nm, float), np.array(origin_nm, float))
    )
    assert n_pieces == 1
    return mesh


@pytest.mark.parametrize("resolution", RESOLUTIONS)
@pytest.mark.parametrize("origin", ORIGINS)
def test_a_sphere(resolution: tuple, origin: tuple) -> None:
    """Volume within 1 % of 4/3 pi r^3, centre within a twentieth of a voxel, shape factor above that of a sphere."""
    radius = 15 * max(resolution)
    shape = [int(2 * radius / r) + 6 for r in resolution]
    middle = np.array([n // 2 * r for n, r in zip(shape, resolution, strict=True)])
    mesh = mesh_of(ellipsoid(shape, resolution, [radius] * 3), resolution, origin)
    found = measure(mesh)
    volume, area = 4 / 3 * np.pi * radius**3 / 1e9, 4 * np.pi * radius**2 / 1e6
    assert mesh.is_watertight
    assert found.volume_um3 == pytest.approx(volume, rel=0.01)
    np.testing.assert_allclose(found.centre_nm, middle + origin, rtol=0, atol=max(resolution) / 20)
    # Marching cubes make steps: 7 to 9 % more area on cubes, up to 18 % on long voxels, never less.
    assert 1.05 * area < found.area_um2 < 1.18 * area
    expected_ratio = found.area_um2 / found.volume_um3 * (3 * found.volume_um3 / (4 * np.pi)) ** (1 / 3) / 3
    assert found.area_to_volume == pytest.approx(expected_ratio)
    assert 1.05 < found.area_to_volume < 1.18


def test_the_area_of_a_sphere_on_minnie65() -> None:
    """About 10 % too large at 64 x 64 x 40 nm (definitions.md, known faults)."""
    radius = 5000.0
    mesh = mesh_of(ellipsoid((164, 164, 256), (64, 64, 40), [radius] * 3), (64, 64, 40))
    found = measure(mesh)
    assert found.volume_um3 == pytest.approx(4 / 3 * np.pi * 125, rel=0.005)
    assert found.area_um2 / (4 * np.pi * 25) == pytest.approx(1.10, abs=0.015)


@pytest.mark.parametrize("semi_axes", [(1500, 3000, 6000), (6000, 1500, 3000), (2000, 2000, 8000)])
@pytest.mark.parametrize("resolution", RESOLUTIONS[:3])
def test_an_ellipsoid(semi_axes: tuple, resolution: tuple) -> None:
    """Volume 4/3 pi a b c within 2 %, its axes along the right axes, within a voxel."""
    shape = [int(2 * a / r) + 6 for a, r in zip(semi_axes, resolution, strict=True)]
    mesh = mesh_of(ellipsoid(shape, resolution, semi_axes), resolution)
    assert measure(mesh).volume_um3 == pytest.approx(4 / 3 * np.pi * np.prod(semi_axes) / 1e9, rel=0.02)
    np.testing.assert_allclose(mesh.extents, 2 * np.array(semi_axes), rtol=0, atol=1.01 * max(resolution))


@pytest.mark.parametrize("resolution", RESOLUTIONS)
@pytest.mark.parametrize("origin", ORIGINS)
def test_a_box_of_voxels(resolution: tuple, origin: tuple) -> None:
    """Faces lie half a voxel outside the outermost voxel centres, which have integer coordinates."""
    mask = np.zeros((34, 30, 40), bool)
    mask[5:29, 6:24, 7:35] = True
    mesh = mesh_of(mask, resolution, origin)
    r = np.array(resolution, float)
    sides = np.array([24, 18, 28]) * r
    # A simplified vertex may stand 8 nm off.
    np.testing.assert_allclose(mesh.bounds[0], (np.array([5, 6, 7]) - 0.5) * r + origin, rtol=0, atol=8)
    np.testing.assert_allclose(mesh.bounds[1], (np.array([28, 23, 34]) + 0.5) * r + origin, rtol=0, atol=8)
    found = measure(mesh)
    # Edges and corners are cut off, at most half a voxel deep: the volume is that of the box, or up to 2 % less.
    assert 0.98 * np.prod(sides) / 1e9 < found.volume_um3 < np.prod(sides) / 1e9
    area = 2 * (sides[0] * sides[1] + sides[1] * sides[2] + sides[0] * sides[2])
    assert 0.93 * area / 1e6 < found.area_um2 < 1.001 * area / 1e6
    np.testing.assert_allclose(found.centre_nm, mesh.bounds.mean(axis=0), rtol=0, atol=max(resolution) / 10)


def test_moving_the_origin_moves_the_mesh() -> None:
    """Far from the origin a mesh has the same measures to the last digits, and its vertices are the same, moved."""
    mask = ellipsoid((40, 40, 60), (64, 64, 40), (1100, 900, 1000))
    near = mesh_of(mask, (64, 64, 40))
    far = mesh_of(mask, (64, 64, 40), ORIGINS[1])
    np.testing.assert_allclose(far.vertices - ORIGINS[1], near.vertices, rtol=0, atol=1e-6)
    a, b = measure(near), measure(far)
    assert b.volume_um3 == pytest.approx(a.volume_um3, rel=1e-9)
    assert b.area_um2 == pytest.approx(a.area_um2, rel=1e-9)
    np.testing.assert_allclose(b.centre_nm - ORIGINS[1], a.centre_nm, rtol=0, atol=1e-6)


def test_measures_of_solids() -> None:
    """Exactly those of a box and, to its 5120 faces, of a sphere; a box that is turned inside out is negative."""
    box = trimesh.creation.box((1000, 2000, 3000)).apply_translation((1e6, 2e6, -3e6))
    found = measure(box)
    assert found.volume_um3 == pytest.approx(6, rel=1e-9)
    assert found.area_um2 == pytest.approx(22, rel=1e-9)
    assert found.area_to_volume == pytest.approx(22 / 6 * (18 / (4 * np.pi)) ** (1 / 3) / 3)
    np.testing.assert_allclose(found.centre_nm, (1e6, 2e6, -3e6), rtol=0, atol=1e-6)
    assert measure(trimesh.creation.icosphere(4, 1000)).area_to_volume == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("faces", [[[0, 1, 2], [0, 2, 1]], [[0, 1, 2]], [[0, 1, 2], [0, 2, 1], [0, 1, 3], [0, 3, 1]]])
def test_a_flat_mesh_has_no_measures(faces: list) -> None:
    """Closed or not, without a volume there is an error of its own, and no number that is none."""
    vertices = np.array([[0, 0, 0], [100, 0, 0], [0, 100, 0], [90, 70, 0]]) + 1e6
    with pytest.raises(DegenerateMesh, match="flat"):
        measure(trimesh.Trimesh(vertices, faces, process=False))


def test_pieces() -> None:
    """The piece with the most vertices is kept as it is, and all are counted."""
    mask = np.zeros((60, 30, 30), bool)
    mask[3:8, 3:8, 3:8] = True
    mask[12:37, 3:27, 3:27] = ellipsoid((25, 24, 24), (1, 1, 1), (11, 11, 11))
    mask[45:55, 10:20, 10:20] = True
    whole = mask_to_mesh(BitMask.of(mask), np.array([100.0] * 3), np.zeros(3))
    kept, n_pieces = largest_piece(whole)
    assert n_pieces == 3
    assert kept.is_watertight
    assert kept.body_count == 1
    assert measure(kept).volume_um3 == pytest.approx(4 / 3 * np.pi * 1.1**3, rel=0.03)
    in_the_middle = whole.vertices[(whole.vertices[:, 0] > 1000) & (whole.vertices[:, 0] < 4000)]
    np.testing.assert_array_equal(kept.vertices, in_the_middle)


def test_one_piece_stays_as_it_is() -> None:
    """Vertices and faces of a mesh in one piece are not touched: the number of synapses hangs on them."""
    sphere = trimesh.creation.icosphere(3, 1000)
    kept, n_pieces = largest_piece(sphere)
    assert n_pieces == 1
    np.testing.assert_array_equal(kept.vertices, sphere.vertices)
    np.testing.assert_array_equal(kept.faces, sphere.faces)


def test_of_equal_pieces_the_first() -> None:
    """A tie is not decided by chance."""
    two = trimesh.util.concatenate(
        [trimesh.creation.icosphere(2, 100), trimesh.creation.icosphere(2, 100).apply_translation((500, 0, 0))]
    )
    kept, n_pieces = largest_piece(two)
    assert n_pieces == 2
    assert kept.vertices[:, 0].max() < 101


def test_an_empty_mask_has_an_empty_mesh() -> None:
    """No faces and no pieces, and no error."""
    mesh, n_pieces = largest_piece(mask_to_mesh(BitMask.empty((5, 6, 7)), np.ones(3), np.zeros(3)))
    assert (len(mesh.faces), n_pieces) == (0, 0)


def test_a_mask_at_the_face_is_open_there() -> None:
    """What the repair of a mask prevents."""
    mask = np.zeros((20, 20, 20), bool)
    mask[0:10, 5:15, 5:15] = True
    assert not mesh_of(mask, (100, 100, 100)).is_watertight
    assert mesh_of(np.pad(mask, 1), (100, 100, 100)).is_watertight
