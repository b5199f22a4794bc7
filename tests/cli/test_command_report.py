"""`somatic report`, `somatic export`, and `somatic cell` with a page and a picture, on results of an extraction."""

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import trimesh
from chromium import AXE, look_at, needs_chromium, serious
from cloudvolume import CloudVolume
from command_line import Run, at_a_laptop, run_here

from sandbox.phantom.scene import Scene


@pytest.fixture(scope="module")
def results(run_flow: Run, files_toml: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the results of an extraction of the scene."""
    with at_a_laptop(tmp_path_factory.mktemp("reported")):
        ran = run_flow("extract", files_toml, "--to", "results", "--workers", 1)
    assert ran.status == 0, ran.err
    return Path(ran.out.splitlines()[-1]).parent


def test_an_extraction_writes_all_of_it(results: Path, scene: Scene) -> None:
    """Report and flags lie beside the table, the manifest has the hash of the flags, and the meshes have properties."""
    assert "tables v1: 3 nuclei" in (results / "report.html").read_text()
    manifest = json.loads((results / "manifest.json").read_text())
    stored = hashlib.sha256((results / "flags.parquet").read_bytes()).hexdigest()
    assert manifest["sha256"]["flags.parquet"] == stored
    assert manifest["layers"] == {
        "segmentation": scene.segmentation_url(1),
        "nuclei": scene.nucleus_segmentation_url,
        "resolution_nm": list(scene.table_resolution_nm),
    }
    table = pd.read_parquet(results / "features.parquet").set_index("nucleus_id")
    info = json.loads((results / "meshes" / "segment_properties" / "info").read_text())["inline"]
    [volumes] = [one["values"] for one in info["properties"] if one["id"] == "soma_volume_um"]
    assert len(info["ids"]) == 2
    np.testing.assert_allclose(volumes, table.loc[map(int, info["ids"]), "soma_volume_um"], rtol=1e-5)
    mesh = CloudVolume(f"precomputed://file://{results}/meshes", progress=False).mesh.get(int(info["ids"][0]))
    assert trimesh.Trimesh(mesh.vertices, mesh.faces).volume / 1e9 == pytest.approx(volumes[0], rel=1e-4)


def test_report_from_the_files_alone(run: Run, results: Path) -> None:
    """The page is made again, with the same content; the last line says where."""
    page = results / "report.html"
    before = page.read_text()
    page.unlink()
    (results / "flags.parquet").unlink()
    ran = run("report", results)
    assert (ran.status, ran.out) == (0, f"{page}\n")
    assert page.read_text() == before
    assert (results / "flags.parquet").exists()
    assert run("report", results / "features.parquet").out == ran.out


def test_report_of_something_else(run: Run, tmp_path: Path) -> None:
    """A folder without results is said to be none, in one line."""
    ran = run("report", tmp_path)
    assert ran.status == 1
    assert ran.error.startswith(f"{tmp_path} has no manifest.json: it is no folder of results")


@pytest.mark.parametrize(
    ("form", "name"), [("csv", "features.csv"), ("h5ad", "features.h5ad"), ("json-per-cell", "cells")]
)
def test_export(run: Run, results: Path, form: str, name: str) -> None:
    """Each form lies in the current folder when no place is named, and has the nuclei of the table."""
    ran = run("export", results, "--to", form)
    assert (ran.status, ran.out) == (0, f"{name}\n")
    table = pd.read_parquet(results / "features.parquet")
    if form == "csv":
        assert pd.read_csv(name)["nucleus_id"].tolist() == table["nucleus_id"].tolist()
    elif form == "h5ad":
        import anndata

        assert anndata.read_h5ad(name).obs["nucleus_id"].tolist() == table["nucleus_id"].tolist()
    else:
        ok = table[table["status"] == "ok"]
        expected = [f"{row.nucleus_id}_{row.soma_id}.json" for row in ok.itertuples()]
        assert sorted(path.name for path in Path(name).iterdir()) == sorted(expected)
        one = json.loads((Path(name) / expected[0]).read_text())
        assert one["soma_volume_nm"] == pytest.approx(1e9 * ok["soma_volume_um"].iloc[0])


def test_export_to_a_place_that_cannot_be_written(run: Run) -> None:
    """It is said before anything is read."""
    ran = run("export", "nowhere", "--to", "csv", "--out", "no/such/folder.csv")
    assert (ran.status, ran.error) == (
        1,
        "cannot write no/such/folder.csv: No such file or directory; choose another place",
    )


@pytest.fixture(scope="module")
def page(files_toml: Path, results: Path, cell_id: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Page about a cell, with its picture beside it."""
    folder = tmp_path_factory.mktemp("cell")
    options = ["--report", "cell.html", "--png", "cell.png", "--results", results]
    with at_a_laptop(folder):
        ran = run_here("cell", files_toml, cell_id, *options)
    assert ran.status == 0, ran.err
    return folder / "cell.html"


def test_a_page_about_a_cell(page: Path, results: Path, cell_id: int) -> None:
    """It has the numbers of the table and how many cells lie below them, and needs nothing beside it."""
    text = page.read_text()
    row = pd.read_parquet(results / "features.parquet").set_index("nucleus_id").loc[cell_id]
    assert f"Nucleus {cell_id} of tables v1" in text
    assert f">{row['soma_volume_um']:.6g}<" in text
    assert f">{row['soma_id']}<" in text
    assert f"{row['soma_synapse_number']:.0f} of " in text
    assert "of 3 cells below" in text
    assert 'aria-label="Histogram of soma_volume_um"' in text
    assert "default-src 'none'" in text


def test_a_picture_of_a_cell(page: Path) -> None:
    """A PNG of some size that is not empty."""
    data = page.with_name("cell.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert width > 1000
    assert height > 700
    assert len(data) > 50_000


@needs_chromium
def test_the_page_of_a_cell_in_a_browser(page: Path, axe: str) -> None:
    """The scene in 3D is drawn, the picture shown, nothing is forbidden by the page's own policy; axe is content."""
    question = """[document.querySelector("iframe").contentDocument.querySelectorAll("canvas").length,
      document.querySelector("figure img").naturalWidth > 1000]"""
    found, errors = look_at(page, question)
    assert found == [1, True]
    # What the driver of a machine without a graphics card says is none of ours.
    assert [error for error in errors if "WebGL" not in error] == []
    faults, _ = look_at(page, AXE, axe)
    assert serious(faults) == []


def test_a_page_of_a_cell_without_a_nucleus_mesh(run: Run, no_mesh_toml: Path, cell_id: int) -> None:
    """What could be measured is shown, with the reason, and ends with status 1."""
    ran = run("cell", no_mesh_toml, cell_id, "--report", "cell.html", "--png", "cell.png")
    assert ran.status == 1
    text = Path("cell.html").read_text()
    assert f"the nucleus segmentation has no mesh of nucleus {cell_id}" in text
    assert "<iframe" in text
    assert Path("cell.png").exists()


def test_results_without_a_page(run: Run) -> None:
    """`--results` says where it belongs."""
    ran = run("cell", "any.toml", 5, "--results", "somewhere")
    assert ran.status == 2
    assert "it is for the page of --report" in ran.error
