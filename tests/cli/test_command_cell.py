"""`somatic cell`."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import trimesh
from command_line import TOKEN, Run, start

from sandbox.cave.server import CaveServer, CaveTable
from sandbox.lab import NUCLEI_TABLE, datastack
from sandbox.phantom.scene import Scene
from somatic.features import COLUMNS, columns_of

_PUBLISHED = (
    "nucleus_id soma_id nucleus_volume_um nucleus_area_um nuclear_area_to_volume_ratio nuclear_folding_area_um "
    "fraction_nuclear_folding soma_volume_um soma_area_um soma_area_to_volume_ratio soma_synapse_number "
    "soma_synapse_density_um nucleus_to_soma_ratio soma_to_nucleus_center_dist"
)
_OURS = (
    "nucleus_avg_radius_nm nucleus_aspect_ratio avg_fold_depth_nm frac_zero nucleus_watertight nucleus_is_clipped "
    "soma_center_x_nm soma_center_y_nm soma_center_z_nm nucleus_center_x_nm nucleus_center_y_nm nucleus_center_z_nm "
    "centre_x_nm centre_y_nm centre_z_nm materialization_version definitions "
    "status reason frac_unlabelled frac_outside_volume soma_touches_box n_components n_nuclei_in_segment "
    "nucleus_mesh_repaired soma_sphericity nucleus_sphericity soma_synapse_size_sum soma_synapse_size_mean"
)
_CORRECTED = "cap_area_um2 fold_depth_95_nm n_folds frac_nucleus_in_segment n_somata"
PUBLISHED, OURS, CORRECTED = _PUBLISHED.split(), _OURS.split(), _CORRECTED.split()
"""Columns as definitions.md names them: the published ones in their order, others, and those of corrected alone."""


def test_a_cell_as_a_table(run: Run, files_toml: Path, scene: Scene, cell_id: int) -> None:
    """Every feature stands on a line of at most 80 columns, ids with all their digits, with its unit."""
    ran = run("cell", files_toml, cell_id)
    assert (ran.status, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert max(map(len, lines)) <= 80
    shown = {words[0]: words[1:] for words in map(str.split, lines) if len(words) > 1}
    for name in {*PUBLISHED, *OURS} - {"reason"}:
        assert name in shown
    assert shown["soma_id"] == [str(scene.truth[cell_id].roots[1])]
    assert shown["status"] == ["ok"]
    assert shown["nucleus_volume_um"][1] == "um^3"
    volume_um3 = scene.truth[cell_id].volume_um3
    assert float(shown["nucleus_volume_um"][0]) == pytest.approx(volume_um3, rel=0.02)


def test_a_wide_terminal_shows_what_a_feature_means(
    run: Run, files_toml: Path, cell_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 160 columns each feature stands with its meaning."""
    monkeypatch.setenv("COLUMNS", "160")
    ran = run("cell", files_toml, cell_id)
    assert max(map(len, ran.out.splitlines())) <= 160
    for column in columns_of("published"):
        assert column.name == "reason" or column.description in ran.out
    assert not any(name in ran.out for name in CORRECTED)


def test_json_is_all_there_is_on_stdout(cave_toml: Path, scene: Scene, cell_id: int, tmp_path: Path) -> None:
    """`--json -` writes one JSON object with every column, exact ids and nulls; a terminal sees the steps on stderr."""
    running = start("cell", cave_toml, cell_id, "--version", 1, "--json", "-", folder=tmp_path, terminal=True)
    ran = running.ended(within_s=120)
    assert ran.status == 0
    row = json.loads(ran.out)
    assert list(row)[: len(PUBLISHED)] == PUBLISHED
    assert list(row) == [column.name for column in COLUMNS]
    assert set(row) == {*PUBLISHED, *OURS, *CORRECTED}
    assert row["nucleus_id"] == cell_id
    assert row["soma_id"] == scene.truth[cell_id].roots[1]
    assert row["soma_id"] > 2**53
    assert type(row["soma_synapse_number"]) is int
    assert row["reason"] is None
    assert row["status"] == "ok"
    assert "measuring" in ran.err
    assert "somatic: " not in ran.err


def test_json_and_mesh_files(run: Run, files_toml: Path, cell_id: int) -> None:
    """`--json FILE` and `--mesh FILE` write what the table shows; the mesh has the row's volume, in nm^3."""
    ran = run("cell", files_toml, cell_id, "--json", "row.json", "--mesh", "soma.PLY")
    assert ran.status == 0
    row = json.loads(Path("row.json").read_text())
    assert str(row["soma_synapse_number"]) in ran.out
    assert run("cell", files_toml, cell_id, "--mesh", "soma.obj").status == 0
    for name in ("soma.PLY", "soma.obj"):
        mesh = trimesh.load_mesh(name)
        assert mesh.is_watertight
        assert mesh.volume / 1e9 == pytest.approx(row["soma_volume_um"], rel=1e-5)
        centre_nm = [row[f"soma_center_{axis}_nm"] for axis in "xyz"]
        assert mesh.center_mass == pytest.approx(np.array(centre_nm), abs=1)


