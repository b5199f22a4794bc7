"""From the query to the table: what a run leaves behind."""

import hashlib
import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import trimesh
from cloudvolume import CloudVolume
from extracting import TOKEN, Results, changed, error_of, proofread, run, without_nuclei

import somatic.report.overview
from flows.listening import Listener, heard_by
from sandbox.cave.server import CaveServer, Datastack
from sandbox.lab import datastack, write_cave_dataset, write_file_dataset
from sandbox.phantom.scene import Scene
from somatic.errors import WrongSegmentation
from somatic.features import COLUMNS, CORRECTED_ONLY
from somatic.storage.store import ResultStore

STATUS_OF_ROLE = {
    "ordinary": ("ok", None),
    "edge": ("ok", None),
    "merged": ("ok", None),
    "re-rooted": ("ok", None),
    "moved": ("ok", None),
    "no mesh": ("failed", "the nucleus segmentation has no mesh of nucleus {nucleus}"),
    "not in segmentation": ("failed", "root id {root} has no voxel in the cutout"),
    "no root": ("skipped", "no root id at this version"),
    "root 0": ("skipped", "no root id at this version"),
    "root 1": ("skipped", "no root id at this version"),
}
"""definitions.md, "Status of a row", and what a person reads."""
NUCLEUS = ["nucleus_volume_um", "nucleus_area_um", "nuclear_folding_area_um", "nucleus_center_x_nm"]
SOMA = ["soma_volume_um", "soma_area_um", "soma_synapse_number", "soma_center_x_nm", "n_components"]
BOTH = ["nucleus_to_soma_ratio", "soma_to_nucleus_center_dist"]


