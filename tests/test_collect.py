"""The table of features: each nucleus exactly once, the same bytes however it came about."""

import hashlib
import io
import json
import subprocess
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import FIRST_ID, FIRST_ROOT, MEMORY, RADIUS_NM, made_nuclei, measured, run

from somatic.errors import StoreError
from somatic.features import COLUMNS, SCHEMA, features_versions
from somatic.planning.plan import NO_POSITION, NO_ROOT, Plan, make_plan
from somatic.results.chunks import put_rows
from somatic.results.collect import NO_RESULT, gather
from somatic.results.ledger import chunk_names
from somatic.results.manifest import make_manifest, put_manifest
from somatic.results.table import PROVENANCE_SCHEMA, Collected, load_tables, put_tables
from somatic.software import code_version
from somatic.storage.parquet import get_tables, parquet_bytes
from somatic.storage.store import ResultStore
from somatic.tables import Nuclei


def collected(store: ResultStore, plan: Plan, nuclei: Nuclei, memory_bytes: int = MEMORY) -> Collected:
    """Collect with the version and definitions of the made-up rows."""
    rows = gather(store, plan, nuclei, materialization_version=1300, definitions="published", memory_bytes=memory_bytes)
    return put_tables(store, plan, rows)


def table(store: ResultStore, name: str = "features.parquet") -> pd.DataFrame:
    """What a scientist reads with pandas alone, by nucleus counted from FIRST_ID."""
    frame = pd.read_parquet(io.BytesIO(store.get(name)))
    return frame.set_index(frame["nucleus_id"] - FIRST_ID)


def test_full_run(store_url: str) -> None:
    """Every nucleus has its row: measured ones their numbers, skipped ones their reason, in order of the ids."""
    store = ResultStore(store_url)
    nuclei = made_nuclei(8, rootless=[2], placeless=[5])
    plan = make_plan(nuclei, radius_nm=RADIUS_NM, chunk=3)
    run(store, plan, outcome=lambda nucleus_id, _: "permanent" if nucleus_id == FIRST_ID + 3 else "ok")
    result = collected(store, plan, nuclei)
    rows = table(store)
    assert rows.index.tolist() == list(range(8))
    assert rows["status"].tolist() == ["ok", "ok", "skipped", "failed", "ok", "skipped", "ok", "ok"]
    assert rows["reason"].dropna().tolist() == [NO_ROOT, "it was made to be permanent", NO_POSITION]
    assert rows["soma_volume_um"].fillna(-1).tolist() == [0, 1, -1, -1, 4, -1, 6, 7]
    assert (result.planned.total, result.planned.ok, result.planned.failed, result.planned.skipped) == (8, 5, 1, 2)
    assert result.planned == result.table
    assert result.planned.complete
    assert result.failures["nucleus_id"].tolist() == [FIRST_ID + 3]


def test_plain_pandas_keeps_ids(store_url: str) -> None:
    """Plain pandas reads int64 ids, exact, with skipped rows in the table; no column named after an index."""
    store = ResultStore(store_url)
    nuclei = made_nuclei(5, rootless=[1, 2])
    plan = make_plan(nuclei, radius_nm=RADIUS_NM)
    run(store, plan)
    collected(store, plan, nuclei)
    for name in ("features.parquet", "provenance.parquet"):
        rows = table(store, name)
        assert rows["nucleus_id"].dtype == np.int64
        assert rows["soma_id"].dtype == np.int64
        assert rows["nucleus_id"].tolist() == [FIRST_ID + i for i in range(5)]
        assert rows["soma_id"].tolist() == [FIRST_ROOT, 0, 0, FIRST_ROOT + 3, FIRST_ROOT + 4]
    assert table(store).columns.tolist() == [column.name for column in COLUMNS]


