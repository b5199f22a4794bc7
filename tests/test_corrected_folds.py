"""Infolding below a smooth envelope: of bodies whose folds are known, however they are turned and meshed."""

import json
from functools import cache

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation
from shared import SCENES, scene_of

from sandbox.bodies import NUCLEUS_NM, groove_outline, infolding_of, revolved, sphere_outline
from somatic.corrected.folds import Infolding, fold_depth_nm, measure_infolding
from somatic.nucleus import NucleusLayer

BALL = 2000.0
FOLDED = 150.0
N_ARC = 2001
FAR = np.array([1e6, -2e6, 3e6])
GROOVE = {"depth_nm": 1200.0, "width_nm": 350.0}
TUBE = {"radius_nm": 300.0, "depth_nm": 2500.0, "rim_nm": 60.0}


def turned(mesh: trimesh.Trimesh, seed: int, shift_nm: np.ndarray | float = 0) -> trimesh.Trimesh:
    """A mesh after a random rotation and a shift."""
    rotation = Rotation.random(random_state=seed).as_matrix()
    return trimesh.Trimesh(mesh.vertices @ rotation.T + shift_nm, mesh.faces, process=False)


def pit_outline(depth_nm: float, width_nm: float) -> np.ndarray:
    """Outline of a sphere with a pit at its top."""
    return sphere_outline(lambda along: depth_nm * np.exp(-((along / width_nm) ** 2)))


def arc(centre: tuple[float, float], radius_nm: float, start: float, end: float) -> np.ndarray:
    """Points of a circle, from one angle to another."""
    angle = np.linspace(start, end, N_ARC)
    return np.array(centre) + radius_nm * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def tube_outline(radius_nm: float, depth_nm: float, rim_nm: float) -> np.ndarray:
    """Outline of a sphere with a round hole along its axis, with a half sphere as its bottom and a round rim."""
    rim = rim_centre(radius_nm, rim_nm)
    end = NUCLEUS_NM - depth_nm
    bottom = arc((0, end + radius_nm), radius_nm, -np.pi / 2, 0)
    outside = np.arctan2(rim[1], rim[0])
    return np.vstack([bottom, arc(rim, rim_nm, np.pi, outside), arc((0, 0), NUCLEUS_NM, outside, -np.pi / 2)])


def rim_centre(radius_nm: float, rim_nm: float) -> tuple[float, float]:
    """Centre of the round rim of a hole: it touches the wall and, from inside, the sphere."""
    across = radius_nm + rim_nm
    return across, np.sqrt((NUCLEUS_NM - rim_nm) ** 2 - across**2)


def ball_on_a_rim(radius_nm: float, rim_nm: float) -> float:
    """Height of the centre of the ball where it lies on the round rim of a hole."""
    across, height = rim_centre(radius_nm, rim_nm)
    return height + np.sqrt((BALL + rim_nm) ** 2 - across**2)


def top_of_fold(radius_nm: float, rim_nm: float) -> float:
    """Height below which the wall of a hole is folded."""
    return ball_on_a_rim(radius_nm, rim_nm) - np.sqrt((BALL + FOLDED) ** 2 - radius_nm**2)


def pitted(n_pits: int, depth_nm: float, width_nm: float) -> trimesh.Trimesh:
    """A sphere with pits at the first of the 12 corners of an icosahedron, the profile of each a Gaussian."""
    sphere = trimesh.creation.icosphere(6)
    corners = trimesh.creation.icosahedron().vertices[:n_pits]
    along = NUCLEUS_NM * np.arccos(np.clip(sphere.vertices @ corners.T, -1, 1))
    depth = depth_nm * np.exp(-((along / width_nm) ** 2)).sum(axis=1)
    return trimesh.Trimesh(sphere.vertices * (NUCLEUS_NM - depth)[:, None], sphere.faces, process=False)


def assert_near(measured: Infolding, expected: Infolding, rel: float = 0.02) -> None:
    """All measures but the count are the same but for a share."""
    assert measured.area_um2 == pytest.approx(expected.area_um2, rel=rel)
    assert measured.fraction == pytest.approx(expected.fraction, rel=rel)
    assert measured.mean_depth_nm == pytest.approx(expected.mean_depth_nm, rel=rel)
    assert measured.depth_95_nm == pytest.approx(expected.depth_95_nm, rel=rel)


SMOOTH = Infolding(0, 0, None, None, 0)


