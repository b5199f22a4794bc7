"""Result sets of strangers: a report, an export, a status and rows to reuse, or one line, whatever the files hold."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trimesh
from cage import Cage, Outcome
from damage import damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import FIRST_ID, RADIUS_NM, RESOLUTION_NM, made_nuclei, run

from somatic.errors import SomaticError
from somatic.planning.plan import load_plan, make_plan, save_plan
from somatic.report.overview import make_report
from somatic.report.results import read_results, stored_meshes
from somatic.results.base import Base
from somatic.results.changes import find_changes, put_changes
from somatic.results.collect import gather
from somatic.results.compare import compare
from somatic.results.export import seed_files, to_csv
from somatic.results.ledger import Ledger
from somatic.results.manifest import make_manifest, put_manifest
from somatic.results.mesh_layer import MeshLayer
from somatic.results.nuclei import put_nuclei
from somatic.results.runs import Run
from somatic.results.sets import result_sets
from somatic.results.status import read_status
from somatic.results.table import load_tables, put_tables
from somatic.storage.parquet import parquet_bytes
from somatic.storage.store import ResultStore

SET = "v1300/0a1b2c3d"
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
few = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def put_set(results: ResultStore) -> str:
    """A complete result set of six nuclei with all its files; gives the hash of its plan."""
    store = results.below(SET)
    nuclei = made_nuclei(6, rootless=[1])
    plan = make_plan(nuclei, radius_nm=RADIUS_NM, chunk=3)
    save_plan(store, plan)
    put_nuclei(store, nuclei)
    Run("run", 1300, "0a1b2c3d", plan.hash, 20, datetime.now(UTC) - timedelta(minutes=5), base="v1/0a1b2c3d").put(
        results
    )
    run(store, plan)
    rows = gather(store, plan, nuclei, materialization_version=1300, definitions="published")
    collected = put_tables(store, plan, rows)
    store.put("changes.parquet", parquet_bytes(find_changes(load_tables(store).features, load_tables(store).features)))
    layer = MeshLayer(store.url_of("meshes"))
    layer.put(FIRST_ID, trimesh.creation.icosphere(1, 5000))
    store.put("meshes/info", b'{"type": "segmentation"}')
    full_run = {"cells": 6, "requests": 20, "segmentation_bytes": 2_000_000, "bytes_from": "estimate"}
    put_manifest(
        store,
        make_manifest(
            dataset={"name": "mine", "pia": {"point_nm": [0, 0, 0], "down": [0, 1, 0]}},
            materialization_version=1300,
            materialization_timestamp=MOMENT,
            config={"definitions": "published", "mip": 3, "cutout_radius_um": 15.0, "segmentation_kind": "flat"},
            config_hash="0a1b2c3d",
            layers={"segmentation": "precomputed://gs://a/b", "nuclei": None, "resolution_nm": list(RESOLUTION_NM)},
            plan_hash=plan.hash,
            counts={"nuclei": 6, "queried": 6, "failed_transient": 0},
            files={"features.parquet": collected.features},
            started=MOMENT,
            finished=MOMENT,
            cost={"requests": {"query": 2}, "cells_computed": 5, "cells_carried": 0, "full_run": full_run}
            | {"segmentation_files": 3, "segmentation_bytes": 1000},
            changes={"base": "v1/0a1b2c3d"},
        ),
    )
    return plan.hash


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Folder of a result set that is as it should be, and the hash of its plan."""
    folder = tmp_path_factory.mktemp("results")
    return str(folder), put_set(ResultStore(str(folder)))


def read_all(folder: str, plan_hash: str, name: str, content: bytes, with_report: bool = False) -> list[str]:
    """Read a set in every way, with another content of one of its files; gives what the refusals say."""
    path = Path(folder) / name
    before = path.read_bytes()
    path.write_bytes(content)
    results = ResultStore(folder)
    store = results.below(SET)
    ways: list[Callable[[], Any]] = [
        lambda: result_sets(results),
        lambda: read_status(results),
        lambda: Base(results, SET).rows([FIRST_ID, FIRST_ID + 1]),
        lambda: load_plan(store, plan_hash),
        lambda: Ledger.load(store),
        lambda: compare(store.url, store.url),
        lambda: put_changes(store, store),
        lambda: export(store),
        lambda: MeshLayer(store.url_of("meshes")).get(FIRST_ID),
        lambda: read_results(store),
    ]
    if with_report:
        ways.append(lambda: report(store))
    refusals = []
    changes = (Path(store.url) / "changes.parquet").read_bytes()
    try:
        for way in ways:
            try:
                way()
            except SomaticError as error:
                refusals.append(str(error))
    finally:
        (Path(store.url) / "changes.parquet").write_bytes(changes)
        path.write_bytes(before)
    return refusals


def export(store: ResultStore) -> None:
    """Write the table in the forms that need no more packages."""
    features = load_tables(store).features
    to_csv(features)
    list(seed_files(features))


def report(store: ResultStore) -> None:
    """Draw the page, with a picture of the mesh."""
    found = read_results(store)
    make_report(found, stored_meshes(found))


def check(cage: Cage, good: tuple[str, str], name: str, content: bytes, *, with_report: bool = False) -> list[str]:
    """Read the set with another content of a file; what is refused is refused in lines."""
    refusals = cage.read(read_all, *good, name, content, with_report).value
    for text in refusals:
        Outcome(text=text).check()
    return refusals


FILES = (
    f"{SET}/features.parquet",
    f"{SET}/provenance.parquet",
    f"{SET}/changes.parquet",
    f"{SET}/nuclei.parquet",
    f"{SET}/manifest.json",
    f"{SET}/meshes/mesh/{FIRST_ID}:0:0",
    "runs/run.json",
    "plan",
    "chunk",
)


def named(good: tuple[str, str], name: str) -> str:
    """The file of a kind."""
    kinds = {"plan": "plans/*", "chunk": "chunks/*"}
    if name not in kinds:
        return name
    return str(next((Path(good[0]) / SET).glob(kinds[name])).relative_to(good[0]))


def test_a_good_set(cage: Cage, good: tuple[str, str]) -> None:
    """Nothing of it is refused."""
    name = f"{SET}/manifest.json"
    assert check(cage, good, name, (Path(good[0]) / name).read_bytes(), with_report=True) == []


@pytest.mark.parametrize("name", FILES)
@few
@given(data=st.data())
def test_files_that_are_cut_and_swapped(cage: Cage, good: tuple[str, str], name: str, data: st.DataObject) -> None:
    """Each file of a set, however it is damaged."""
    name = named(good, name)
    check(cage, good, name, data.draw(damaged((Path(good[0]) / name).read_bytes())))