def test_files_carry_units(store_url: str) -> None:
    """Both files have their schema, with the unit and the meaning of each column; the table has its versions too."""
    store = ResultStore(store_url)
    nuclei = made_nuclei(2)
    plan = make_plan(nuclei, radius_nm=RADIUS_NM)
    run(store, plan)
    collected(store, plan, nuclei)
    versions = {name.encode(): str(version).encode() for name, version in features_versions().items()}
    expected = (("features.parquet", SCHEMA, versions), ("provenance.parquet", PROVENANCE_SCHEMA, None))
    for name, schema, metadata in expected:
        read = pq.read_schema(pa.BufferReader(store.get(name)))
        assert read.equals(schema)
        assert read.field("nucleus_id").metadata[b"description"]
        assert read.metadata == metadata
    assert SCHEMA.field("soma_volume_um").metadata[b"unit"] == b"um^3"


def test_smaller_plan_does_not_shrink_the_table(store_url: str) -> None:
    """A run of five after a full one leaves all rows, and counts its five; the bytes stay the same."""
    store = ResultStore(store_url)
    nuclei = made_nuclei(12, rootless=[7])
    plan = make_plan(nuclei, radius_nm=RADIUS_NM, chunk=4)
    run(store, plan)
    full = collected(store, plan, nuclei)
    five = make_plan(nuclei, radius_nm=RADIUS_NM, limit=5)
    assert run(store, five) == []
    again = collected(store, five, nuclei)
    assert again.features == full.features
    assert (again.planned.total, again.table.total) == (5, 12)


def test_nuclei_that_left_the_table_leave_the_features(store_url: str) -> None:
    """A cell whose root moved has its new row only, and a nucleus that is gone has none."""
    store = ResultStore(store_url)
    nuclei = made_nuclei(4)
    run(store, make_plan(nuclei, radius_nm=RADIUS_NM))
    now = made_nuclei(3)
    now.frame.loc[1, "root_id"] += 500
    plan = make_plan(now, radius_nm=RADIUS_NM)
    assert run(store, plan) == [FIRST_ID + 1]
    collected(store, plan, now)
    assert table(store)["soma_id"].tolist() == [FIRST_ROOT, FIRST_ROOT + 501, FIRST_ROOT + 2]


def test_transient_failure_is_told_then_forgotten(store_url: str) -> None:
    """A cell that failed for now has that reason and makes the run incomplete; measured later, it is as if never."""
    store = ResultStore(store_url)
    nuclei = made_nuclei(4)
    plan = make_plan(nuclei, radius_nm=RADIUS_NM, chunk=2)
    fails = {FIRST_ID + 2}
    run(store, plan, outcome=lambda nucleus_id, _: "transient" if nucleus_id in fails else "ok")
    result = collected(store, plan, nuclei)
    assert table(store).loc[2, ["status", "reason"]].tolist() == ["failed", "it was made to be transient"]
    assert (result.planned.transient, result.planned.unmeasured, result.planned.complete) == (1, 0, False)
    provenance = table(store, "provenance.parquet")
    assert provenance["transient"].tolist() == [False, False, True, False]
    assert provenance.loc[2, "error_class"] == "SegmentationUnavailable"
    assert run(store, plan) == [FIRST_ID + 2]
    assert collected(store, plan, nuclei).planned.complete
    undisturbed = ResultStore(f"{store_url}/undisturbed")
    run(undisturbed, plan)
    assert store.get("features.parquet") == collected(undisturbed, plan, nuclei).features


def test_latest_transient_failure_is_told(store_url: str) -> None:
    """Of several failures of one cell the one that happened last gives the reason."""
    store = ResultStore(store_url)
    nuclei = made_nuclei(1)
    plan = make_plan(nuclei, radius_nm=RADIUS_NM)
    (cell,) = plan.rows.astype(object).to_dict("records")
    for trial, (run_id, reason) in enumerate([("b", "first"), ("a", "second"), ("c", "third"), ("a", "last")], 1):
        put_rows(store, [{**measured(cell, "transient"), "reason": reason}], run_id, trial)
    collected(store, plan, nuclei)
    assert table(store)["reason"].tolist() == ["last"]


