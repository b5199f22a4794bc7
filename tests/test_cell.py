"""Whole cells: phantoms whose size is known without code, the chain written down again, and what cannot be measured."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import trimesh
import zmesh
from scipy import ndimage
from scipy.spatial import cKDTree
from volumes import cut_by_plane, ellipsoid, put_nuclei, put_volume

from somatic.cell import Cell, Measured, extract_cell
from somatic.cutout import Segmentation
from somatic.errors import DegenerateMesh, MissingNucleusMesh, MissingSegment, SegmentationUnavailable
from somatic.features import (
    BOTH_COLUMNS,
    CENTRE_COLUMNS,
    COLUMNS,
    CORRECTED_ONLY,
    NUCLEUS_COLUMNS,
    SCHEMA,
    SOMA_COLUMNS,
    SYNAPSE_COLUMNS,
    feature_table,
)
from somatic.measures import Measures, measure
from somatic.nucleus import NucleusLayer
from somatic.tables import Synapses, synapses_from_raw

ROOT = 2**60 + 1
NUCLEUS = 2**53 + 3


def phantom(
    folder: Path,
    resolution: tuple[float, float, float],
    offset: tuple[int, int, int],
    radius_nm: float,
) -> tuple[Segmentation, np.ndarray]:
    """A sphere of one root in a volume full of others, and its centre in nm, which is the centre of a voxel."""
    r = np.array(resolution)
    shape = np.ceil(2 * 1.6 * radius_nm / r).astype(int)
    sphere = ellipsoid(shape, resolution, [radius_nm] * 3)
    labels = np.random.default_rng(0).integers(2, 9, shape).astype(np.uint64)
    labels[sphere] = ROOT
    url = put_volume(folder, labels, resolution_nm=resolution, offset_vx=offset, file_shape=(48, 48, 48), gzip=True)
    return Segmentation(url, 0), (np.array(offset) + shape // 2) * r


def cell_at(centre_nm: np.ndarray, table_nm: tuple[float, float, float], root: int = ROOT) -> Cell:
    """A cell whose nucleus lies there, to the nearest voxel of its table."""
    x, y, z = np.rint(centre_nm / table_nm).astype(int).tolist()
    return Cell(NUCLEUS, root, (x, y, z), table_nm)


def repaired_volume(radius_nm: float, resolution: np.ndarray) -> float:
    """Volume, um^3, that the definition makes of a sphere: its Minkowski sum with the slits, less one erosion.

    A sphere plus a box of sides p (y) and q (z) has volume V + pi R^2 (p + q) + 2 R p q. The erosion takes off its
    surface times the support function of the cross, max(|n| r), which is integrated over the normals.
    """
    R, (_, p, q) = radius_nm, resolution * (0, 2, 4)
    volume = 4 / 3 * np.pi * R**3 + np.pi * R**2 * (p + q) + 2 * R * p * q
    n = 4000
    z = (np.arange(n) + 0.5) / n * 2 - 1
    phi = np.pi * (1 + 5**0.5) * np.arange(n)
    normals = np.column_stack([np.sqrt(1 - z**2) * np.cos(phi), np.sqrt(1 - z**2) * np.sin(phi), z])
    t = 2 * np.pi * (np.arange(n) + 0.5) / n
    round_y = np.column_stack([np.cos(t), 0 * t, np.sin(t)])
    round_z = np.column_stack([np.cos(t), np.sin(t), 0 * t])

    def reach(directions: np.ndarray) -> float:
        return float(np.abs(directions * resolution).max(axis=1).mean())

    surface = 4 * np.pi * R**2 * reach(normals) + 2 * np.pi * R * (p * reach(round_y) + q * reach(round_z))
    return (volume - surface - 2 * p * q * resolution[0]) / 1e9


@pytest.mark.parametrize(
    ("radius_nm", "resolution", "offset", "table"),
    [
        (1800, (64, 64, 40), (1001, -703, 5000), (4, 4, 40)),
        (2500, (100, 100, 100), (-31, -32, -33), (10, 10, 10)),
        (2500, (97, 97, 90), (12345, 77, 1000), (9.7, 9.7, 45)),
    ],
)
def test_a_sphere_in_dense_tissue(
    tmp_path: Path, radius_nm: float, resolution: tuple, offset: tuple, table: tuple
) -> None:
    """Volume within 2 % of what the definition makes of a sphere, wherever it lies, and its centre within a voxel."""
    segmentation, centre = phantom(tmp_path, resolution, offset, radius_nm)
    row = extract_cell(cell_at(centre, table), segmentation, None, None, radius_nm=1.5 * radius_nm).row
    assert row["status"] == "ok"
    r = np.array(resolution, float)
    assert row["soma_volume_um"] == pytest.approx(repaired_volume(radius_nm, r), rel=0.02)
    # Slits shift it by one voxel towards y; the mesh stands up to a voxel of the segmentation off its place.
    found = np.array([row[f"soma_center_{axis}_nm"] for axis in "xyz"])
    shift = found - centre - r * (0, 1, 0)
    assert (np.abs(shift) <= 1.05 * r).all()
    assert 1.05 < row["soma_area_to_volume_ratio"] < 1.2
    assert row["n_components"] == 1
    assert row["soma_touches_box"] is False
    assert (row["frac_unlabelled"], row["frac_outside_volume"]) == (0, 0)
    assert 1 - row["frac_zero"] == pytest.approx(4 / 3 * np.pi / 3**3, rel=0.05)


def test_against_a_plain_chain(tmp_path: Path) -> None:
    """The definition written down again with scipy on whole arrays, zmesh and trimesh: equal within the tolerances."""
    resolution, table, radius_nm = np.array([64.0, 64.0, 40.0]), (4.0, 4.0, 40.0), 2400
    shape = (100, 96, 140)
    offset = np.array([1000, 2000, 3000])
    rng = np.random.default_rng(1)
    blobs = ndimage.gaussian_filter(rng.standard_normal(shape), (6, 6, 9)) > 0.012
    blobs |= ellipsoid(shape, resolution, (1800, 1700, 1500))
    blobs[:, :, 60:62] = False
    labels = np.where(blobs, ROOT, rng.integers(0, 5, shape)).astype(np.uint64)
    url = put_volume(tmp_path, labels, resolution_nm=resolution, offset_vx=offset, file_shape=(64, 64, 64))
    centre_vx = np.array([16_801, 32_769, 3069])
    ctr = rng.uniform(-2600, 2600, (4000, 3)) + centre_vx * table
    raw = pd.DataFrame({"id": range(4000), "pre_pt_root_id": 9, "post_pt_root_id": ROOT})
    for axis in range(3):
        raw[f"ctr_pt_position_{'xyz'[axis]}"] = ctr[:, axis] / table[axis]
    synapses = synapses_from_raw(raw, resolution_nm=table, where="synapses")

    # Corners in whole voxels of the table, 2400 / 4 = 600 and 2400 / 40 = 60, then divided by 16, 16, 1.
    half = np.array([600, 600, 60])
    lower = (centre_vx - half) // (16, 16, 1) - offset
    upper = (centre_vx + half) // (16, 16, 1) - offset
    mask = labels[lower[0] : upper[0], lower[1] : upper[1], lower[2] : upper[2]] == ROOT
    slits = np.zeros_like(mask)
    padded = np.pad(mask, ((0, 0), (2, 0), (2, 2)))
    for dy in range(3):
        for dz in range(5):
            slits |= padded[:, dy : dy + mask.shape[1], dz : dz + mask.shape[2]]
    cross = ndimage.generate_binary_structure(3, 1)
    filled = ndimage.binary_fill_holes(ndimage.binary_dilation(slits, cross), cross)
    repaired = np.ascontiguousarray(ndimage.binary_erosion(filled, cross, iterations=2))
    mesher = zmesh.Mesher((40, 64, 64))
    mesher.mesh(repaired.transpose(2, 1, 0), close=False)
    simplified = mesher.get(1, reduction_factor=100, max_error=8)
    bodies = trimesh.Trimesh(
        simplified.vertices[:, ::-1].astype(float), simplified.faces[:, ::-1].astype(int), process=False
    ).split(only_watertight=False)
    body = max(bodies, key=lambda piece: len(piece.vertices))
    corner_nm = centre_vx * table - radius_nm
    in_box = (np.abs(ctr / table - centre_vx) <= half).all(axis=1)
    number = np.count_nonzero(cKDTree(body.vertices + corner_nm).query(ctr[in_box])[0] < 150)

    x, y, z = centre_vx.tolist()
    row = extract_cell(Cell(NUCLEUS, ROOT, (x, y, z), table), Segmentation(url, 0), None, synapses, radius_nm=2400).row
    assert len(bodies) > 1
    assert number > 50
    assert row["soma_volume_um"] == pytest.approx(body.volume / 1e9, rel=0.001)
    assert row["soma_area_um"] == pytest.approx(body.area / 1e6, rel=0.005)
    found = [row[f"soma_center_{axis}_nm"] for axis in "xyz"]
    assert np.linalg.norm(body.center_mass + corner_nm - found) < 2
    assert row["n_components"] == len(bodies)
    assert abs(row["soma_synapse_number"] - number) <= max(3, 0.06 * number)
    assert row["frac_zero"] == pytest.approx(1 - mask.mean(), rel=1e-12)
    assert row["soma_touches_box"] is True


@pytest.fixture(scope="module")
def sphere(tmp_path_factory: pytest.TempPathFactory) -> tuple[Segmentation, np.ndarray]:
    """A coarse sphere in a volume of 48 x 48 x 60 voxels, and its centre in nm."""
    return phantom(tmp_path_factory.mktemp("sphere"), (256, 256, 200), (100, 200, 300), radius_nm=3750)


def measured_sphere(
    sphere: tuple[Segmentation, np.ndarray],
    nuclei: NucleusLayer | None = None,
    synapses: Synapses | None = None,
    root: int = ROOT,
    shift_nm: tuple[float, float, float] = (0, 0, 0),
) -> Measured:
    """The sphere of the fixture, in a small cutout."""
    segmentation, centre = sphere
    cell = cell_at(centre + shift_nm, (4, 4, 40), root)
    return extract_cell(cell, segmentation, nuclei, synapses, radius_nm=5500, materialization_version=1300)


def nucleus_in(
    folder: Path, sphere: tuple[Segmentation, np.ndarray], mesh: trimesh.Trimesh | None = None
) -> NucleusLayer:
    """A layer with a nucleus of 2 um in the sphere, 0.5 um off its centre, or another mesh."""
    if mesh is None:
        mesh = trimesh.creation.icosphere(4, 2000)
    moved = mesh.copy().apply_translation(sphere[1] + (500, 0, 0))
    return NucleusLayer(put_nuclei(folder, {NUCLEUS: [moved]}, lower_nm=(0, 0, 0), upper_nm=(90_000, 90_000, 90_000)))


def nulls(row: dict) -> set[str]:
    """Columns without a value, but for those that published definitions do not have."""
    return {name for name, value in row.items() if value is None} - CORRECTED_ONLY


def names(*groups: tuple) -> set[str]:
    """Names of some groups of columns."""
    return {column.name for group in groups for column in group} - CORRECTED_ONLY


def test_a_row_has_every_column_in_plain_types(tmp_path: Path, sphere: tuple[Segmentation, np.ndarray]) -> None:
    """Exactly the columns of the table, each of its own Python type, so that JSON takes it and ids stay exact."""
    synapses = Synapses(synapses_from_raw(_no_synapses(), resolution_nm=(4, 4, 40), where="").frame, (4.0, 4.0, 40.0))
    row = measured_sphere(sphere, nucleus_in(tmp_path, sphere), synapses).row
    assert set(row) == {column.name for column in COLUMNS}
    types = {"double": float, "int64": int, "bool": bool, "string": str}
    for column in COLUMNS:
        assert row[column.name] is None or type(row[column.name]) is types[str(column.type)], column.name
    read_back = json.loads(json.dumps(row, allow_nan=False))
    assert read_back == row
    assert (read_back["nucleus_id"], read_back["soma_id"]) == (NUCLEUS, ROOT)
    assert read_back["materialization_version"] == 1300
    assert read_back["soma_synapse_number"] == 0
    table = feature_table([row])
    assert table.schema.equals(SCHEMA)
    assert table.column("soma_id").to_pylist() == [ROOT]
    assert nulls(row) == {"reason", "avg_fold_depth_nm", "soma_synapse_size_mean"}


def test_a_nucleus_of_known_size(tmp_path: Path, sphere: tuple[Segmentation, np.ndarray]) -> None:
    """A sphere of 2 um: volume, area, radius, shape and place, and its ratio to the soma."""
    row = measured_sphere(sphere, nucleus_in(tmp_path, sphere)).row
    assert row["nucleus_volume_um"] == pytest.approx(4 / 3 * np.pi * 8, rel=5e-3)
    assert row["nucleus_area_um"] == pytest.approx(4 * np.pi * 4, rel=3e-3)
    assert row["nucleus_avg_radius_nm"] == pytest.approx(2000, rel=1e-4)
    assert row["nuclear_area_to_volume_ratio"] == pytest.approx(1, abs=2e-3)
    assert row["nucleus_aspect_ratio"] == pytest.approx(1, abs=1e-3)
    assert (row["nuclear_folding_area_um"], row["fraction_nuclear_folding"], row["avg_fold_depth_nm"]) == (0, 0, None)
    found = [row[f"nucleus_center_{axis}_nm"] for axis in "xyz"]
    np.testing.assert_allclose(found, sphere[1] + (500, 0, 0), atol=0.1)
    assert row["nucleus_to_soma_ratio"] == pytest.approx(row["nucleus_volume_um"] / row["soma_volume_um"])
    between = [row[f"soma_center_{axis}_nm"] - row[f"nucleus_center_{axis}_nm"] for axis in "xyz"]
    assert row["soma_to_nucleus_center_dist"] == pytest.approx(np.linalg.norm(between))
    assert (row["nucleus_watertight"], row["nucleus_mesh_repaired"], row["nucleus_is_clipped"]) == (True, False, False)
    assert [row[f"centre_{axis}_nm"] for axis in "xyz"] == pytest.approx(sphere[1].tolist())


def test_an_open_nucleus(tmp_path: Path, sphere: tuple[Segmentation, np.ndarray]) -> None:
    """Cut flat in its middle it is closed flat, and the row says so."""
    half = cut_by_plane(trimesh.creation.icosphere(4, 2000), (0, 0, 1), (0, 0, 0))
    row = measured_sphere(sphere, nucleus_in(tmp_path, sphere, half)).row
    assert row["status"] == "ok"
    assert (row["nucleus_watertight"], row["nucleus_mesh_repaired"]) == (True, True)
    assert row["nucleus_volume_um"] == pytest.approx(2 / 3 * np.pi * 8, rel=0.01)


@pytest.mark.parametrize("kind", ["missing", "flat"])
def test_a_nucleus_that_cannot_be_measured(tmp_path: Path, sphere: tuple[Segmentation, np.ndarray], kind: str) -> None:
    """Failed for good, with the reason; the soma is measured all the same."""
    flat = trimesh.Trimesh([[0, 0, 0], [900, 0, 0], [0, 900, 0]], [[0, 1, 2], [0, 2, 1]], process=False)
    layer = nucleus_in(tmp_path, sphere, flat) if kind == "flat" else NucleusLayer(put_nuclei(tmp_path, {}))
    measured = measured_sphere(sphere, layer)
    row = measured.row
    assert row["status"] == "failed"
    assert row["reason"]
    assert kind != "missing" or isinstance(measured.error, MissingNucleusMesh)
    assert (str(NUCLEUS) if kind == "missing" else "nucleus mesh is flat") in row["reason"]
    assert "\n" not in row["reason"]
    assert row["soma_volume_um"] > 100
    flags = {"nucleus_watertight", "nucleus_mesh_repaired"}
    expected = names(NUCLEUS_COLUMNS, SYNAPSE_COLUMNS, BOTH_COLUMNS)
    assert nulls(row) - flags == expected - flags
    json.dumps(row, allow_nan=False)


def test_no_nucleus_layer(sphere: tuple[Segmentation, np.ndarray]) -> None:
    """A dataset without one has null columns there, and its rows are ok."""
    row = measured_sphere(sphere).row
    assert row["status"] == "ok"
    assert nulls(row) == names(NUCLEUS_COLUMNS, SYNAPSE_COLUMNS, BOTH_COLUMNS) | {"reason"}


def test_an_empty_root(tmp_path: Path, sphere: tuple[Segmentation, np.ndarray]) -> None:
    """A root without a voxel in the box is failed for good; the nucleus is measured all the same."""
    measured = measured_sphere(sphere, nucleus_in(tmp_path, sphere), root=ROOT + 1)
    row = measured.row
    assert isinstance(measured.error, MissingSegment)
    assert (row["status"], measured.soma) == ("failed", None)
    assert str(ROOT + 1) in row["reason"]
    assert nulls(row) == names(SOMA_COLUMNS, SYNAPSE_COLUMNS, BOTH_COLUMNS) | {"avg_fold_depth_nm"}
    assert row["nucleus_volume_um"] > 30
    assert row["frac_unlabelled"] == 0


def test_neither_root_nor_nucleus(tmp_path: Path, sphere: tuple[Segmentation, np.ndarray]) -> None:
    """Both reasons stand in the row."""
    row = measured_sphere(sphere, NucleusLayer(put_nuclei(tmp_path, {})), root=ROOT + 1).row
    assert str(ROOT + 1) in row["reason"]
    assert str(NUCLEUS) in row["reason"]
    assert nulls(row) == names(NUCLEUS_COLUMNS, SOMA_COLUMNS, SYNAPSE_COLUMNS, BOTH_COLUMNS)


def test_a_cutout_outside_the_volume(sphere: tuple[Segmentation, np.ndarray]) -> None:
    """Nothing can be said about labels there, and no share is a division by zero."""
    row = measured_sphere(sphere, shift_nm=(100_000, 0, 0)).row
    assert row["status"] == "failed"
    assert "outside" in row["reason"]
    assert (row["frac_outside_volume"], row["frac_unlabelled"]) == (1, None)
    json.dumps(row, allow_nan=False)


def test_a_box_that_sticks_out(sphere: tuple[Segmentation, np.ndarray]) -> None:
    """The row is ok, and the share of the box outside is said."""
    segmentation, _ = sphere
    row = measured_sphere(sphere, shift_nm=(4000, 0, 0)).row
    assert row["status"] == "ok"
    assert 0.2 < row["frac_outside_volume"] < 0.5
    lower_nm = row["centre_x_nm"] - 5500
    assert row["frac_outside_volume"] == pytest.approx(
        1 - (segmentation.bounds.upper_vx[0] * 256 - lower_nm) / 11_000, abs=0.05
    )


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 1, 1), (2, 2, 2), (3, 1, 1), (3, 2, 2), (4, 3, 3)])
def test_a_few_voxels(tmp_path: Path, size: tuple[int, int, int]) -> None:
    """What is too small for a surface with a volume is a failed row with a reason, never an exception or NaN."""
    labels = np.ones((40, 40, 40), np.uint64)
    labels[20 : 20 + size[0], 20 : 20 + size[1], 20 : 20 + size[2]] = ROOT
    segmentation = Segmentation(put_volume(tmp_path, labels, resolution_nm=(64, 64, 40)), 0)
    cell = cell_at(np.array([20, 20, 20]) * (64, 64, 40), (4, 4, 40))
    measured = extract_cell(cell, segmentation, None, None, radius_nm=700)
    row = json.loads(json.dumps(measured.row, allow_nan=False))
    if row["status"] == "failed":
        assert measured.error is not None
        assert row["soma_volume_um"] is None
    else:
        assert row["soma_volume_um"] > 0
        # Erosion leaves less than the slits had made of it.
        assert row["soma_volume_um"] < (size[0] + 2) * (size[1] + 4) * (size[2] + 6) * 64 * 64 * 40 / 1e9
    assert size[0] > 2 or row["status"] == "failed"


def test_a_single_voxel_that_is_left(tmp_path: Path) -> None:
    """Its surface is a double pyramid of half a voxel to each side, which simplification leaves alone."""
    labels = np.ones((40, 40, 40), np.uint64)
    # Three voxels in x, one from the lower z face of the box: slits, dilation and erosions leave one.
    labels[20:23, 20, 4] = ROOT
    segmentation = Segmentation(put_volume(tmp_path, labels, resolution_nm=(64, 64, 40)), 0)
    cell = cell_at(np.array([20, 20, 20]) * (64, 64, 40), (4, 4, 40))
    row = extract_cell(cell, segmentation, None, None, radius_nm=680).row
    assert row["status"] == "ok"
    assert row["soma_volume_um"] == pytest.approx(64 * 64 * 40 / 6 / 1e9)


def test_a_segment_that_fills_its_box(tmp_path: Path) -> None:
    """Two voxels less on every side, closed by caps, and nothing is divided by zero."""
    labels = np.full((60, 60, 60), ROOT, np.uint64)
    segmentation = Segmentation(put_volume(tmp_path, labels, resolution_nm=(100, 100, 100)), 0)
    row = extract_cell(cell_at(np.array([3000.0] * 3), (10, 10, 10)), segmentation, None, None, radius_nm=2000).row
    assert (row["status"], row["frac_zero"], row["soma_touches_box"]) == ("ok", 0, True)
    assert row["soma_volume_um"] == pytest.approx(3.6**3, rel=0.02)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_measure_that_is_no_number(
    tmp_path: Path, sphere: tuple[Segmentation, np.ndarray], monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    """It is null, and the reason names it; the row has failed, with all else that was measured."""
    monkeypatch.setattr("somatic.published.nucleus.aspect_ratio", lambda _: value)
    measured = measured_sphere(sphere, nucleus_in(tmp_path, sphere))
    row = measured.row
    assert type(measured.error) is DegenerateMesh
    assert row["status"] == "failed"
    assert row["reason"] == f"nucleus_aspect_ratio is {value}: the mesh has no volume or no area"
    assert nulls(row) == names(SYNAPSE_COLUMNS) | {"nucleus_aspect_ratio", "avg_fold_depth_nm"}
    assert measured.soma is not None
    assert measured.nucleus is not None


@pytest.mark.parametrize(
    ("area_um2", "no_numbers"),
    [
        (math.nan, {"soma_area_um", "soma_area_to_volume_ratio", "soma_sphericity"}),
        (math.inf, {"soma_area_um", "soma_area_to_volume_ratio", "soma_sphericity"}),
        (0.0, {"soma_sphericity"}),
    ],
)
def test_what_follows_from_such_a_measure(
    sphere: tuple[Segmentation, np.ndarray], monkeypatch: pytest.MonkeyPatch, area_um2: float, no_numbers: set[str]
) -> None:
    """Sphericity and density of an area that is no number, or nothing, are null too, and not 0."""
    synapses = Synapses(synapses_from_raw(_no_synapses(), resolution_nm=(4, 4, 40), where="").frame, (4.0, 4.0, 40.0))

    def flat(mesh: trimesh.Trimesh, name: str) -> Measures:
        return replace(measure(mesh, name), area_um2=area_um2, area_to_volume=area_um2)

    monkeypatch.setattr("somatic.published.soma.measure", flat)
    row = measured_sphere(sphere, synapses=synapses).row
    null_synapses = {"soma_synapse_density_um", "soma_synapse_size_mean"}
    assert nulls(row) == names(NUCLEUS_COLUMNS, BOTH_COLUMNS) | no_numbers | null_synapses
    assert {reason.split(" is ")[0] for reason in row["reason"].split("; ")} == no_numbers
    assert (row["status"], row["soma_synapse_number"]) == ("failed", 0)
    assert row["soma_volume_um"] > 100


def test_two_nuclei_in_one_root(tmp_path: Path, sphere: tuple[Segmentation, np.ndarray]) -> None:
    """Each has its own nucleus and the same soma; how many share it is noted."""
    segmentation, centre = sphere
    meshes = {
        1: [trimesh.creation.icosphere(4, 1500).apply_translation(centre - (1600, 0, 0))],
        2: [trimesh.creation.icosphere(4, 1000).apply_translation(centre + (1600, 0, 0))],
    }
    layer = NucleusLayer(put_nuclei(tmp_path, meshes, lower_nm=(0, 0, 0), upper_nm=(90_000, 90_000, 90_000)))
    x, y, z = cell_at(centre, (4, 4, 40)).centre_vx
    rows = [
        extract_cell(
            Cell(n, ROOT, (x, y, z), (4.0, 4.0, 40.0), n_nuclei_in_segment=2), segmentation, layer, None, radius_nm=5500
        ).row
        for n in (1, 2)
    ]
    assert [row["n_nuclei_in_segment"] for row in rows] == [2, 2]
    assert rows[0]["soma_volume_um"] == rows[1]["soma_volume_um"]
    assert rows[0]["nucleus_volume_um"] == pytest.approx(4 / 3 * np.pi * 1.5**3, rel=0.01)
    assert rows[1]["nucleus_volume_um"] == pytest.approx(4 / 3 * np.pi, rel=0.01)


def test_a_file_that_cannot_be_read_leaves_nothing_known(tmp_path: Path) -> None:
    """It is an error to be tried again, and not a row."""
    segmentation, centre = phantom(tmp_path, (256, 256, 200), (0, 0, 0), radius_nm=3750)
    next(tmp_path.rglob("0-*_0-*_0-48.gz")).write_bytes(b"broken")
    with pytest.raises(SegmentationUnavailable):
        extract_cell(cell_at(centre, (4, 4, 40)), segmentation, None, None, radius_nm=5500)


def test_the_same_twice(tmp_path: Path, sphere: tuple[Segmentation, np.ndarray]) -> None:
    """Measured again, a cell gives the same row to the last bit."""
    layer = nucleus_in(tmp_path, sphere)
    first, second = measured_sphere(sphere, layer).row, measured_sphere(sphere, layer).row
    assert json.dumps(first) == json.dumps(second)
    assert names(CENTRE_COLUMNS) <= set(first)


def _no_synapses() -> pd.DataFrame:
    empty = {name: pd.Series([], dtype="int64") for name in ("id", "pre_pt_root_id", "post_pt_root_id")}
    return pd.DataFrame(empty | {f"ctr_pt_position_{axis}": pd.Series([], dtype="float64") for axis in "xyz"})
