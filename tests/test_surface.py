"""The surface of a mask: zmesh's triangles, and fewer of them after simplification."""

import numpy as np
import pytest
import trimesh
import zmesh
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from volumes import ellipsoid

from somatic.geometry.bitmask import BitMask
from somatic.geometry.marching_cubes import surface
from somatic.geometry.mesh import is_consistent
from somatic.geometry.simplify import simplify

RESOLUTION = np.array([64.0, 64.0, 40.0])


def triangles(vertices: np.ndarray, faces: np.ndarray) -> set[tuple]:
    """Every triangle by the places of its corners, in halves of a voxel, from the least one on."""
    twice = np.rint(2 * vertices).astype(int)[faces.astype(int)]
    first = [min(range(3), key=triangle.__getitem__) for triangle in twice.tolist()]
    return {tuple(map(tuple, np.roll(triangle, -n, axis=0).tolist())) for triangle, n in zip(twice, first, strict=True)}


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.tuples(st.sampled_from([2, 7, 64, 65, 66, 129]), st.integers(2, 6), st.integers(2, 6)),
    st.integers(0, 1000),
    st.sampled_from([0.02, 0.3, 0.5, 0.7, 0.97]),
)
def test_the_triangles_of_zmesh(shape: tuple[int, int, int], seed: int, share: float) -> None:
    """The same ones, pointing the same way, whatever the mask, also where it touches a face of the box."""
    mask = np.random.default_rng(seed).random(shape) < share
    vertices, faces = surface(BitMask.of(mask))
    mesher = zmesh.Mesher((1, 1, 1))
    mesher.mesh(mask.transpose(2, 1, 0), close=False)
    expected = mesher.get(1, reduction_factor=0)
    if not mask.any() or mask.all():
        assert (len(vertices), len(faces)) == (0, 0)
        return
    found = triangles(vertices, faces)
    assert found == triangles(expected.vertices[:, ::-1], expected.faces[:, ::-1])
    assert len(found) == len(faces)
    # Each vertex once, and none that no face has.
    assert len(np.unique(vertices, axis=0)) == len(vertices) == len(np.unique(faces))


def blobs(seed: int) -> np.ndarray:
    """Rough pieces of tissue with handles and islands, clear of the faces of the box."""
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal((80, 70, 90)), (3, 3, 5))
    return np.pad(noise > 0.6 * noise.std(), 2)


@pytest.mark.parametrize("seed", range(4))
def test_what_simplification_keeps(seed: int) -> None:
    """Closed, as many pieces and handles, the surface less than 1 nm off on average, and far fewer vertices."""
    vertices, faces = surface(BitMask.of(blobs(seed)))
    fine = trimesh.Trimesh(vertices * RESOLUTION, faces, process=False)
    coarse = trimesh.Trimesh(*simplify(vertices * RESOLUTION, faces), process=False)
    assert is_consistent(coarse)
    assert coarse.body_count == fine.body_count
    assert coarse.euler_number == fine.euler_number
    assert len(coarse.vertices) < 0.4 * len(fine.vertices)
    assert len(np.unique(coarse.faces)) == len(coarse.vertices)
    assert abs(coarse.volume - fine.volume) < 1.0 * fine.area
    assert coarse.area == pytest.approx(fine.area, rel=0.02)


def test_the_density_of_the_published_meshes() -> None:
    """In its place in a cutout of 15 um a body keeps as many vertices as zmesh leaves, and its area."""
    mask = ellipsoid((469, 469, 750), RESOLUTION, (2500, 3000, 2750))
    vertices, faces = surface(BitMask.of(mask))
    found = trimesh.Trimesh(*simplify(vertices * RESOLUTION, faces), process=False)
    mesher = zmesh.Mesher(tuple(RESOLUTION[::-1]))
    mesher.mesh(mask.transpose(2, 1, 0), close=False)
    expected = mesher.get(1, reduction_factor=100, max_error=8)
    area = trimesh.Trimesh(expected.vertices.astype(float), expected.faces.astype(int), process=False).area
    assert len(found.vertices) == pytest.approx(len(expected.vertices), rel=0.15)
    assert found.area == pytest.approx(area, rel=0.005)