def test_run_that_ended_early(store_url: str) -> None:
    """Cells that no run has come to say so and how to go on; nuclei to be skipped are skipped all the same."""
    store = ResultStore(store_url)
    nuclei = made_nuclei(6, rootless=[1])
    plan = make_plan(nuclei, radius_nm=RADIUS_NM, chunk=2)
    run(store, plan, stop_after=1)
    result = collected(store, plan, nuclei)
    rows = table(store)
    assert rows["status"].value_counts().to_dict() == {"failed": 3, "ok": 2, "skipped": 1}
    assert set(rows.loc[rows["status"] == "failed", "reason"]) == {NO_RESULT}
    assert rows["centre_x_nm"].notna().all()
    assert (result.planned.transient, result.planned.unmeasured, result.planned.complete) == (3, 3, False)
    assert table(store, "provenance.parquet")["source"].value_counts().to_dict() == {"computed": 2}


def test_highest_attempt_wins(store_url: str) -> None:
    """After a retry the new row stands, better or worse, and a plan of the first attempt sees it too."""
    store = ResultStore(store_url)
    nuclei = made_nuclei(3)
    plan = make_plan(nuclei, radius_nm=RADIUS_NM)
    run(store, plan, outcome=lambda nucleus_id, _: "permanent" if nucleus_id == FIRST_ID else "ok")
    retry = make_plan(nuclei, radius_nm=RADIUS_NM, attempts={FIRST_ID: 2, FIRST_ID + 1: 2})
    run(store, retry, outcome=lambda nucleus_id, _: "permanent" if nucleus_id == FIRST_ID + 1 else "ok")
    for which in (retry, plan):
        collected(store, which, nuclei)
        assert table(store)["status"].tolist() == ["ok", "failed", "ok"]
    assert table(store, "provenance.parquet")["attempt"].tolist() == [2, 2, 1]


def test_forced_attempt_that_failed_for_now_does_not_hide_behind_the_old_row(store_url: str) -> None:
    """Whoever asks for a new attempt is told that it failed; without asking for it the old row stands again."""
    store = ResultStore(store_url)
    nuclei = made_nuclei(2)
    plan = make_plan(nuclei, radius_nm=RADIUS_NM)
    run(store, plan)
    forced = make_plan(nuclei, radius_nm=RADIUS_NM, attempts={FIRST_ID: 2, FIRST_ID + 1: 2})
    run(store, forced, outcome=lambda *_: "transient")
    assert collected(store, forced, nuclei).planned.transient == 2
    assert collected(store, plan, nuclei).planned.ok == 2


def test_nuclei_in_one_segment_are_counted_in_the_present_table(store_url: str) -> None:
    """n_nuclei_in_segment is that of the nucleus table of today, null without a root."""
    store = ResultStore(store_url)
    nuclei = made_nuclei(3, rootless=[2])
    plan = make_plan(nuclei, radius_nm=RADIUS_NM)
    run(store, plan)
    grown = made_nuclei(4, rootless=[2])
    grown.frame.loc[3, "root_id"] = FIRST_ROOT
    collected(store, plan, grown)
    assert table(store)["n_nuclei_in_segment"].fillna(-1).tolist() == [2, 1, -1]


def test_damaged_chunk_file_is_named_and_nothing_is_written(store_url: str) -> None:
    """A chunk file that cannot be read stops the collecting, which leaves the last table as it was."""
    store = ResultStore(store_url)
    nuclei = made_nuclei(4)
    plan = make_plan(nuclei, radius_nm=RADIUS_NM, chunk=2)
    run(store, plan)
    before = collected(store, plan, nuclei).features
    damaged = chunk_names(store)[0]
    store.put(damaged, store.get(damaged)[:100])
    with pytest.raises(StoreError, match=damaged):
        collected(store, plan, nuclei)
    assert store.get("features.parquet") == before


def test_chunk_file_without_a_newer_column(store_url: str) -> None:
    """A chunk file from before a column existed is read; the column is null there."""
    store = ResultStore(store_url)
    nuclei = made_nuclei(4)
    plan = make_plan(nuclei, radius_nm=RADIUS_NM, chunk=2)
    run(store, plan)
    old = chunk_names(store)[0]
    (rows,) = get_tables(store, [old])
    store.put(old, parquet_bytes(rows.drop_columns(["seconds_folds", "soma_volume_um"])))
    collected(store, plan, nuclei)
    assert table(store)["soma_volume_um"].isna().sum() == 2


