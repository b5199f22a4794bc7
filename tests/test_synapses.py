"""Which synapses count as those on a soma, each case counted by hand."""

import numpy as np
import pandas as pd
import pytest
import trimesh

from somatic.published import on_soma
from somatic.synapses import synapse_columns, synapses_in_cutout
from somatic.tables import Synapses, synapses_from_raw

ROOT = 864691135012345679
CENTRE = np.array([40_000.0, 80_000.0, 120_000.0])
RADIUS = 5000.0


@pytest.fixture(scope="module")
def soma() -> trimesh.Trimesh:
    """A sphere of 5 um round the centre with vertices 160 nm apart, which float32 holds exactly."""
    sphere = trimesh.creation.icosphere(5, RADIUS).apply_translation(CENTRE)
    return trimesh.Trimesh(np.rint(sphere.vertices), sphere.faces, process=False)


def table(
    ctr_nm: list, post_nm: list | None = None, root: int = ROOT, pre: int = 7, resolution: tuple = (4, 4, 40)
) -> Synapses:
    """Synapses onto a root, given in nm."""
    raw = pd.DataFrame(
        {
            "id": range(1, len(ctr_nm) + 1),
            "pre_pt_root_id": np.full(len(ctr_nm), pre, np.int64),
            "post_pt_root_id": np.full(len(ctr_nm), root, np.int64),
            "ctr_pt_position": [list(np.array(p) / resolution) for p in ctr_nm],
        }
    )
    if post_nm is not None:
        raw["post_pt_position"] = [list(np.array(p) / resolution) for p in post_nm]
    return synapses_from_raw(raw, resolution_nm=resolution, where="synapses")


def count(synapses: Synapses, soma: trimesh.Trimesh, radius_nm: float = 15_000) -> int:
    """Synapses on the soma of the root."""
    return count_within(synapses_in_cutout(synapses, ROOT, CENTRE, radius_nm), soma)


def count_within(in_cutout: Synapses, soma: trimesh.Trimesh) -> int:
    """Those of a cutout on a soma."""
    return synapse_columns(in_cutout, on_soma(in_cutout, soma))["soma_synapse_number"]


@pytest.mark.parametrize(("distance_nm", "counts"), [(0, 1), (149.9, 1), (150, 0), (150.1, 0), (3000, 0)])
def test_strictly_less_than_150_nm_from_a_vertex(soma: trimesh.Trimesh, distance_nm: float, counts: int) -> None:
    """Measured outwards from one vertex, to the centre of the synapse."""
    vertex = soma.vertices[42]
    outwards = (vertex - CENTRE) / np.linalg.norm(vertex - CENTRE)
    single = trimesh.Trimesh(np.array([vertex, CENTRE, CENTRE]), [[0, 1, 2]], process=False)
    at = vertex + outwards * distance_nm
    assert count(table([at]), single) == counts


def test_exactly_150_nm_is_too_far() -> None:
    """On whole numbers, where nothing is rounded."""
    mesh = trimesh.Trimesh([[40_000, 80_000, 120_000], [0, 0, 0], [1, 0, 0]], [[0, 1, 2]], process=False)
    assert count(table([(40_150, 80_000, 120_000)], resolution=(1, 1, 1)), mesh) == 0
    assert count(table([(40_149, 80_000, 120_000)], resolution=(1, 1, 1)), mesh) == 1


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_faces_of_the_box_belong_to_it(soma: trimesh.Trimesh, axis: int, sign: int) -> None:
    """15 um are 3750 voxels of 4 nm and 375 of 40 nm: post_pt may lie exactly there, but not one voxel further."""
    on_the_soma = soma.vertices[0]
    step = np.zeros(3)
    step[axis] = sign
    face = CENTRE + step * 15_000
    further = face + step * (4, 4, 40)
    assert count(table([on_the_soma], [face]), soma) == 1
    assert count(table([on_the_soma], [further]), soma) == 0