@pytest.mark.parametrize("seed", [1, 3])
def test_synapses_on_a_bumpy_body(seed: int) -> None:
    """As many points near its surface lie within 150 nm of a vertex as with zmesh's, on other bodies."""
    rng = np.random.default_rng(seed)
    shape = np.array([200, 200, 300])
    half = shape * RESOLUTION / 2
    at = [n * size - h for n, size, h in zip(np.indices(shape, sparse=True), RESOLUTION, half, strict=True)]
    radius_nm = np.full(shape, rng.uniform(3500, 4500))
    for wave_nm, height_nm in zip(rng.uniform(800, 6000, 8), rng.uniform(20, 300, 8), strict=True):
        direction = rng.normal(size=3)
        direction *= 2 * np.pi / wave_nm / np.linalg.norm(direction)
        radius_nm += height_nm * np.sin(sum(d * x for d, x in zip(direction, at, strict=True)) + rng.uniform(0, 6))
    mask = np.sqrt(sum(x**2 for x in at)) < radius_nm
    vertices, faces = surface(BitMask.of(mask))
    found = trimesh.Trimesh(*simplify(vertices * RESOLUTION, faces), process=False)
    mesher = zmesh.Mesher(tuple(RESOLUTION[::-1]))
    mesher.mesh(mask.transpose(2, 1, 0), close=False)
    mesh = mesher.get(1, reduction_factor=100, max_error=8)
    expected = trimesh.Trimesh(mesh.vertices[:, ::-1].astype(float), mesh.faces[:, ::-1].astype(int), process=False)
    points, face = trimesh.sample.sample_surface(expected, 5000, seed=seed)
    points += expected.face_normals[face] * rng.uniform(-100, 180, (len(points), 1))
    near, near_expected = (
        np.count_nonzero(cKDTree(body.vertices).query(points)[0] < 150) for body in (found, expected)
    )
    assert near == pytest.approx(near_expected, rel=0.02)
    assert found.area == pytest.approx(expected.area, rel=0.005)
    assert found.volume == pytest.approx(expected.volume, rel=0.001)


def test_a_flat_side_needs_no_vertices() -> None:
    """Of a block only its rounded edges are left: the same bounds and volume with a hundredth of the vertices."""
    mask = np.zeros((74, 64, 104), bool)
    mask[5:69, 4:60, 3:99] = True
    vertices, faces = surface(BitMask.of(mask))
    block = trimesh.Trimesh(vertices * RESOLUTION, faces, process=False)
    found = trimesh.Trimesh(*simplify(vertices * RESOLUTION, faces), process=False)
    assert len(found.vertices) < 0.03 * len(block.vertices)
    np.testing.assert_allclose(found.bounds, block.bounds, rtol=0, atol=1)
    assert abs(found.volume - block.volume) < 1.0 * block.area


def test_a_border_stays() -> None:
    """Where a mesh is open it is open afterwards, at the same vertices."""
    mask = np.zeros((40, 30, 30), bool)
    mask[:25] = ellipsoid((25, 30, 30), (1, 1, 1), (25, 11, 11), (0, 15, 15))
    vertices, faces = surface(BitMask.of(mask))
    open_mesh = trimesh.Trimesh(vertices * 100.0, faces, process=False)
    found = trimesh.Trimesh(*simplify(vertices * 100.0, faces), process=False)

    def border(mesh: trimesh.Trimesh) -> set[tuple]:
        edges = mesh.edges[trimesh.grouping.group_rows(mesh.edges_sorted, require_count=1)]
        return set(map(tuple, mesh.vertices[edges.ravel()].tolist()))

    assert border(open_mesh)
    assert border(found) == border(open_mesh)
    assert len(found.vertices) < len(open_mesh.vertices)


def test_the_smallest_surfaces() -> None:
    """A voxel, two that touch at a corner, and nothing: as they are."""
    for voxels, n_vertices in (([], 0), ([(2, 2, 2)], 6), ([(2, 2, 2), (3, 3, 3)], 12)):
        mask = np.zeros((6, 6, 6), bool)
        for voxel in voxels:
            mask[voxel] = True
        vertices, faces = surface(BitMask.of(mask))
        simplified, simplified_faces = simplify(vertices * RESOLUTION, faces)
        assert len(simplified) == len(vertices) == n_vertices
        np.testing.assert_array_equal(simplified_faces, faces)
