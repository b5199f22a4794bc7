"""Result sets of strangers: a report, an export, a status and rows to reuse, or one line, whatever the files hold."""

import csv
import io
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trimesh
from cage import Cage, Outcome
from damage import damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import FIRST_ID, RADIUS_NM, RESOLUTION_NM, made_nuclei, run

from somatic.errors import SomaticError
from somatic.planning.plan import Plan, load_plan, make_plan, save_plan
from somatic.report.overview import make_report
from somatic.report.results import read_results, stored_meshes
from somatic.results.base import Base
from somatic.results.changes import find_changes
from somatic.results.collect import gather, reasons_of
from somatic.results.compare import compare
from somatic.results.export import seed_files, to_csv
from somatic.results.ledger import Ledger
from somatic.results.manifest import make_manifest, put_manifest
from somatic.results.mesh_layer import MeshLayer
from somatic.results.nuclei import load_nuclei, put_nuclei
from somatic.results.runs import Run
from somatic.results.sets import result_sets
from somatic.results.status import read_status
from somatic.results.table import load_tables, put_tables
from somatic.storage.parquet import parquet_bytes
from somatic.storage.store import ResultStore

SET = "v1300/0a1b2c3d"
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
few = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def put_set(results: ResultStore) -> str:
    """A complete result set of six nuclei with all its files; gives the hash of its plan."""
    store = results.below(SET)
    nuclei = made_nuclei(6, rootless=[1])
    plan = make_plan(nuclei, radius_nm=RADIUS_NM, chunk=3)
    save_plan(store, plan)
    put_nuclei(store, nuclei)
    Run("run", 1300, "0a1b2c3d", plan.hash, 20, datetime.now(UTC) - timedelta(minutes=5), bases=("v1/0a1b2c3d",)).put(
        results
    )
    run(store, plan)
    rows = gather(store, plan, nuclei, materialization_version=1300, definitions="published")
    collected = put_tables(store, plan, rows)
    features = load_tables(store).features
    changed = features.set_column(features.schema.get_field_index("soma_id"), "soma_id", pa.array([7] * 6))
    store.put("changes.parquet", parquet_bytes(find_changes(features, changed)))
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


class Found(NamedTuple):
    """Results of a dataset, a set of them, and the hash of its plan."""

    results: ResultStore
    store: ResultStore
    plan_hash: str


def read_in(ways: tuple[str, ...], folder: str, plan_hash: str, name: str, content: bytes) -> list[str]:
    """Read a set in some ways, with another content of one of its files; gives what the refusals say."""
    path = Path(folder) / name
    before = path.read_bytes()
    path.write_bytes(content)
    results = ResultStore(folder)
    found = Found(results, results.below(SET), plan_hash)
    refusals = []
    try:
        for way in ways:
            try:
                WAYS[way](found)
            except SomaticError as error:
                refusals.append(str(error))
    finally:
        path.write_bytes(before)
    return refusals


def collect(found: Found) -> None:
    """Gather the rows of the chunk files."""
    plan = load_plan(found.store, found.plan_hash)
    nuclei = load_nuclei(found.store, plan.resolution_nm)
    gather(found.store, plan, nuclei, materialization_version=1, definitions="published")


def export(found: Found) -> None:
    """Write the table in the forms that need no more packages."""
    features = load_tables(found.store).features
    to_csv(features)
    list(seed_files(features))


def report(found: Found) -> None:
    """Draw the page, with a picture of the mesh."""
    results = read_results(found.store)
    make_report(results, stored_meshes(results))


WAYS: dict[str, Callable[[Found], Any]] = {
    "sets": lambda found: result_sets(found.results),
    "status": lambda found: read_status(found.results),
    "base": lambda found: Base(found.results, SET).load().rows([FIRST_ID, FIRST_ID + 1]),
    "plan": lambda found: load_plan(found.store, found.plan_hash),
    "ledger": lambda found: Ledger.load(found.store),
    "compare": lambda found: compare(found.store.url, found.store.url),
    "changes": lambda found: find_changes(*[load_tables(found.store).features] * 2),
    "mesh": lambda found: MeshLayer(found.store.url_of("meshes")).get(FIRST_ID),
    "results": lambda found: read_results(found.store),
    "collect": collect,
    "export": export,
    "report": report,
}
FILES = {
    "features.parquet": ("base", "compare", "changes", "export"),
    "provenance.parquet": ("base", "results"),
    "changes.parquet": ("results",),
    "nuclei.parquet": ("collect",),
    "manifest.json": ("sets", "base", "results"),
    f"meshes/mesh/{FIRST_ID}:0:0": ("mesh",),
    "runs": ("status",),
    "plans": ("plan",),
    "chunks": ("ledger", "collect"),
}
"""Files of a set, or folders with one that is meant, and what reads them."""