def test_half_a_side_is_cut_to_whole_voxels(soma: trimesh.Trimesh) -> None:
    """15000 / 9.7 = 1546.4: voxel 1546 from the centre counts, 1547 does not; 15000 / 45 = 333.3 likewise."""
    resolution = np.array([9.7, 9.7, 45])
    centre_vx = np.rint(CENTRE / resolution)
    on_the_soma = soma.vertices[0]
    for axis, reach in ((0, 1546), (1, 1546), (2, 333)):
        for offset, expected in ((reach, 1), (reach + 1, 0), (-reach, 1), (-reach - 1, 0)):
            post_vx = centre_vx.copy()
            post_vx[axis] += offset
            synapses = table([on_the_soma], [post_vx * resolution], resolution=tuple(resolution))
            assert count(synapses, soma) == expected, (axis, offset)


def test_tables_in_other_resolutions_count_the_same(soma: trimesh.Trimesh) -> None:
    """The same places in nm, in voxels of four tables."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(300, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    distance = rng.uniform(RADIUS - 400, RADIUS + 400, 300)
    places = CENTRE + directions * distance[:, None]
    nearest = np.linalg.norm(places[:, None] - soma.vertices[None], axis=2).min(axis=1)
    expected = int(np.count_nonzero(nearest < 150))
    assert 50 < expected < 250
    for resolution in ((4, 4, 40), (9.7, 9.7, 45), (1, 1, 1), (8, 8, 33)):
        assert count(table(list(places), resolution=resolution), soma) == expected


def test_the_place_of_post_pt_decides_on_the_box_and_that_of_ctr_pt_on_the_distance(soma: trimesh.Trimesh) -> None:
    """Each alone is not enough."""
    near, far = soma.vertices[0], CENTRE + (0, 0, 14_000)
    outside = CENTRE + (16_000, 0, 0)
    assert count(table([near], [far]), soma) == 1
    assert count(table([far], [near]), soma) == 0
    assert count(table([near], [outside]), soma) == 0


def test_without_post_pt_the_centre_serves_for_both(soma: trimesh.Trimesh) -> None:
    """A cutout smaller than the soma leaves out the synapses whose centre lies outside."""
    on_the_soma = [CENTRE + (0, 0, RADIUS), CENTRE + (RADIUS, 0, 0)]
    assert count(table(on_the_soma), soma) == 2
    assert count(table(on_the_soma), soma, radius_nm=4000) == 0


def test_other_roots_and_autapses_do_not_count(soma: trimesh.Trimesh) -> None:
    """Also those whose id differs in the last bit only, and nothing is counted twice."""
    place = [soma.vertices[0], soma.vertices[1]]
    frames = [
        table(place).frame,
        table(place, root=ROOT ^ 1).frame,
        table(place, root=5).frame,
        table(place, pre=ROOT).frame,
    ]
    ordered = pd.concat(frames).sort_values(["post_root_id", "synapse_id"], ignore_index=True)
    together = Synapses(ordered, (4.0, 4.0, 40.0))
    assert len(frames[3]) == 0
    assert count(together, soma) == 2


def test_no_synapses(soma: trimesh.Trimesh) -> None:
    """None at all, and none in the box: zero, and not an error."""
    assert count(table([]), soma) == 0
    assert count(table([CENTRE + (50_000, 0, 0)]), soma) == 0


def test_a_mesh_layer_gives_the_same_number() -> None:
    """A vertex that float32 moves by 0.06 nm counts where the layer keeps it, on either side of the limit."""
    x_nm = 1_600_000.05  # between 1,600,000 and 1,600,000.125
    mesh = trimesh.Trimesh([[x_nm, 0, 0], [0, 9e6, 0], [0, 0, 9e6]], [[0, 1, 2]], process=False)
    stored = trimesh.Trimesh(mesh.vertices.astype(np.float32), mesh.faces, process=False)
    for distance_nm in (149.9, 149.96, 150.0, 150.04, 150.1):
        synapses = table([(x_nm + distance_nm, 0, 0)], resolution=(1e-3, 1, 1))
        assert count_within(synapses, mesh) == count_within(synapses, stored)
        # From where it is stored the distance is 0.05 nm longer.
        assert count_within(synapses, mesh) == (distance_nm + 0.05 < 150)
