"""Extractions on a cluster, whatever is away for a while, or busy: they wait, and end as if nothing had been."""

import time
from datetime import timedelta

import pytest
from extracting import Results, Spot
from lab import WORKERS, Extraction, Lab, check, check_table, kill
from prefect.events.schemas.automations import EventTrigger
from prefect.states import Cancelling

from deployments.automations import silent_runs

pytestmark = pytest.mark.timeout(1200)


def test_prefect_server_away(extraction: Extraction, lab: Lab, undisturbed: Results) -> None:
    """While Prefect's server is away the shards measure on, and the extraction waits longer than its client tries."""
    lab.server.stop()
    lab.repair()
    time.sleep(90)
    lab.server.start()
    check(extraction, undisturbed)
    # A shard that could not tell that it had ended starts once more, and finds nothing to do.
    assert extraction.run.run_count == 1


def test_s3_busy_then_slow(extraction: Extraction, lab: Lab, undisturbed: Results) -> None:
    """Half a minute of 503 and another in which every answer takes a second cost time alone."""
    lab.s3.busy = True
    lab.release()
    time.sleep(30)
    lab.s3.busy, lab.s3.delay_s = False, 1.0
    time.sleep(30)
    lab.s3.delay_s = 0.0
    assert lab.s3.refused
    check(extraction, undisturbed)


def test_cave_has_had_enough(lab: Lab, undisturbed: Results) -> None:
    """A 500 of CAVE that hides a 429 is waited for by all, and costs nothing."""
    lab.cave.rate_limit(6, window_seconds=20)
    n_before = len(lab.cave.requests)
    extraction = lab.extract()
    check(extraction, undisturbed)
    assert 500 in {request.status for request in lab.cave.requests[n_before:]}


def test_cancelled(lab: Lab, undisturbed: Results) -> None:
    """Cancelled in the UI, its shards stop and their pods go; a new run measures what is missing."""
    for spot in lab.spots:
        lab.hold(spot)
    extraction = lab.extract()
    extraction.until(lambda: sum(lab.is_held(spot) for spot in lab.spots) == 2 * WORKERS)
    lab.client.set_flow_run_state(extraction.id, Cancelling())
    assert extraction.ended().is_cancelled(), extraction.story()
    extraction.until(lambda: all(run.state_name == "Cancelled" for run in extraction.shards()))
    runs = [extraction.run, *extraction.shards()]
    extraction.until(lambda: not any(lab.cluster.pod_of(run.id) for run in runs))
    lab.repair()
    stored = set(extraction.results.stored)
    again = lab.extract(to=extraction.results.root)
    check_table(again, undisturbed)
    assert again.measured() == {spot.nucleus_id: int(spot.nucleus_id not in stored) for spot in lab.spots}


@pytest.fixture
def _short_silence(lab: Lab) -> None:
    """The automation for silent runs waits 70 s in place of half an hour: a sign of life comes every 30 s."""
    automation = silent_runs()
    assert isinstance(automation.trigger, EventTrigger)
    automation.trigger.within = timedelta(seconds=70)
    [known] = lab.client.read_automations_by_name(automation.name)
    lab.client.update_automation(known.id, automation)


# The automation first: one that is changed forgets the signs of life that it knew.
@pytest.mark.usefixtures("_short_silence")
def test_worker_and_pod_killed(extraction: Extraction, held: tuple[int, Spot], lab: Lab, undisturbed: Results) -> None:
    """A shard that nobody is left to speak for is marked Crashed for its silence, and started again."""
    shard = extraction.shard_of(held[0])
    lab.worker.kill()
    kill(lab.processes_of(shard.id))
    extraction.until(lambda: extraction.shard_of(held[0]).state_name == "Crashed")
    state = extraction.shard_of(held[0]).state
    assert state
    assert "No sign of life" in (state.message or "")
    lab.worker.start()
    lab.repair()
    check(extraction, undisturbed, at_most_twice=WORKERS)