def path_of(good: tuple[str, str], name: str) -> str:
    """Path of a file below the folder of the results."""
    folder = Path(good[0])
    found = folder / name if name == "runs" else folder / SET / name
    return str((next(found.iterdir()) if found.is_dir() else found).relative_to(folder))


def read(cage: Cage, good: tuple[str, str], name: str, content: bytes, ways: tuple[str, ...] = ()) -> list[str]:
    """Read the set with another content of a file; each refusal is one line."""
    refusals = cage.read(read_in, ways or FILES[name], *good, path_of(good, name), content).value
    for text in refusals:
        Outcome(text=text).check()
    return refusals


def content_of(good: tuple[str, str], name: str) -> bytes:
    """What a file of the good set holds."""
    return (Path(good[0]) / path_of(good, name)).read_bytes()


def test_a_good_set(cage: Cage, good: tuple[str, str]) -> None:
    """Nothing of it is refused."""
    assert read(cage, good, "manifest.json", content_of(good, "manifest.json"), tuple(WAYS)) == []


@pytest.mark.parametrize("name", FILES)
@few
@given(data=st.data())
def test_files_that_are_cut_and_swapped(cage: Cage, good: tuple[str, str], name: str, data: st.DataObject) -> None:
    """Each file of a set, however it is damaged."""
    read(cage, good, name, data.draw(damaged(content_of(good, name))))


ABSURD: list[Any] = [None, -1, 0, 2**63, 10**30, 1e300, "", "x" * 5000, "\x1b[2J", "../../../etc", [], {}, [[]], True]


@pytest.mark.parametrize("name", ["manifest.json", "runs"])
@few
@given(data=st.data())
def test_values_of_json(cage: Cage, good: tuple[str, str], name: str, data: st.DataObject) -> None:
    """Any value anywhere in a manifest, or in what is noted of a run."""
    whole = json.loads(content_of(good, name))
    place = data.draw(st.sampled_from(sorted(places(whole), key=str)))
    changed = with_value(whole, place, data.draw(st.sampled_from(ABSURD)))
    read(cage, good, name, json.dumps(changed).encode())


def test_a_report_of_absurd_values(cage: Cage, good: tuple[str, str]) -> None:
    """The page is drawn, or refused in one line, whatever a manifest says."""
    whole = json.loads(content_of(good, "manifest.json"))
    for place in (("layers", "segmentation"), ("dataset", "pia", "down"), ("cost", "full_run"), ("libraries",)):
        for value in ("\x1b[2J", 10**400, [0, 0, 0]):
            changed = json.dumps(with_value(whole, place, value)).encode()
            read(cage, good, "manifest.json", changed, ("report",))


def places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Keys that lead to each value of a JSON object."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(found for key, one in inside for found in places(one, (*place, key)))]


