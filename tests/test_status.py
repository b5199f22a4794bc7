"""`somatic.results.status`: how an extraction stands, read from what it stored."""

from datetime import UTC, datetime, timedelta

import pytest
from stores import RADIUS_NM, made_nuclei, run

from somatic.errors import PermanentError
from somatic.planning.plan import Plan, make_plan, save_plan
from somatic.results.nuclei import put_nuclei
from somatic.results.runs import Run
from somatic.results.status import read_status
from somatic.storage.store import ResultStore


def begun(results: ResultStore, n: int, version: int = 1300, minutes_ago: float = 10) -> tuple[ResultStore, Plan]:
    """A run that has planned: its store and its plan, in chunks of 3, one nucleus to be skipped."""
    store = ResultStore(results.url_of(f"v{version}/0a1b2c3d"))
    nuclei = made_nuclei(n, rootless=[0])
    plan = make_plan(nuclei, radius_nm=RADIUS_NM, chunk=3)
    save_plan(store, plan)
    put_nuclei(store, nuclei)
    started = datetime.now(UTC) - timedelta(minutes=minutes_ago)
    Run(f"run-of-{version}", version, "0a1b2c3d", plan.hash, 20, started).put(results)
    return store, plan


def test_before_the_first_cell(store_url: str) -> None:
    """Everything is still to be measured, at no rate, and nothing has failed."""
    results = ResultStore(store_url)
    store, _ = begun(results, 10)
    status = read_status(results)
    assert (status.counts.total, status.counts.unmeasured, status.counts.skipped) == (10, 9, 1)
    assert (status.reasons, status.per_minute, status.left_s) == ({}, 0.0, None)
    assert status.results == store.url


def test_in_the_middle(store_url: str) -> None:
    """Cells by status, reasons, and at the rate of the last ten minutes the time that is left."""
    results = ResultStore(store_url)
    store, plan = begun(results, 16)
    outcomes = dict(zip(plan.rows["nucleus_id"], ["ok", "permanent", "transient"], strict=False))
    run(store, plan, order=[0, 1, 2], outcome=lambda nucleus_id, _: outcomes.get(nucleus_id, "ok"))
    status = read_status(results)
    counts = status.counts
    assert (counts.total, counts.ok, counts.failed - counts.transient) == (16, 7, 1)
    assert (counts.transient - counts.unmeasured, counts.unmeasured, counts.skipped) == (1, 6, 1)
    assert status.reasons == {"it was made to be permanent": 1, "it was made to be transient": 1}
    assert status.per_minute == pytest.approx(8 / 10, rel=0.05)
    assert status.left_s == pytest.approx(60 * 6 / (8 / 10), rel=0.05)


def test_what_was_stored_long_ago_is_no_rate(store_url: str) -> None:
    """A run that stands still has no rate and no time left."""
    results = ResultStore(store_url)
    store, plan = begun(results, 16, minutes_ago=600)
    run(store, plan, order=[0])
    status = read_status(results, now=datetime.now(UTC) + timedelta(hours=1))
    assert (status.counts.ok, status.per_minute, status.left_s) == (3, 0.0, None)


def test_the_latest_run_is_meant(store_url: str) -> None:
    """Of several runs the one that began last, or the last of the version that is asked for."""
    results = ResultStore(store_url)
    begun(results, 5, version=1300, minutes_ago=30)
    begun(results, 7, version=1412, minutes_ago=20)
    assert read_status(results).run.version == 1412
    assert read_status(results, 1300).counts.total == 5
    with pytest.raises(PermanentError, match="no extraction of version 117 has begun at .*; say with --to"):
        read_status(results, 117)


def test_no_run_at_all(store_url: str) -> None:
    """Where nobody has begun anything, that is said."""
    with pytest.raises(PermanentError, match="no extraction has begun at "):
        read_status(ResultStore(store_url))
