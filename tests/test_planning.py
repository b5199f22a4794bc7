"""Shards and what they know, and what a run leaves for its retries."""

import json
from datetime import UTC, datetime

import pytest
from stores import MEMORY, RADIUS_NM, made_nuclei, measured, run

from somatic.errors import StoreError
from somatic.extracting.estimate import LayerSize, make_estimate
from somatic.extracting.shards import Planned, Shard, open_shard, snapshot_name
from somatic.planning.plan import Plan, make_plan, save_plan
from somatic.results.chunks import put_rows
from somatic.results.ledger import Ledger
from somatic.results.runs import Run, load_run, load_runs
from somatic.storage.store import ResultStore


def made_plan(n: int) -> Plan:
    """A plan of made-up nuclei in chunks of 3, two of them to be skipped."""
    return make_plan(made_nuclei(n, rootless=[0], placeless=[1]), radius_nm=RADIUS_NM, chunk=3)


def planned(plan: Plan, ledger: Ledger, chunks_per_shard: int = 2) -> Planned:
    """What is left of a plan."""
    missing = ledger.missing(plan.rows)
    layer = LayerSize((64.0, 64.0, 40.0), (0, 0, 0), (10_000, 10_000, 100_000), (256, 256, 32))
    estimate = make_estimate(
        plan, missing, layer=layer, radius_nm=RADIUS_NM, worker_memory_bytes=1, chunks_per_shard=chunks_per_shard
    )
    return Planned(plan, ledger, missing[missing["chunk"] >= 0], estimate, chunks_per_shard)


def ranges(shards: list[Shard]) -> list[tuple[int, int]]:
    """First and last chunk, as flow runs are given them."""
    return [(shard.start, shard.stop) for shard in shards]


def ids(shards: list[Shard]) -> list[int]:
    """All nuclei that are missing in some shards."""
    return [nucleus_id for shard in shards for nucleus_id in shard.missing["nucleus_id"].tolist()]


def test_shards_hold_every_cell_once() -> None:
    """13 cells in 5 chunks are 3 shards of 2 chunks, the last of one; those to be skipped are in none."""
    plan = made_plan(15)
    shards = planned(plan, Ledger()).shards()
    assert ranges(shards) == [(0, 2), (2, 4), (4, 5)]
    assert ids(shards) == plan.rows.loc[plan.rows["chunk"] >= 0, "nucleus_id"].tolist()


def test_ranges_do_not_depend_on_what_is_done(store_url: str) -> None:
    """With chunks done, the other shards have the ranges that they had: a retried run finds its flow runs by them."""
    store, plan = ResultStore(store_url), made_plan(15)
    before = ids(planned(plan, Ledger()).shards())
    done = run(store, plan, order=[0, 1, 3])
    shards = planned(plan, Ledger.load(store)).shards()
    assert ranges(shards) == [(2, 4), (4, 5)]
    assert ids(shards) == [nucleus_id for nucleus_id in before if nucleus_id not in done]


@pytest.mark.parametrize(("cells", "sizes"), [(1, [1, 1, 1, 1, 1]), (3, [1, 1, 1, 1, 1]), (4, [2, 2, 1]), (99, [5])])
def test_batches_are_of_whole_chunks(cells: int, sizes: list[int]) -> None:
    """A batch has at least so many cells, but for the last; together they are the shard."""
    [shard] = planned(made_plan(15), Ledger(), chunks_per_shard=9).shards()
    batches = list(shard.batches(cells))
    assert [len(batch) for batch in batches] == sizes
    assert [number for batch in batches for number, _ in batch] == [0, 1, 2, 3, 4]
    assert [len(rows) for batch in batches for _, rows in batch] == [3, 3, 3, 3, 1]


def test_a_shard_in_another_process_knows_the_same(store_url: str) -> None:
    """By plan, range and snapshot, also of failed and killed cells; nothing else is read."""
    store, plan = ResultStore(store_url), made_plan(15)
    outcomes = dict(zip(plan.rows["nucleus_id"], ["ok", "permanent", "killed", "transient"], strict=False))
    run(store, plan, order=[0, 1], outcome=lambda nucleus_id, _: outcomes.get(nucleus_id, "ok"))
    save_plan(store, plan)
    ledger = Ledger.load(store, MEMORY)
    ledger.put_snapshot(store, snapshot_name("r1"))
    for start, stop, memory_bytes in ((0, 2, MEMORY), (0, 2, 2 * MEMORY), (2, 5, MEMORY)):
        expected = Ledger.load(store, memory_bytes).missing(plan.rows)
        expected = expected[expected["chunk"].between(start, stop - 1)]
        shard = open_shard(store, plan.hash, start, stop, "r1", memory_bytes, again=False)
        assert shard.missing.equals(expected)
        assert shard.resolution_nm == plan.resolution_nm
    # What was tried with half the memory is missing with twice as much.
    assert len(open_shard(store, plan.hash, 0, 2, "r1", MEMORY, again=False).missing) == 1
    assert len(open_shard(store, plan.hash, 0, 2, "r1", 2 * MEMORY, again=False).missing) == 2