@pytest.fixture(scope="module")
def notes_toml(scene: Scene, cave_toml: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The scene behind CAVE, its nuclei by way of notes on them whose own ids are those of the other nucleus."""
    stack, targets = datastack(scene), [nucleus.nucleus_id for nucleus in scene.truth.values() if nucleus.roots[1]]
    notes = pd.DataFrame({"id": targets[::-1], "target_id": targets, "cell_type": "neuron"})
    reference = CaveTable(notes, scene.table_resolution_nm, "cell_type_reference", reference_table=NUCLEI_TABLE)
    version = stack.version(1)
    assert version is not None
    version.tables["notes"] = reference
    with CaveServer(stack, token=TOKEN) as server:
        toml = cave_toml.read_text()
        for old, new in (
            (re.search(r"http://[^\"]+", toml), server.url),
            (re.search(r"nuclei = {.*}", toml), 'nuclei = {table = "notes"}'),
            (re.search(r"nucleus_segmentation = .*\n", toml), ""),
        ):
            assert old
            toml = toml.replace(old[0], new)
        path = tmp_path_factory.mktemp("notes") / "notes.toml"
        path.write_text(toml)
        yield path


def test_cell_of_a_reference_table(run: Run, notes_toml: Path, scene: Scene) -> None:
    """Each nucleus has its own root id and mesh, as when the table of the nuclei is named."""
    for nucleus_id, truth in scene.truth.items():
        if not truth.roots[1]:
            continue
        ran = run("cell", notes_toml, nucleus_id, "--version", 1, "--json", "-")
        assert ran.status == 0
        assert "the token of CAVE goes to 127.0.0.1 only" in ran.err
        row = json.loads(ran.out)
        assert (row["nucleus_id"], row["soma_id"]) == (nucleus_id, truth.roots[1])
        assert row["nucleus_volume_um"] == pytest.approx(truth.volume_um3, rel=0.02)
        assert row["soma_to_nucleus_center_dist"] < 2000


def test_cell_without_a_nucleus_mesh(run: Run, no_mesh_toml: Path, cell_id: int) -> None:
    """What could be measured is shown, as a table and as JSON, and the reason ends the command with status 1."""
    reason = f"the nucleus segmentation has no mesh of nucleus {cell_id}"
    ran = run("cell", no_mesh_toml, cell_id, "--json", "-")
    assert (ran.status, ran.error) == (1, f"nucleus {cell_id} of tables v1: {reason}")
    row = json.loads(ran.out)
    assert row["soma_volume_um"] > 0
    assert row["nucleus_volume_um"] is row["nucleus_watertight"] is None
    assert (row["status"], row["reason"]) == ("failed", reason)

    ran = run("cell", no_mesh_toml, cell_id, "--mesh", "soma.ply")
    assert ran.status == 1
    assert f"{row['soma_volume_um']:.6g}" in ran.out
    assert reason in ran.error
    assert trimesh.load_mesh("soma.ply").is_watertight


def test_nucleus_without_a_root(run: Run, files_toml: Path, scene: Scene) -> None:
    """A nucleus that is in no cell is told so, and nothing is shown."""
    [nucleus] = scene.with_role("root 0")
    ran = run("cell", files_toml, nucleus.nucleus_id, "--json", "-")
    assert (ran.status, ran.out) == (1, "")
    assert ran.error == f"nucleus {nucleus.nucleus_id} of tables v1 cannot be measured: no root id at this version"


@pytest.mark.parametrize("nucleus_id", [4, 2**63 - 1, 2**70])
def test_nucleus_that_does_not_exist(run: Run, files_toml: Path, nucleus_id: int) -> None:
    """An id that the table does not have: how large the table is, and what to check."""
    ran = run("cell", files_toml, nucleus_id)
    assert ran.status == 1
    assert ran.error == f"no such nucleus in the table of 3 nuclei: {nucleus_id}; check the ids and the version"


@pytest.mark.parametrize("option", ["--json", "--mesh"])
@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("nowhere/cell.ply", "No such file or directory"),
        ("file/cell.ply", "Not a directory"),
        ("folder.ply", "Is a directory"),
        ("/proc/cell.ply", "No such file or directory"),
    ],
)
def test_places_that_cannot_be_written(run: Run, option: str, place: str, says: str) -> None:
    """A file that cannot be written is told before anything else is looked at, the dataset included."""
    Path("file").touch()
    Path("folder.ply").mkdir()
    ran = run("cell", "a dataset that does not exist", 5, option, place)
    assert ran.status == 1
    assert ran.error == f"cannot write {place}: {says}; choose another place"
    assert sorted(path.name for path in Path().iterdir()) == ["file", "folder.ply"]


def test_a_file_that_is_there_stays_until_the_work_is_done(run: Run) -> None:
    """Trying whether a file can be written leaves what is in it, should the measurement fail."""
    Path("row.json").write_text("precious")
    assert run("cell", "a dataset that does not exist", 5, "--json", "row.json").status == 1
    assert Path("row.json").read_text() == "precious"