def with_value(whole: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A JSON object with another value somewhere."""
    if not place:
        return value
    changed = dict(whole) if isinstance(whole, dict) else list(whole)
    changed[place[0]] = with_value(changed[place[0]], place[1:], value)
    return changed


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(("parquet", "s")) and name != "runs"])
@few
@given(data=st.data())
def test_columns_of_a_table(cage: Cage, good: tuple[str, str], name: str, data: st.DataObject) -> None:
    """A column that is gone, twice, empty, of another type or of absurd values; no row, or each row twice."""
    table = pq.read_table(pa.BufferReader(content_of(good, name)))
    number = data.draw(st.integers(0, table.num_columns - 1))
    field, n = table.schema.field(number), table.num_rows
    made = data.draw(
        st.sampled_from(
            [
                table.drop_columns([field.name]),
                table.append_column(field.name, table[number]),
                table.set_column(number, field.name, pa.nulls(n, field.type)),
                table.slice(0, 0),
                pa.concat_tables([table, table]),
                table.replace_schema_metadata({b"resolution_nm": b"nan 0", b"pandas": b"{"}),
                *(table.set_column(number, field.name, pa.array([value] * n)) for value in VALUES),
                *(table.set_column(number, field.name, pa.array([value] * n, field.type)) for value in of_type(field)),
            ]
        )
    )
    read(cage, good, name, parquet_bytes(made.cast(pa.schema([one.with_nullable(True) for one in made.schema]))))


VALUES: list[Any] = ["a", "\x1b[2J", 1.5, True, [1], b"x", -1, {"a": 1}]


def of_type(field: pa.Field) -> list[Any]:
    """The farthest values of a type."""
    if pa.types.is_integer(field.type):
        return [-(2**63), 2**63 - 1, 0, -1]
    if pa.types.is_floating(field.type):
        return [float("nan"), float("inf"), 1e308, -1e308, 5e-324]
    return ["", "x" * 100_000, "=cmd()"] if pa.types.is_string(field.type) else []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("config", "../../etc"),
        ("config", "0a1b2c3d/.."),
        ("plan", "../../../etc/passwd"),
        ("bases", ["../v1/0a1b2c3d"]),
        ("id", "../../run"),
        ("version", 10**30),
        ("chunks_per_shard", 0),
    ],
)
def test_a_run_cannot_name_another_place(cage: Cage, good: tuple[str, str], key: str, value: Any) -> None:
    """Names in it become names of folders."""
    noted = json.loads(content_of(good, "runs")) | {key: value}
    (refusal,) = read(cage, good, "runs", json.dumps(noted).encode())
    assert "note of a" in refusal


def test_a_plan_of_a_billion_chunks(cage: Cage, good: tuple[str, str]) -> None:
    """Whoever writes a plan can name it by its hash, so that its numbers are looked at too."""
    folder, plan_hash = good
    store = ResultStore(folder).below(SET)
    plan = load_plan(store, plan_hash)
    huge = Plan(plan.rows.assign(chunk=10**9), plan.resolution_nm)
    save_plan(store, huge)
    refused = cage.read(load_plan, store, huge.hash)
    (Path(store.url) / huge.name).unlink()
    assert "does not hold what its name says" in refused.text


@pytest.mark.parametrize("name", ["manifest.json", "runs"])
def test_json_that_is_deep_or_large(cage: Cage, good: tuple[str, str], name: str) -> None:
    """Neither nesting nor numbers nor length without end are read."""
    for content in (b"[" * 10**5, b'{"a":' * 10**5, b'{"counts": ' + b"9" * 5000 + b"}", b'{"a": NaN}', b" " * 2**23):
        assert read(cage, good, name, content)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file(cage: Cage, tmp_path: Path, kind: str) -> None:
    """A pipe is not waited for, and a device not read to its end."""
    put_set(ResultStore(str(tmp_path)))
    path = tmp_path / SET / "manifest.json"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    assert "not a regular file" in cage.read(read_report, str(tmp_path)).text


def read_report(folder: str) -> None:
    """Read the files of a report."""
    read_results(ResultStore(folder).below(SET))


def test_reasons_and_formulas(good: tuple[str, str]) -> None:
    """What cells are said to have failed for is printable, and no formula of a spreadsheet."""
    features = pq.read_table(pa.BufferReader(content_of(good, "features.parquet")))
    reasons = ["=HYPERLINK()", "+1", "-1", "@x", "\x1b[2J\n", "no voxel"]
    evil = features.set_column(features.schema.get_field_index("reason"), "reason", pa.array(reasons)).set_column(
        features.schema.get_field_index("status"), "status", pa.array(["failed"] * 6)
    )
    frame = evil.select(["nucleus_id", "soma_id", "reason"]).to_pandas()
    assert all(reason.isprintable() for reason in reasons_of(frame))
    written = list(csv.DictReader(io.StringIO(to_csv(evil).decode())))
    assert [row["reason"][:2] for row in written] == ["'=", "'+", "'-", "'@", "\x1b[", "no"]
    assert [row["soma_volume_um"] for row in written] == ["0", "", "2", "3", "4", "5"]