def test_a_shard_that_runs_again_sees_what_it_did(store_url: str) -> None:
    """Cells stored since the snapshot are done for the second attempt of a shard."""
    store, plan = ResultStore(store_url), made_plan(15)
    save_plan(store, plan)
    Ledger().put_snapshot(store, snapshot_name("r1"))
    shard = open_shard(store, plan.hash, 2, 5, "r1", MEMORY, again=False)
    assert len(shard.missing) == 7
    cells = shard.missing.astype(object).to_dict("records")
    put_rows(store, [measured(cell, "ok") for cell in cells[:2]], "r1")
    left = open_shard(store, plan.hash, 2, 5, "r1", MEMORY, again=True).missing["nucleus_id"].tolist()
    assert left == [cell["nucleus_id"] for cell in cells[2:]]


def test_counts_follow_the_store(store_url: str) -> None:
    """Who watches from outside reads what is new and counts it, each file once."""
    store, plan = ResultStore(store_url), made_plan(15)
    watching = Ledger()
    assert watching.read_new(store) == 0
    outcomes = dict(zip(plan.rows["nucleus_id"], ["ok", "permanent", "transient", "ok"], strict=False))
    run(store, plan, order=[0, 1], outcome=lambda nucleus_id, _: outcomes.get(nucleus_id, "ok"))
    # Two chunk files, and one of the nuclei to be skipped.
    assert watching.read_new(store) == 3
    assert watching.read_new(store) == 0
    assert watching.count(plan.rows) == {"ok": 4, "failed": 1, "skipped": 2}


def test_a_plan_that_is_not_there(store_url: str) -> None:
    """A shard of a plan that somebody deleted says which file is missing."""
    with pytest.raises(StoreError, match="plans/0123456789abcdef.parquet"):
        open_shard(ResultStore(store_url), "0123456789abcdef", 0, 2, "r1", MEMORY, again=False)


def test_runs_are_noted(store_url: str) -> None:
    """A run is read back as it was written; the latest comes first; one that has not planned is unknown."""
    results = ResultStore(store_url)
    first, second = (
        Run(f"00000000-0000-0000-0000-00000000000{n}", 1300, "0a1b2c3d", "0123456789abcdef", 20, started)
        for n, started in enumerate([datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 3, 4, 5, 6, 7, tzinfo=UTC)])
    )
    second.put(results)
    assert load_run(results, first.id) is None
    first.put(results)
    assert load_run(results, first.id) == first
    assert load_runs(results) == [second, first]


def test_a_run_of_a_newer_somatic(store_url: str) -> None:
    """What it notes besides is passed over."""
    results = ResultStore(store_url)
    run_of_then = Run("r1", 1300, "0a1b2c3d", None, 20, datetime(2026, 1, 2, tzinfo=UTC), whole=True)
    run_of_then.put(results)
    noted = json.loads(results.get("runs/r1.json"))
    results.put("runs/r1.json", json.dumps(noted | {"colour": {"of": "the moon"}}).encode())
    assert load_runs(results) == [run_of_then]


def test_a_run_of_an_older_somatic(store_url: str) -> None:
    """It lacks what was not noted then; the moment is the same in any time zone."""
    results = ResultStore(store_url)
    older = {"id": "r1", "version": 1300, "config": "0a1b2c3d", "plan": None, "chunks_per_shard": 20}
    results.put("runs/r1.json", json.dumps(older | {"started": "2026-01-02T05:00:00+02:00"}).encode())
    assert load_run(results, "r1") == Run("r1", 1300, "0a1b2c3d", None, 20, datetime(2026, 1, 2, 3, tzinfo=UTC))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"id": "r1", "version": 13',
        b"[]",
        b'{"id": "r1"}',
        b'{"id": "r1", "version": "new", "config": "0a1b2c3d", "plan": null, "chunks_per_shard": 9, "started": "then"}',
    ],
    ids=["empty", "cut", "a list", "too little", "other types"],
)
def test_a_damaged_run(store_url: str, content: bytes) -> None:
    """One line names the file, and says what to do."""
    results = ResultStore(store_url)
    results.put("runs/r1.json", content)
    with pytest.raises(
        StoreError, match=r"runs/r1\.json is no note of a run; delete it, which costs nothing"
    ) as caught:
        load_runs(results)
    assert "\n" not in str(caught.value)