@pytest.fixture(scope="module")
def whole(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Version 1 of the scene behind CAVE, with the meshes of nuclei and somata."""
    folder = tmp_path_factory.mktemp("whole")
    with CaveServer(datastack(scene)) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAVE_TOKEN", "any")
        path = write_cave_dataset(scene, server.url, folder / "phantom.toml")
        path = changed(path, ("mip = 0\n", "mip = 0\ncutout_radius_um = 3\n"))
        state = run(path, folder / "results", version=1, meshes=True)
    assert state.is_completed(), state
    return Results(str(folder / "results"))


def test_every_nucleus_has_one_row_with_status_and_reason(whole: Results, scene: Scene) -> None:
    """The table has the nuclei of the query, each once, and says of each how it came out and why."""
    listed = {truth.nucleus_id: truth for truth in scene.truth.values() if 1 in truth.roots}
    assert set(whole.table["status"].index) == set(listed)
    assert len(whole.table) == len(listed)
    for nucleus_id, row in whole.table.iterrows():
        truth = listed[nucleus_id]
        status, reason = STATUS_OF_ROLE[truth.role]
        expected = reason and reason.format(nucleus=nucleus_id, root=truth.roots[1])
        assert (row["status"], row["reason"]) == (status, expected), truth.role


def test_corrected_definitions(whole: Results, scene: Scene, tmp_path: Path) -> None:
    """They stand in a folder and a table of their own, each row says it, and their columns have values."""
    ordinary = [number for number, truth in scene.truth.items() if truth.role == "ordinary" and 1 in truth.roots][:2]
    path = write_file_dataset(scene, 1, tmp_path / "phantom.toml")
    path = changed(path, ("mip = 0\n", 'mip = 0\ncutout_radius_um = 3\ndefinitions = "corrected"\n'))
    asked = tmp_path / "nuclei.txt"
    asked.write_text("\n".join(map(str, ordinary)))
    assert run(path, tmp_path / "results", nuclei=str(asked)).is_completed()
    results = Results(str(tmp_path / "results"))
    assert results.store.url.rpartition("/")[2] != whole.store.url.rpartition("/")[2]
    rows = results.table.loc[ordinary]
    assert rows["status"].eq("ok").all()
    assert rows["definitions"].eq("corrected").all()
    # A depth of folds is null where nothing is folded.
    assert rows[sorted(CORRECTED_ONLY - {"fold_depth_95_nm"})].notna().all(axis=None)
    assert whole.table[sorted(CORRECTED_ONLY)].isna().all(axis=None)


def test_what_could_not_be_measured_is_null(whole: Results, scene: Scene) -> None:
    """Each status leaves exactly the columns null that definitions.md says; nothing is NaN in a column of numbers."""
    table = pq.read_table(whole.store.url_of("features.parquet"))
    rows = {row["nucleus_id"]: row for row in table.to_pylist()}
    for truth in scene.truth.values():
        if 1 not in truth.roots:
            continue
        status, _ = STATUS_OF_ROLE[truth.role]
        null = {"skipped": NUCLEUS + SOMA + BOTH, "ok": []}.get(status)
        if null is None:
            null = (NUCLEUS if truth.role == "no mesh" else SOMA) + BOTH
        row = rows[truth.nucleus_id]
        assert [name for name in NUCLEUS + SOMA + BOTH if row[name] is None] == null, truth.role
        assert not any(value != value for value in row.values()), truth.role


def test_nuclei_are_those_that_were_made(whole: Results, scene: Scene) -> None:
    """Volume and centre of each nucleus are those of the voxels it was made of."""
    table = whole.table
    for truth in scene.truth.values():
        if 1 in truth.roots and pd.notna(table.loc[truth.nucleus_id, "nucleus_volume_um"]):
            row = table.loc[truth.nucleus_id]
            assert row["nucleus_volume_um"] == pytest.approx(truth.volume_um3, rel=0.05)
            centre_nm = row[[f"nucleus_center_{axis}_nm" for axis in "xyz"]].to_numpy(float)
            assert np.linalg.norm(centre_nm - truth.centre_nm) < 100


def test_ids_are_exact_integers_for_plain_pandas(whole: Results, scene: Scene) -> None:
    """Root ids above 2^53 and the 0 of a nucleus without one come back as int64, to the last digit."""
    table = pd.read_parquet(whole.store.url_of("features.parquet"))
    assert table["soma_id"].dtype == table["nucleus_id"].dtype == np.int64
    made = {truth.nucleus_id: truth.roots[1] for truth in scene.truth.values() if 1 in truth.roots}
    assert dict(zip(table["nucleus_id"], table["soma_id"], strict=True)) == made
    assert max(made.values()) > 2**53
    assert table["nucleus_id"].is_monotonic_increasing
    assert list(table.columns) == [column.name for column in COLUMNS]


def test_nuclei_that_share_a_root_know_it(whole: Results, scene: Scene) -> None:
    """Two somata under one root are counted as such, the others as one, those without a root not at all."""
    shared = {truth.nucleus_id for truth in scene.with_role("merged")}
    for nucleus_id, row in whole.table.iterrows():
        expected = 2 if nucleus_id in shared else 1 if row["soma_id"] else None
        assert (row["n_nuclei_in_segment"] if pd.notna(row["n_nuclei_in_segment"]) else None) == expected


def test_the_query_and_the_plan_are_kept(whole: Results, scene: Scene) -> None:
    """nuclei.parquet holds what the server was asked for; the plan holds each nucleus once, in chunks of three."""
    store = whole.store
    asked = pd.read_parquet(store.url_of("nuclei.parquet"))
    served = scene.nuclei(1).sort_values("id")
    assert asked["nucleus_id"].tolist() == served["id"].tolist()
    assert asked["x_vx"].tolist() == served["pt_position_lookup_x"].tolist()
    [name] = store.names("plans")
    plan = pd.read_parquet(store.url_of(f"plans/{name}"))
    assert sorted(plan["nucleus_id"]) == asked["nucleus_id"].tolist()
    assert plan.loc[plan["chunk"] >= 0, "chunk"].value_counts().tolist() == [3, 3, 3, 3]
    assert set(plan.loc[plan["chunk"] < 0, "status_reason"]) == {"no root id at this version"}


def test_the_manifest_says_what_the_table_was_made_from(whole: Results) -> None:
    """Hashes, counts, version and moment are right, and the dataset stands in it."""
    store = whole.store
    manifest = json.loads(store.get("manifest.json"))
    for name in ("features.parquet", "nuclei.parquet"):
        assert manifest["sha256"][name] == hashlib.sha256(Path(store.url_of(name)).read_bytes()).hexdigest()
    statuses = whole.table["status"].value_counts()
    assert manifest["counts"] == {
        "queried": 15,
        "nuclei": 15,
        "planned": 15,
        "ok": statuses["ok"],
        "failed": statuses["failed"],
        "skipped": statuses["skipped"],
        "failed_transient": 0,
        "carried": 0,
    }
    assert manifest["materialization_version"] == 1
    assert manifest["materialization_timestamp"] == "2024-04-20T20:17:09.199182+00:00"
    assert manifest["plan"] + ".parquet" == store.names("plans")[0]
    assert manifest["config_hash"] == store.url.rpartition("/")[2]
    assert manifest["dataset"]["cave"]["datastack"] == "phantom"
    assert manifest["libraries"]["zmesh"]


def test_soma_meshes_open_in_cloud_volume(whole: Results) -> None:
    """Every measured soma has a mesh under its nucleus id, of the volume that the table says; the skipped have none."""
    layer = CloudVolume(f"precomputed://file://{whole.store.url_of('meshes')}", progress=False)
    table = whole.table
    for nucleus_id, volume_um3 in table["soma_volume_um"].dropna().items():
        mesh = layer.mesh.get(nucleus_id)
        assert trimesh.Trimesh(mesh.vertices / 1000, mesh.faces).volume == pytest.approx(volume_um3, rel=1e-3)
    without = table.index[table["soma_volume_um"].isna()]
    stored = whole.store.names("meshes/mesh")
    assert len(without)
    assert not any(name.startswith(f"{nucleus_id}:") for name in stored for nucleus_id in without)


def test_provenance_says_when_and_how_long(whole: Results) -> None:
    """Each row names its chunk file, and a measured one the seconds that it took."""
    provenance, chunks = whole.provenance, whole.chunks
    for nucleus_id, row in provenance.iterrows():
        assert nucleus_id in chunks[f"{row['chunk']}.parquet"]
    measured = whole.table["status"] == "ok"
    assert (provenance.loc[measured, "seconds"] > 0).all()
    assert set(provenance.loc[whole.table["status"] == "failed", "error_class"]) == {
        "MissingSegment",
        "MissingNucleusMesh",
    }


def test_a_bucket_gets_the_same_bytes_as_a_folder(
    dataset: Path, s3_url: str, undisturbed: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On S3, in chunks of another size, the table is the same, and nothing is written into the current folder."""
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    place = f"{s3_url}/extract"
    assert run(dataset, place, chunk=5).is_completed()
    assert Results(place).features == undisturbed.features
    assert set(tmp_path.iterdir()) == before


def test_another_version_is_another_table(cave_dataset: Path, scene: Scene, tmp_path: Path) -> None:
    """The latest version is found, has its own rows and roots, and lies beside the first."""
    assert run(cave_dataset, tmp_path / "results", version=1).is_completed()
    before = Results(str(tmp_path / "results")).features
    assert run(cave_dataset, tmp_path / "results", version="latest").is_completed()
    second = Results(str(tmp_path / "results"), version=2)
    made = {truth.nucleus_id: truth.roots[2] for truth in scene.truth.values() if 2 in truth.roots}
    assert second.table["soma_id"].to_dict() == made
    assert len(made) == 16
    assert (second.table["materialization_version"] == 2).all()
    assert Results(str(tmp_path / "results")).features == before


def test_tables_from_cave_and_from_files_give_the_same_bytes(
    cave_dataset: Path, undisturbed: Results, tmp_path: Path
) -> None:
    """Where the tables come from makes no difference to the features."""
    assert run(cave_dataset, tmp_path / "results", version=1).is_completed()
    assert Results(str(tmp_path / "results")).features == undisturbed.features


def test_a_segmentation_of_another_version_stops_at_the_check(stack: Datastack, scene: Scene, tmp_path: Path) -> None:
    """With the copy of an earlier version, before every cell was edited, nothing is measured; both are named."""
    stack.versions.append(proofread(stack.version(2), 3))
    with CaveServer(stack, token=TOKEN) as server:
        path = without_nuclei(write_cave_dataset(scene, server.url, tmp_path / "phantom.toml"))
        state = run(changed(path, ("\n2 = ", "\n3 = ")), tmp_path / "results", version=3)
    error = error_of(state)
    assert isinstance(error, WrongSegmentation)
    assert str(error).startswith(f"{scene.segmentation_url(2)} is not the segmentation of phantom v3: at 13 of 13 ")
    store = Results(str(tmp_path / "results"), version=3).store
    assert store.names("chunks") == []
    assert not store.exists("features.parquet")


def test_a_report_that_fails_does_not_fail_the_extraction(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The table is whole and the run completed; one line of the log says what happened, and how to make the report."""

    def fail(_store: ResultStore) -> str:
        raise ValueError("no plot today")

    monkeypatch.setattr(somatic.report.overview, "put_report", fail)
    state = run(dataset, tmp_path / "results", limit=2)
    assert state.is_completed(), state
    results = Results(str(tmp_path / "results"))
    assert len(results.table) == 2
    assert not results.store.exists("report.html")
    [line] = [record.getMessage() for record in caplog.records if "no report" in record.getMessage()]
    assert line == f"no report was written (ValueError: no plot today); somatic report {results.store.url} makes it"


def test_what_a_person_should_know_is_told_once(stack: Datastack, cave_dataset: Path, tmp_path: Path) -> None:
    """Where the token goes, and that the version may be gone at any moment."""
    told: list[str] = []
    stack.versions[1] = replace(stack.versions[1], expires_on=datetime(2020, 1, 1, 12))
    with heard_by(Listener(on_remark=told.append)):
        assert run(cave_dataset, tmp_path / "results", limit=1).is_completed()
    assert told == [
        "the token of CAVE goes to 127.0.0.1 only",
        "phantom v2 expired on 2020-01-01 12:00 UTC; CAVE still serves it, but may drop it at any moment",
    ]
