"""Voxels inside a mesh, against shapes and against the voxels that a mesh was made of."""

import numpy as np
import pytest
import trimesh

from sandbox.bodies import ellipsoid_voxels, turned
from somatic.geometry.bitmask import BitMask
from somatic.geometry.box import Box
from somatic.geometry.marching_cubes import surface
from somatic.geometry.voxels import voxels_inside


def box_of(shape: tuple, lower: tuple = (0, 0, 0)) -> Box:
    """A box of voxels."""
    return Box(np.array(lower), np.array(lower) + shape)


@pytest.mark.parametrize("resolution", [(64, 64, 40), (100, 30, 45)])
@pytest.mark.parametrize("lower", [(0, 0, 0), (-700, 12_345, 3)])
def test_a_mesh_made_of_voxels_gives_them_back(resolution: tuple, lower: tuple) -> None:
    """Marching cubes around voxels, random ones and a ball, in the volume's coordinates: the same voxels."""
    rng = np.random.default_rng(0)
    for mask in (rng.random((70, 20, 30)) < 0.4, ellipsoid_voxels(np.array([900.0, 1200, 1500]), resolution)[0]):
        padded = np.pad(mask, 1)
        vertices_vx, faces = surface(BitMask.of(padded))
        # The middle of voxel i lies at i + 1/2 of the volume's coordinates; one voxel of margin.
        mesh = trimesh.Trimesh(
            (vertices_vx - 0.5 + np.array(lower)) * np.array(resolution, float), faces, process=False
        )
        np.testing.assert_array_equal(
            voxels_inside(mesh, box_of(mask.shape, lower), np.array(resolution, float)).to_array(), mask
        )


def test_a_turned_ellipsoid() -> None:
    """Its middles of voxels are inside by its equation, but for those nearer than the mesh is fine."""
    axes_nm, resolution = np.array([900.0, 1400, 2000]), np.array([64.0, 64, 40])
    mask, centre_nm = ellipsoid_voxels(axes_nm, resolution, seed=5)
    sphere = trimesh.creation.icosphere(6)
    mesh = trimesh.Trimesh(sphere.vertices * axes_nm @ turned(5) + centre_nm, sphere.faces, process=False)
    found = voxels_inside(mesh, box_of(mask.shape), resolution).to_array()
    assert np.count_nonzero(found != mask) < 0.001 * mask.sum()


@pytest.mark.parametrize("lower", [(-5, -5, -5), (3, 4, 5), (100, 0, 0)])
def test_a_box_that_holds_a_part(lower: tuple) -> None:
    """What lies before the box along x counts for what is inside it; outside of the mesh nothing is."""
    mesh = trimesh.creation.box((1000, 1000, 1000)).apply_translation((500, 500, 500))
    shape = (70, 13, 9)
    found = voxels_inside(mesh, box_of(shape, lower), np.full(3, 100.0)).to_array()
    at = [np.arange(start, start + n) for start, n in zip(lower, shape, strict=True)]
    within = [(a >= 0) & (a < 10) for a in at]
    np.testing.assert_array_equal(found, np.einsum("i,j,k->ijk", *within))


def test_a_hollow_and_nothing() -> None:
    """A cavity is outside; an empty box and an empty mesh have no voxel."""
    outer, inner = (trimesh.creation.box((side,) * 3).apply_translation((500,) * 3) for side in (1000, 400))
    inner.invert()
    hollow = trimesh.util.concatenate(outer, inner)
    found = voxels_inside(hollow, box_of((10, 10, 10)), np.full(3, 100.0)).to_array()
    assert found.sum() == 1000 - 4**3
    assert not found[3:7, 3:7, 3:7].any()
    assert voxels_inside(hollow, box_of((0, 5, 5)), np.full(3, 100.0)).count() == 0
    nothing = trimesh.Trimesh(np.zeros((0, 3)), np.zeros((0, 3), int), process=False)
    assert voxels_inside(nothing, box_of((5, 5, 5)), np.full(3, 100.0)).count() == 0
