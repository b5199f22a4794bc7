"""What a picture of a cell shows is what its row counts, on a real soma."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import trimesh
from shared import expected_of, scene_of
from volumes import put_nuclei, put_volume

from somatic.cell import Cell, Measured, extract_cell
from somatic.cutout import Segmentation
from somatic.errors import UnknownRoot
from somatic.nucleus import NucleusLayer
from somatic.report.cell import cell_report
from somatic.report.drawing import make_scene
from somatic.report.view import CellView, view_cell
from somatic.tables import synapses_from_raw

NUCLEUS, ROOT = 262144, 864691135012345678


@pytest.fixture(scope="module")
def cell() -> tuple[Measured, CellView]:
    """The soma, measured and seen."""
    folder = scene_of("real_soma")
    tables = json.loads((folder / "tables.json").read_text())
    segmentation = Segmentation(f"precomputed://file://{folder}/seg", 0)
    synapses = synapses_from_raw(pd.DataFrame(tables["synapses"]), resolution_nm=(4, 4, 40), where="tables.json")
    one = Cell(NUCLEUS, ROOT, (41889, 34746, 15466), (4.0, 4.0, 40.0))
    nuclei = NucleusLayer(f"precomputed://file://{folder}/nuclei")
    measured = extract_cell(one, segmentation, nuclei, synapses, keep_masks=True)
    return measured, view_cell(one, measured, synapses)


def test_synapses(cell: tuple[Measured, CellView]) -> None:
    """All 280 lie in the cutout, and those that are drawn as counted are those of the row."""
    measured, view = cell
    assert view.synapses_nm.shape == (280, 3)
    assert view.counted.sum() == measured.row["soma_synapse_number"]
    assert view.synapses_nm[0].tolist() == [39201 * 4, 34562 * 4, 15502 * 40]


def test_folds(cell: tuple[Measured, CellView]) -> None:
    """The depth of a fold is that of the row: its mean over the vertices deeper than 150 nm."""
    measured, view = cell
    assert view.fold_depth_nm is not None
    mean_nm = view.fold_depth_nm[view.fold_depth_nm > 150].mean()
    assert mean_nm == pytest.approx(measured.row["avg_fold_depth_nm"], rel=1e-9)
    assert mean_nm == pytest.approx(expected_of("real_soma", NUCLEUS)["avg_fold_depth"], rel=0.02)


def test_masks(cell: tuple[Measured, CellView]) -> None:
    """Before repair the mask has the voxels that frac_zero counts; after it its gaps are filled, and its faces free."""
    measured, view = cell
    assert 1 - view.before.mean() == pytest.approx(measured.row["frac_zero"], abs=1e-12)
    assert view.after.sum() > view.before.sum()
    assert not any(np.moveaxis(view.after, axis, 0)[side].any() for axis in range(3) for side in (0, -1))
    centre_nm = view.lower_nm + np.array(view.before.shape) * view.voxel_nm / 2
    assert centre_nm == pytest.approx([41889 * 4, 34746 * 4, 15466 * 40], abs=64)


def test_the_scene(cell: tuple[Measured, CellView]) -> None:
    """Four things stand in it: nucleus, soma, synapses that count and those that do not; in micrometres."""
    measured, view = cell
    assert measured.soma is not None
    scene = make_scene(view)
    assert len(scene.geometry) == 4
    volumes = [mesh.volume for mesh in scene.geometry.values()]
    assert max(volumes) == pytest.approx(measured.row["soma_volume_um"], rel=1e-6)
    assert sorted(volumes)[-2] == pytest.approx(measured.row["nucleus_volume_um"], rel=1e-6)


def test_the_page(cell: tuple[Measured, CellView]) -> None:
    """It says how many synapses count, and has its ids whole; a title is escaped."""
    measured, view = cell
    page = cell_report(view, "<b>bold</b>", 'https://example.org/"><script>')
    assert f"{measured.row['soma_synapse_number']} of 280 synapses" in page
    assert f">{ROOT}<" in page
    assert "<b>bold" not in page
    assert 'href="https://example.org/&#34;&gt;&lt;script&gt;"' in page


def test_a_cell_without_leaves(tmp_path: Path) -> None:
    """A root id that the graph does not know has no mesh and no mask, and still a page that says why."""
    segmentation = Segmentation(put_volume(tmp_path / "seg", np.ones((16, 16, 16), np.uint64)), 0)
    one = Cell(5, 1, (1000, 1000, 500), (4.0, 4.0, 40.0), leaves=UnknownRoot("root id 1 is no root of the graph"))
    measured = extract_cell(one, segmentation, None, None, radius_nm=1000, keep_masks=True)
    view = view_cell(one, measured, None)
    assert view.before.shape == view.after.shape == (8, 8, 10)
    assert not view.before.any()
    assert not view.after.any()
    page = cell_report(view, "a cell", None)
    assert "root id 1 is no root of the graph" in page
    assert "<iframe" not in page


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cell, Segmentation, NucleusLayer]:
    """A root id in two pieces: a large one at the centre, a small one with a nucleus that cannot be measured."""
    folder, r = tmp_path_factory.mktemp("apart"), (100.0, 100.0, 100.0)
    labels = np.full((40, 40, 80), 7, np.uint64)
    labels[5:35, 5:35, 5:45] = 1
    labels[10:30, 10:30, 55:75] = 1
    nucleus = trimesh.creation.icosphere(3, 600).apply_translation((2000, 2000, 6500))
    bounds = {"lower_nm": (0, 0, 0), "upper_nm": (8000, 8000, 8000), "resolution_nm": (1000, 1000, 1000)}
    layer = NucleusLayer(put_nuclei(folder / "nuclei", {5: [nucleus]}, **bounds))
    cell = Cell(5, 1, (20, 20, 40), r)
    return cell, Segmentation(put_volume(folder / "seg", labels, resolution_nm=r), 0), layer


def test_the_mask_of_corrected_definitions(apart: tuple[Cell, Segmentation, NucleusLayer]) -> None:
    """What is drawn is what was measured, voxel by voxel: the piece with the nucleus, though that had no measures."""
    cell, segmentation, nuclei = apart
    how = {"radius_nm": 4000.0, "definitions": "corrected", "keep_masks": True}
    measured = extract_cell(cell, segmentation, nuclei, None, **how)
    view = view_cell(cell, measured, None)
    assert measured.nucleus is None
    assert "too few for a surface" in measured.row["reason"]
    drawn_um3 = view.after.sum() * np.prod(view.voxel_nm) / 1e9
    assert drawn_um3 == pytest.approx(measured.row["soma_volume_um"], rel=1e-12) == 8
    assert np.argwhere(view.after)[:, 2].min() == 55
    assert view.before.sum() == 30 * 30 * 40 + 20**3


def test_masks_are_kept_only_when_asked_for(apart: tuple[Cell, Segmentation, NucleusLayer]) -> None:
    """Who measures many cells does not hold them; who wants a picture is told how to get them."""
    cell, segmentation, nuclei = apart
    measured = extract_cell(cell, segmentation, nuclei, None, radius_nm=4000.0)
    assert measured.masks is None
    with pytest.raises(ValueError, match="nucleus 5 were not kept; measure it with keep_masks=True"):
        view_cell(cell, measured, None)
