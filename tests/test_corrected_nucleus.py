"""Size and shape of nuclei from their volume, against ellipsoids."""

import numpy as np
import pytest
import trimesh

from sandbox.bodies import ellipsoid_area_um2, ellipsoid_volume_um3, turned
from somatic.corrected.nucleus import measure_nucleus
from somatic.errors import DegenerateMesh

RESOLUTION = np.array([64.0, 64, 40])


def ellipsoid(axes_nm: tuple, seed: int, subdivisions: int = 5, centre: tuple = (0, 0, 0)) -> trimesh.Trimesh:
    """A turned ellipsoid."""
    sphere = trimesh.creation.icosphere(subdivisions)
    vertices = sphere.vertices * np.array(axes_nm, float) @ turned(seed) + centre
    return trimesh.Trimesh(vertices, sphere.faces, process=False)


@pytest.mark.parametrize("axes_nm", [(3000, 3000, 3000), (2500, 3500, 5000), (1000, 1200, 1500)])
@pytest.mark.parametrize("centre", [(0, 0, 0), (1_000_003, -50_001, 700_007)])
def test_size_and_shape(axes_nm: tuple, centre: tuple) -> None:
    """Volume, area, radius, axes and centre of ellipsoids."""
    _, row = measure_nucleus(ellipsoid(axes_nm, 3, 6, centre), RESOLUTION)
    assert row["nucleus_volume_um"] == pytest.approx(ellipsoid_volume_um3(axes_nm), rel=0.004)
    assert row["nucleus_area_um"] == pytest.approx(ellipsoid_area_um2(axes_nm), rel=0.01)
    assert row["nucleus_avg_radius_nm"] == pytest.approx(np.prod(axes_nm) ** (1 / 3), rel=0.002)
    shortest, middle, longest = sorted(axes_nm)
    assert row["nucleus_aspect_ratio"] == pytest.approx(longest / ((shortest + middle) / 2), rel=0.01)
    assert [row[f"nucleus_center_{axis}_nm"] for axis in "xyz"] == pytest.approx(centre, abs=5)


def test_density_makes_no_difference() -> None:
    """The same body with 2,562 evenly laid vertices, and with a hundred times as many on one side."""
    body = ellipsoid((2500, 3000, 4500), 1, 4)
    dense = body.vertices[body.faces][:, :, 0].mean(axis=1) > 0
    finer = body
    for _ in range(3):
        vertices, faces = trimesh.remesh.subdivide(finer.vertices, finer.faces, np.flatnonzero(dense))
        finer = trimesh.Trimesh(vertices, faces, process=False)
        dense = finer.vertices[finer.faces][:, :, 0].mean(axis=1) > 0
    assert len(finer.vertices) > 30 * len(body.vertices)
    _, row = measure_nucleus(body, RESOLUTION)
    _, other = measure_nucleus(finer, RESOLUTION)
    for name, value in row.items():
        assert other[name] == pytest.approx(value, rel=1e-6), name


def test_fine_voxels_are_taken_together() -> None:
    """A layer of 4 x 4 x 40 nm gives what one of 28 x 28 x 40 nm does, in its memory."""
    body = ellipsoid((2500, 3000, 4500), 2)
    _, fine = measure_nucleus(body, np.array([4.0, 4, 40]))
    _, coarse = measure_nucleus(body, np.array([28.0, 28, 40]))
    assert fine == coarse


@pytest.mark.parametrize("size_nm", [(0, 0, 0), (5000, 5000, 0), (20, 20, 20), (5000, 30, 30)])
def test_too_small_for_a_surface(size_nm: tuple) -> None:
    """Flat, tiny and thin ones are refused with a reason."""
    box = trimesh.creation.box((1, 1, 1))
    box = trimesh.Trimesh(box.vertices * size_nm, box.faces, process=False)
    with pytest.raises(DegenerateMesh, match="too few for a surface"):
        measure_nucleus(box, RESOLUTION)