def test_chunk_file_of_other_stages(store_url: str) -> None:
    """One with the seconds of a stage that is no more, and without those of a stage that came later, is read."""
    store = ResultStore(store_url)
    nuclei = made_nuclei(4)
    plan = make_plan(nuclei, radius_nm=RADIUS_NM, chunk=2)
    run(store, plan)
    old = chunk_names(store)[0]
    (rows,) = get_tables(store, [old])
    rows = rows.drop_columns(["seconds_store"]).append_column("seconds_measure", pa.array([1.0, 1.0]))
    store.put(old, parquet_bytes(rows))
    collected(store, plan, nuclei)
    provenance = table(store, "provenance.parquet")
    assert provenance.columns.tolist() == PROVENANCE_SCHEMA.names
    assert provenance["seconds_read"].tolist() == [0.5] * 4
    assert provenance["seconds_store"].isna().all()


def test_tables_of_an_older_somatic(store_url: str) -> None:
    """What it did not note of a row is null, and what nobody notes any more is left out."""
    store = ResultStore(store_url)
    nuclei = made_nuclei(4)
    plan = make_plan(nuclei, radius_nm=RADIUS_NM)
    run(store, plan)
    sha256 = collected(store, plan, nuclei).sha256
    (old,) = get_tables(store, ["provenance.parquet"])
    old = old.drop_columns(["seconds_store"]).append_column("seconds_measure", pa.nulls(4, pa.float64()))
    store.put("provenance.parquet", parquet_bytes(old))
    found = load_tables(store)
    assert found.provenance.schema.equals(PROVENANCE_SCHEMA)
    assert found.provenance["seconds_store"].null_count == 4
    assert found.provenance["seconds_mask"].to_pylist() == [0.25] * 4
    assert found.features["nucleus_id"].to_pylist() == [FIRST_ID + i for i in range(4)]
    assert found.sha256 == sha256


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_course_of_events_gives_the_same_bytes(data: st.DataObject) -> None:
    """Whatever the chunks, order, limits, failures and kills: each nucleus once, same bytes, nothing done twice."""
    n = data.draw(st.integers(1, 14), label="nuclei")
    numbers = st.integers(0, n - 1)
    nuclei = made_nuclei(
        n,
        rootless=list(data.draw(st.sets(numbers, max_size=3))),
        placeless=list(data.draw(st.sets(numbers, max_size=3))),
    )
    final = {
        FIRST_ID + i: data.draw(st.sampled_from(["ok", "ok", "permanent", "killed"]), label=f"outcome of {i}")
        for i in range(n)
    }
    with tempfile.TemporaryDirectory() as folder:
        store = ResultStore(f"{folder}/disturbed")
        finished: list[int] = []
        for number in range(data.draw(st.integers(0, 4), label="disturbed runs")):
            plan = make_plan(
                nuclei,
                radius_nm=RADIUS_NM,
                chunk=data.draw(st.integers(1, 6), label="chunk"),
                limit=data.draw(st.none() | st.integers(1, n), label="limit"),
            )
            flaky = data.draw(st.sets(numbers, max_size=3), label="transient")
            touched = run(
                store,
                plan,
                outcome=lambda nucleus_id, _, flaky=flaky: (
                    "transient" if nucleus_id - FIRST_ID in flaky else final[nucleus_id]
                ),
                order=data.draw(st.permutations(range(plan.n_chunks)), label="order"),
                stop_after=data.draw(st.none() | st.integers(0, 3), label="killed after"),
                run_id=f"run-{number}",
            )
            assert set(finished).isdisjoint(touched)
            partial = collected(store, plan, nuclei)
            assert partial.planned.total == len(plan.rows)
            rows = table(store)
            assert rows["nucleus_id"].is_unique
            assert set(plan.rows["nucleus_id"]) <= set(rows["nucleus_id"])
            done = rows.loc[rows["reason"].ne(NO_RESULT) & rows["reason"].ne("it was made to be transient")]
            finished = sorted(set(done.loc[done["status"] != "skipped", "nucleus_id"]))

        plan = make_plan(nuclei, radius_nm=RADIUS_NM, chunk=data.draw(st.integers(1, 6), label="last chunk"))
        last = run(store, plan, outcome=lambda nucleus_id, _: final[nucleus_id])
        assert set(last).isdisjoint(finished)
        result = collected(store, plan, nuclei)
        assert table(store)["nucleus_id"].tolist() == nuclei.frame["nucleus_id"].tolist()
        assert result.planned.complete

        undisturbed = ResultStore(f"{folder}/undisturbed")
        run(undisturbed, make_plan(nuclei, radius_nm=RADIUS_NM), outcome=lambda nucleus_id, _: final[nucleus_id])
        assert collected(undisturbed, make_plan(nuclei, radius_nm=RADIUS_NM), nuclei).features == result.features


