"""Whole cells by the corrected definitions: against what is known of them, and beside the published ones."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import trimesh
from shared import SCENES, cells_of
from volumes import put_nuclei, put_volume

from sandbox.bodies import ellipsoid_voxels
from sandbox.phantom.scene import NucleusTruth
from somatic.cell import Cell, Measured, extract_cell
from somatic.corrected import on_soma
from somatic.cutout import Segmentation
from somatic.features import CORRECTED_ONLY, NUCLEUS_COLUMNS
from somatic.geometry.bitmask import BitMask
from somatic.geometry.marching_cubes import surface
from somatic.nucleus import NucleusLayer
from somatic.synapses import synapses_in_cutout
from somatic.tables import nuclei_from_raw, synapses_from_raw

TABLE_NM = (4.0, 4.0, 40.0)
ROOT, NUCLEUS = 2**60 + 1, 2**53 + 3


@pytest.fixture(scope="module")
def phantoms(phantom: Any) -> list[tuple[NucleusTruth, dict, dict]]:
    """Two ordinary cells of the phantom scene: the truth, the published and the corrected row."""
    scene = phantom.scene
    segmentation = Segmentation(scene.segmentation_url(1), 0)
    nuclei = NucleusLayer(scene.nucleus_segmentation_url)
    synapses = synapses_from_raw(pd.read_parquet(scene.synapses_path(1)), resolution_nm=TABLE_NM, where="synapses")
    table = nuclei_from_raw(scene.nuclei(1), resolution_nm=TABLE_NM, where="nuclei").frame.set_index("nucleus_id")
    found = []
    for nucleus_id, truth in scene.truth.items():
        if truth.role == "ordinary" and len(found) < 2:
            row = table.loc[nucleus_id]
            cell = Cell(nucleus_id, int(row["root_id"]), tuple(map(int, row[["x_vx", "y_vx", "z_vx"]])), TABLE_NM)
            rows = [
                extract_cell(cell, segmentation, nuclei, synapses, definitions=name).row
                for name in ("published", "corrected")
            ]
            found.append((truth, *rows))
    assert len(found) == 2
    return found


def test_synapses_of_the_phantom(phantoms: list[tuple[NucleusTruth, dict, dict]]) -> None:
    """Synapses that were put on soma and dendrites are found but for a few; of the published way a third is missing."""
    for truth, published, corrected in phantoms:
        on_surface = truth.n_soma_synapses[1] + truth.n_dendrite_synapses
        assert corrected["soma_synapse_number"] == pytest.approx(on_surface, rel=0.04)
        assert published["soma_synapse_number"] < 0.8 * on_surface


def test_nuclei_of_the_phantom(phantoms: list[tuple[NucleusTruth, dict, dict]]) -> None:
    """Volume and centre are those of the voxels that the meshes were made of."""
    for truth, _, corrected in phantoms:
        assert corrected["nucleus_volume_um"] == pytest.approx(truth.volume_um3, rel=1e-3)
        centre = [corrected[f"nucleus_center_{axis}_nm"] for axis in "xyz"]
        assert np.linalg.norm(np.array(centre) - truth.centre_nm) < 15


@dataclass(frozen=True)
class Concentric:
    """A cell, its layers, and where its soma and its nucleus were put."""

    segmentation: Segmentation
    nuclei: NucleusLayer
    cell: Cell
    soma_nm: np.ndarray
    nucleus_nm: np.ndarray

    def row(self, definitions: str) -> dict:
        """Its row."""
        return extract_cell(
            self.cell, self.segmentation, self.nuclei, None, radius_nm=4000, definitions=definitions
        ).row


@pytest.fixture(scope="module")
def concentric(tmp_path_factory: pytest.TempPathFactory) -> Concentric:
    """A soma and its nucleus around one point, both from voxels of 64 x 64 x 40 nm at an odd offset."""
    folder, resolution, offset = (
        tmp_path_factory.mktemp("concentric"),
        np.array([64.0, 64, 40]),
        np.array([900, 77, 31]),
    )
    soma, centre_nm = ellipsoid_voxels([2400.0, 2600, 2800], resolution, seed=3)
    nucleus, nucleus_centre_nm = ellipsoid_voxels([1400.0, 1500, 1600], resolution, seed=3)
    shift_vx = np.rint((centre_nm - nucleus_centre_nm) / resolution)
    vertices_vx, faces = surface(BitMask.of(nucleus))
    mesh = trimesh.Trimesh((vertices_vx + 0.5 + shift_vx + offset) * resolution, faces, process=False)
    labels = np.where(soma, ROOT, 5).astype(np.uint64)
    url = put_volume(folder / "seg", labels, resolution_nm=resolution, offset_vx=offset, gzip=True)
    bounds = {"lower_nm": (0, 0, 0), "upper_nm": (128_000, 64_000, 40_000), "resolution_nm": resolution}
    layer = NucleusLayer(put_nuclei(folder / "nuclei", {NUCLEUS: [mesh]}, **bounds))
    soma_nm = centre_nm + offset * resolution
    x, y, z = np.rint(soma_nm / TABLE_NM).astype(int).tolist()
    cell = Cell(NUCLEUS, ROOT, (x, y, z), TABLE_NM)
    nucleus_nm = nucleus_centre_nm + (shift_vx + offset) * resolution
    return Concentric(Segmentation(url, 0), layer, cell, soma_nm, nucleus_nm)


def test_soma_and_nucleus_lie_on_one_grid(concentric: Concentric) -> None:
    """Both centres are where the bodies were put, to a nm; a published soma is most of a voxel off."""
    row, published = concentric.row("corrected"), concentric.row("published")
    for name, known_nm in (("soma", concentric.soma_nm), ("nucleus", concentric.nucleus_nm)):
        found_nm = [row[f"{name}_center_{axis}_nm"] for axis in "xyz"]
        assert np.linalg.norm(found_nm - known_nm) < 1, name
    known_nm = np.linalg.norm(concentric.soma_nm - concentric.nucleus_nm)
    assert row["soma_to_nucleus_center_dist"] == pytest.approx(known_nm, abs=1)
    assert row["frac_nucleus_in_segment"] == 1
    assert abs(published["soma_to_nucleus_center_dist"] - known_nm) > 20


def test_without_a_nucleus(concentric: Concentric, tmp_path: Path) -> None:
    """The soma is measured all the same, with or without a layer; what tells of the nucleus is null."""
    segmentation, cell = concentric.segmentation, concentric.cell
    whole = concentric.row("corrected")
    for nuclei in (None, NucleusLayer(put_nuclei(tmp_path, {}))):
        row = extract_cell(cell, segmentation, nuclei, None, radius_nm=4000, definitions="corrected").row
        assert row["soma_volume_um"] == whole["soma_volume_um"]
        assert (row["frac_nucleus_in_segment"], row["nucleus_volume_um"], row["n_folds"]) == (None, None, None)
        assert row["status"] == ("ok" if nuclei is None else "failed")


def test_columns_of_a_nucleus_that_are_known(concentric: Concentric) -> None:
    """With the columns of its nucleus from an earlier version a cell gives the same row; its soma needs the mesh."""
    cell, whole = concentric.cell, concentric.row("corrected")
    known = {column.name: whole[column.name] for column in NUCLEUS_COLUMNS}
    again = Cell(cell.nucleus_id, cell.root_id, cell.centre_vx, TABLE_NM, nucleus=known, nucleus_version=1)
    assert replace(concentric, cell=again).row("corrected") == whole


@pytest.fixture(scope="module", params=SCENES)
def shared_scene(request: pytest.FixtureRequest) -> tuple[Measured, Measured, float, Any]:
    """The first cell of a shared scene by both definitions, the ratio of their CPU seconds, and its synapses."""
    cell, *from_what = cells_of(request.param)[0]
    measured, least_s = {}, {"published": np.inf, "corrected": np.inf}
    # The first time compiles what no other test has, and what else runs only ever adds.
    for name in ("published", "corrected") * 3:
        begun = time.process_time()
        measured[name] = extract_cell(cell, *from_what, definitions=name)
        least_s[name] = min(least_s[name], time.process_time() - begun)
    in_cutout = synapses_in_cutout(from_what[-1], cell.root_id, cell.centre_nm, 15_000.0)
    return measured["published"], measured["corrected"], least_s["corrected"] / least_s["published"], in_cutout


def test_beside_the_published_ones(shared_scene: tuple[Measured, Measured, float, Any]) -> None:
    """Every column has a value; sizes differ by what the known faults of the published ones make."""
    published, corrected, _, _ = shared_scene
    row, before = corrected.row, published.row
    assert (row["status"], row["definitions"], before["definitions"]) == ("ok", "corrected", "published")
    assert {name for name, value in row.items() if value is None} == {"reason"}
    assert {name for name, value in before.items() if value is None} == {"reason"} | CORRECTED_ONLY
    assert row["soma_volume_um"] == pytest.approx(before["soma_volume_um"], rel=0.02)
    assert row["nucleus_volume_um"] == pytest.approx(before["nucleus_volume_um"], rel=1e-3)
    assert 0.88 < row["nucleus_area_um"] / before["nucleus_area_um"] < 0.95
    assert row["soma_area_um"] + row["cap_area_um2"] < before["soma_area_um"] * 1.06
    assert row["soma_synapse_number"] > before["soma_synapse_number"]
    assert (row["n_somata"], row["n_nuclei_in_segment"]) == (1, 1)


def test_a_stored_mesh_counts_the_same(shared_scene: tuple[Measured, Measured, float, Any]) -> None:
    """As a mesh layer keeps it, in float32, a soma has the same synapses: a carried row has the same number."""
    _, corrected, _, in_cutout = shared_scene
    assert corrected.soma is not None
    stored = trimesh.Trimesh(corrected.soma.vertices.astype(np.float32), corrected.soma.faces, process=False)
    np.testing.assert_array_equal(on_soma(in_cutout, stored), on_soma(in_cutout, corrected.soma))


def test_cost(shared_scene: tuple[Measured, Measured, float, Any]) -> None:
    """At most twice the CPU seconds of the published definitions."""
    _, _, ratio, _ = shared_scene
    assert ratio < 2