@pytest.mark.parametrize(
    ("axes_nm", "n_subdivisions"),
    [
        ((500, 500, 500), 3),
        ((5000, 5000, 5000), 3),
        ((5000, 5000, 5000), 6),
        ((12_500, 12_500, 12_500), 4),
        ((4000, 5000, 6500), 4),
        ((3000, 3000, 9000), 5),
        ((5000, 5000, 1000), 5),
        ((300, 400, 650), 2),
    ],
)
def test_convex_nuclei_have_no_folds(axes_nm: tuple, n_subdivisions: int) -> None:
    """Round, long and flat, small and large, coarse and fine: no area, no depth (null, not NaN) and no count."""
    smooth = trimesh.creation.icosphere(n_subdivisions)
    smooth = turned(trimesh.Trimesh(smooth.vertices * axes_nm, smooth.faces, process=False), 3, FAR)
    assert measure_infolding(smooth) == SMOOTH
    assert fold_depth_nm(smooth).max() < 20


def test_faces_larger_than_the_ball() -> None:
    """A box of 12 faces has no fold; with a slit of 400 nm it has one, and its walls are as deep as they lie."""
    assert measure_infolding(trimesh.creation.box((9000, 9000, 6000))) == SMOOTH
    # The outline of a box with a slit from above, 3 um deep, and 18 um of it.
    x = np.array([-4000, 4000, 4000, 200, 200, -200, -200, -4000.0])
    z = np.array([-3000, -3000, 3000, 3000, 0, 0, 3000, 3000.0])
    corners = np.stack([np.tile(x, 2), np.repeat([-9000, 9000.0], 8), np.tile(z, 2)], axis=1)
    front = np.array([[0, 1, 4], [1, 2, 3], [1, 3, 4], [0, 4, 5], [0, 5, 7], [5, 6, 7]])
    index = np.arange(8)
    following = np.roll(index, -1)
    sides = np.vstack([np.stack([following, index, index + 8], 1), np.stack([following, index + 8, following + 8], 1)])
    box = trimesh.Trimesh(corners, np.vstack([front, front[:, ::-1] + 8, sides]), process=False)
    assert box.is_volume
    fine = trimesh.Trimesh(*trimesh.remesh.subdivide_to_size(corners, box.faces, 300), process=True)
    in_slit = (np.abs(fine.vertices) < (201, 4000, 3001)).all(axis=1) & (fine.vertices[:, 2] > -1)
    across, _, height = fine.vertices[in_slit].T
    # The ball lies on the two edges.
    expected = np.hypot(across, 3000 + np.sqrt(BALL**2 - 200**2) - height) - BALL
    error = fold_depth_nm(fine)[in_slit] - expected
    assert np.abs(error).mean() < 5
    assert np.abs(error).max() < 15
    infolding = measure_infolding(box)
    assert infolding.n_folds == 1
    assert_near(infolding, measure_infolding(fine))


@pytest.mark.parametrize("seed", range(4))
def test_a_ring_with_a_hole_too_small_for_the_ball(seed: int) -> None:
    """Its waist lies as deep as the ball leaves it from both sides."""
    ring, thickness = 3000.0, 2000.0
    mesh = trimesh.creation.torus(ring, thickness, major_sections=200, minor_sections=100)
    ball = np.sqrt((BALL + thickness) ** 2 - ring**2)
    depth = fold_depth_nm(turned(mesh, seed))
    assert depth.max() == pytest.approx(np.hypot(ring - thickness, ball) - BALL, rel=0.01)


OUTLINES = {
    "groove": groove_outline(**GROOVE),
    "narrow groove": groove_outline(600, 200),
    "wide groove": groove_outline(1500, 800),
    "pit": pit_outline(1000, 300),
    "wide pit": pit_outline(2000, 700),
    "tube": tube_outline(**TUBE),
    "narrow tube": tube_outline(150, 1500, 40),
}


@cache
def true_infolding(name: str) -> Infolding:
    """The truth of a body of OUTLINES."""
    return infolding_of(OUTLINES[name])


@pytest.mark.parametrize("name", OUTLINES)
def test_folds_of_known_area_and_depth(name: str) -> None:
    """Area, share, mean depth and 95 % of grooves, pits and tubes, 0.3 to 2 um wide, within 2 %, and one of each."""
    measured = measure_infolding(turned(revolved(OUTLINES[name], 800, 80), 7, FAR))
    assert_near(measured, true_infolding(name))
    assert measured.n_folds == 1


def test_a_tube_in_closed_form() -> None:
    """Wall below 150 nm and half a sphere as bottom; deepest where the ball on the rim is farthest from it.

    So it says too that the truth of the other tests is what it should be.
    """
    radius, rim = TUBE["radius_nm"], TUBE["rim_nm"]
    ball = ball_on_a_rim(radius, rim)
    bottom = NUCLEUS_NM - TUBE["depth_nm"]
    wall = top_of_fold(radius, rim) - (bottom + radius)
    area_um2 = (2 * np.pi * radius * wall + 2 * np.pi * radius**2) / 1e6
    assert true_infolding("tube").area_um2 == pytest.approx(area_um2, rel=1e-3)
    mesh = turned(revolved(OUTLINES["tube"], 500, 100), 5)
    assert measure_infolding(mesh).area_um2 == pytest.approx(area_um2, rel=0.02)
    assert fold_depth_nm(mesh).max() == pytest.approx(ball - bottom - BALL, rel=0.005)