def test_two_runs_at_the_same_time(store_url: str) -> None:
    """Two runs that measured the same cells in different chunks leave one row for each nucleus."""
    store = ResultStore(store_url)
    nuclei = made_nuclei(7)
    for chunk in (2, 3):
        plan = make_plan(nuclei, radius_nm=RADIUS_NM, chunk=chunk)
        for number in range(plan.n_chunks):
            rows = plan.rows[plan.rows["chunk"] == number].astype(object).to_dict("records")
            put_rows(store, [measured(cell, "ok") for cell in rows], f"run-{chunk}")
    result = collected(store, plan, nuclei)
    assert result.table.total == 7
    alone = ResultStore(f"{store_url}/alone")
    run(alone, plan)
    assert collected(alone, plan, nuclei).features == result.features


def test_manifest_is_complete_and_readable(store_url: str) -> None:
    """The manifest says what went in and what came out; ids are integers, keys sorted, hashes those of the files."""
    store = ResultStore(store_url)
    manifest = make_manifest(
        dataset={"name": "minnie65", "mip": 3},
        materialization_version=1300,
        materialization_timestamp=datetime(2025, 1, 13, 10, 10, 1, 286229, tzinfo=UTC),
        config={"definitions": "published", "mip": 3},
        config_hash="aba8410b",
        layers={"segmentation": "precomputed://gs://bucket/seg", "nuclei": None, "resolution_nm": [4, 4, 40]},
        plan_hash="0123456789abcdef",
        counts={"ok": 5, "failed": 0, "largest": 2**63 - 1},
        files={"features.parquet": b"content"},
        started=datetime(2026, 1, 1, tzinfo=UTC),
        finished=datetime(2026, 1, 1, 1, tzinfo=UTC),
        cost={"requests": {"leaves": 2}},
    )
    put_manifest(store, manifest)
    text = store.get("manifest.json").decode()
    read = json.loads(text)
    assert read["dataset"] == {"name": "minnie65", "mip": 3}
    assert read["materialization_timestamp"] == "2025-01-13T10:10:01.286229+00:00"
    assert read["counts"]["largest"] == 9223372036854775807
    assert read["sha256"] == {"features.parquet": hashlib.sha256(b"content").hexdigest()}
    assert {"numpy", "scipy", "trimesh", "zmesh", "numba", "cloud-volume", "python"} <= set(read["libraries"])
    assert list(read) == sorted(read)
    assert text.endswith("}\n")
    assert len(text.splitlines()) > 20


def test_code_version_names_the_commit() -> None:
    """In a checkout the version of the code is that of the package with the commit that git names."""
    root = Path(__file__).parent.parent
    git = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if git.returncode or not (root / ".git").exists():
        pytest.skip("no git checkout with a commit")
    number, commit = code_version().removesuffix(".dirty").split("+g")
    assert git.stdout.startswith(commit)
    assert len(commit) == 12
    assert number == version("somatic-features")
