"""`somatic.extracting.prepare` and `somatic.extracting.finishing`: an extraction from a notebook, without Prefect."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import somatic.report.overview
from sandbox.lab import write_file_dataset
from somatic.dataset import load_dataset
from somatic.extracting.chunk import cells_of
from somatic.extracting.extraction import Extraction
from somatic.extracting.finishing import finish
from somatic.extracting.prepare import prepare
from somatic.extracting.shards import Selection, open_shard
from somatic.results.chunks import STAGES, put_rows
from somatic.results.nuclei import put_nuclei
from somatic.results.runs import Run
from somatic.results.table import load_tables
from somatic.tables import Nuclei


@pytest.fixture
def extraction(phantom: Any, tmp_path: Path) -> Extraction:
    """Version 1 of the phantom in small cutouts, tables in files."""
    dataset = load_dataset(write_file_dataset(phantom.scene, 1, tmp_path / "phantom.toml"))
    return Extraction.open(dataset.model_copy(update={"cutout_radius_um": 5.0}), results=str(tmp_path / "results"))


@pytest.fixture
def nuclei(extraction: Extraction) -> Nuclei:
    """Its nuclei, kept beside the results."""
    nuclei = extraction.source.nuclei()
    put_nuclei(extraction.store, nuclei)
    return nuclei


@pytest.fixture
def two(phantom: Any, nuclei: Nuclei) -> Selection:
    """A cell with all there is to measure, and a nucleus without a root."""
    rootless = nuclei.frame.loc[nuclei.frame["root_id"] == 0, "nucleus_id"].tolist()
    return Selection(nucleus_ids=[phantom.scene.with_role("ordinary")[0].nucleus_id, rootless[0]])


@pytest.fixture
def run(extraction: Extraction) -> Run:
    """A run by hand."""
    return Run("by-hand", extraction.version, extraction.config_hash, None, 20, datetime.now(UTC))


def test_from_the_plan_to_the_report(extraction: Extraction, nuclei: Nuclei, two: Selection, run: Run) -> None:
    """What shards need is there before a cell is measured; at the end every file is, and the manifest has its hash."""
    store = extraction.store
    planned = prepare(extraction, nuclei, two, run)
    assert store.names("") == ["chunks", "meshes", "nuclei.parquet", "plans", "snapshots"]
    assert planned.ledger.count(planned.plan.rows) == {"skipped": 1}
    shard = open_shard(store, planned.plan.hash, 0, 1, run.id, 2**30, again=False)
    assert len(shard.missing) == 1
    synapses = extraction.synapses_of(cells_of(shard.missing, shard.resolution_nm))
    put_rows(store, extraction.extract(shard.missing, shard.resolution_nm, synapses=synapses), run.id)

    finished = finish(extraction, planned.plan, nuclei, run, planned.estimate)
    counts = finished.collected.planned
    assert (counts.total, counts.ok, counts.skipped, counts.complete) == (2, 1, 1, True)
    assert (finished.cost.cells_computed, finished.changes, finished.report_fault) == (1, None, None)
    assert finished.report == store.url_of("report.html")
    manifest = json.loads(store.get("manifest.json"))
    said = manifest["counts"]
    assert (said["queried"], said["nuclei"], said["planned"]) == (len(nuclei.frame), 2, 2)
    assert sorted(manifest["sha256"]) == ["features.parquet", "flags.parquet", "nuclei.parquet"]
    for name, stated in manifest["sha256"].items():
        assert hashlib.sha256(store.get(name)).hexdigest() == stated
    assert b'"segment_properties"' in store.get("meshes/info")
    # Every stage is noted, and there is no other.
    [row] = [row for row in load_tables(store).provenance.to_pylist() if row["source"] == "computed"]
    assert sum(row[f"seconds_{stage}"] for stage in STAGES) == pytest.approx(row["seconds"])


def test_a_report_that_fails(
    extraction: Extraction, nuclei: Nuclei, two: Selection, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table is there without it; cells that nobody came to say why."""

    def fail(_store: object) -> str:
        raise ValueError("no plot today")

    monkeypatch.setattr(somatic.report.overview, "put_report", fail)
    planned = prepare(extraction, nuclei, two, run)
    finished = finish(extraction, planned.plan, nuclei, run, planned.estimate, fault="somebody stopped it")
    assert finished.report is None
    assert str(finished.report_fault) == "no plot today"
    assert set(finished.collected.failures["reason"]) == {"not measured yet: somebody stopped it"}
    assert not finished.collected.planned.complete
    assert extraction.store.exists("manifest.json")