@pytest.mark.parametrize("n_pits", [1, 4, 12])
def test_each_pit_counts(n_pits: int) -> None:
    """As many folds as pits, and as much area, at the depth of one."""
    one = infolding_of(pit_outline(1500, 500))
    measured = measure_infolding(turned(pitted(n_pits, 1500, 500), 2))
    assert measured.n_folds == n_pits
    assert measured.area_um2 == pytest.approx(n_pits * one.area_um2, rel=0.02)
    assert measured.mean_depth_nm == pytest.approx(one.mean_depth_nm, rel=0.02)
    assert measured.depth_95_nm == pytest.approx(one.depth_95_nm, rel=0.02)


def test_a_hollow_that_holds_the_ball_but_does_not_let_it_in() -> None:
    """A chamber 4.6 um wide behind a neck of 0.5 um is folded all over, 2.7 um below the surface all round."""
    neck, chamber, rim = 250.0, 2300.0, 60.0
    walls = arc((0, 0), chamber, -np.pi / 2, np.arccos(neck / chamber))
    tube = tube_outline(neck, 2000, rim)
    flask = np.vstack([walls, tube[N_ARC:]])
    height = walls[-1, 1]
    area = 2 * np.pi * chamber * (height + chamber) + 2 * np.pi * neck * (top_of_fold(neck, rim) - height)
    mesh = turned(revolved(flask, 400, 120), 4)
    assert measure_infolding(mesh).area_um2 == pytest.approx(area / 1e6, rel=0.02)
    assert fold_depth_nm(mesh).max() == pytest.approx(NUCLEUS_NM - chamber, rel=0.005)


def test_shallow_grooves() -> None:
    """Less than 150 nm deep nothing is folded; up to 400 nm there is area, but no fold to count."""
    assert measure_infolding(revolved(groove_outline(140, 300), 400, 100)) == SMOOTH
    shallow = measure_infolding(revolved(groove_outline(350, 300), 400, 100))
    assert shallow.area_um2 > 1
    assert shallow.n_folds == 0


def test_twenty_rotations() -> None:
    """A nucleus with a groove and a tube is the same within 2 % however it is turned, near the origin and far away."""
    groove, tube = OUTLINES["groove"], OUTLINES["tube"]
    both = np.vstack([tube[tube[:, 1] > 0], groove[groove[:, 1] < 0]])
    mesh = revolved(both, 300, 70)
    measured = [measure_infolding(turned(mesh, seed, FAR * (seed % 2))) for seed in range(20)]
    assert {infolding.n_folds for infolding in measured} == {measured[0].n_folds}
    for name in ("area_um2", "fraction", "mean_depth_nm", "depth_95_nm"):
        values = [getattr(infolding, name) for infolding in measured]
        assert max(values) < 1.02 * min(values)


@pytest.mark.parametrize(("n_along", "n_round"), [(241, 50), (500, 200), (2000, 350)])
def test_densities_from_12_000_to_700_000_vertices(n_along: int, n_round: int) -> None:
    """A groove is the same within 2 % of the truth, and so of one another, on coarse and fine meshes."""
    mesh = turned(revolved(OUTLINES["groove"], n_along, n_round), 1)
    assert_near(measure_infolding(mesh), true_infolding("groove"))


def test_vertices_without_a_face() -> None:
    """A vertex that no face has, however far away, is no part of the nucleus."""
    mesh = revolved(OUTLINES["tube"], 300, 60)
    stray = trimesh.Trimesh(np.vstack([mesh.vertices, FAR]), mesh.faces, process=False)
    assert measure_infolding(stray) == measure_infolding(mesh)
    assert fold_depth_nm(stray)[-1] == 0


def test_a_nucleus_smaller_than_a_voxel() -> None:
    """There is nothing to measure, and that is no error."""
    assert measure_infolding(turned(trimesh.creation.icosphere(1, 1.0), 0, FAR)) == SMOOTH


@pytest.mark.parametrize("scene", SCENES)
def test_real_nuclei_turned_and_refined(scene: str) -> None:
    """The nuclei of the scenes stay the same within 2 % when they are turned, and with four times as many faces."""
    folder = scene_of(scene)
    layer = NucleusLayer(f"precomputed://file://{folder}/nuclei")
    for nucleus in json.loads((folder / "tables.json").read_text())["nuclei"]:
        mesh = layer.mesh(nucleus["id"])
        first = measure_infolding(mesh)
        for seed in range(2):
            assert_near(measure_infolding(turned(mesh, seed)), first)
        assert_near(measure_infolding(mesh.subdivide()), first)
