"""Extractions on a cluster, whatever dies: every cell once, nothing measured twice but what was in hand."""

from collections.abc import Callable

import pandas as pd
import pytest
from extracting import Results, Spot
from file_server import Fault
from lab import WORKERS, Extraction, Lab, check, kill
from prefect.client.schemas.objects import FlowRun

pytestmark = pytest.mark.timeout(1200)


def test_normal(lab: Lab, undisturbed: Results) -> None:
    """Each shard is one Job, each cell is measured once, and the table is that of one machine to the last byte."""
    extraction = lab.extract()
    check(extraction, undisturbed)
    shards = extraction.shards()
    assert [(run.parameters["start"], run.parameters["stop"]) for run in shards] == [(0, 6), (6, 12)]
    assert [lab.cluster.count_jobs(run.id) for run in (extraction.run, *shards)] == [1, 1, 1]


def engine_killed(lab: Lab, run: FlowRun) -> None:
    """SIGKILL of the flow's process."""
    kill([process for process in lab.processes_of(run.id) if "prefect.engine" in process.cmdline()])


def pod_killed(lab: Lab, run: FlowRun) -> None:
    """SIGKILL of everything in a pod."""
    kill(lab.processes_of(run.id))


def pod_deleted(lab: Lab, run: FlowRun) -> None:
    """A person deletes a pod."""
    lab.cluster.delete_pod(lab.cluster.pod_of(run.id))


def pod_evicted(lab: Lab, run: FlowRun) -> None:
    """A node is emptied."""
    lab.cluster.evict(lab.cluster.pod_of(run.id))


def job_deleted(lab: Lab, run: FlowRun) -> None:
    """A person deletes a Job."""
    lab.cluster.delete_job(lab.cluster.job_of(run.id))


@pytest.mark.parametrize("accident", [engine_killed, pod_killed, pod_deleted, pod_evicted, job_deleted])
def test_shard(
    accident: Callable[[Lab, FlowRun], None],
    extraction: Extraction,
    held: tuple[int, Spot],
    lab: Lab,
    undisturbed: Results,
) -> None:
    """A shard that dies in the middle of its work is started again, and costs what it had in hand."""
    chunk, spot = held
    accident(lab, extraction.shard_of(chunk))
    check(extraction, undisturbed, at_most_twice=WORKERS)
    assert extraction.measured()[spot.nucleus_id] == 2
    assert extraction.shard_of(chunk).run_count == 2
    assert len(extraction.shards()) == 2


def test_parent_pod_deleted(extraction: Extraction, lab: Lab, undisturbed: Results) -> None:
    """A parent that is asked to end is started again, finds its shards at work, and costs nothing."""
    pod_deleted(lab, extraction.run)
    extraction.until(lambda: extraction.run.run_count == 2)
    lab.repair()
    check(extraction, undisturbed)
    assert len(extraction.shards()) == 2


def test_parent_pod_killed(extraction: Extraction, lab: Lab, undisturbed: Results) -> None:
    """A parent that was killed is started again by the server, finds its shards at work, and costs nothing."""
    pod_killed(lab, extraction.run)
    extraction.until(lambda: extraction.run.run_count == 2)
    lab.repair()
    check(extraction, undisturbed)
    assert len(extraction.shards()) == 2


def test_memory_limit(lab: Lab, held: tuple[int, Spot], undisturbed: Results) -> None:
    """A cell that needs more memory than its pod has fails alone: no pod is killed for it, and its neighbours stand."""
    _, spot = held
    # A view, since a failure would print the bytes themselves.
    lab.bucket.faults[spot.file] = Fault(body=memoryview(bytes(4 * 2**30)), encoding="identity")
    extraction = lab.extract()
    assert extraction.ended().is_completed(), extraction.story()
    assert [run.run_count for run in (extraction.run, *extraction.shards())] == [1, 1, 1]
    assert extraction.results.stored == undisturbed.stored
    failed = extraction.results.provenance.loc[spot.nucleus_id]
    assert (failed["error_class"], bool(failed["transient"])) == ("CellKilled", False)
    others, expected = (results.table.drop(index=spot.nucleus_id) for results in (extraction.results, undisturbed))
    pd.testing.assert_frame_equal(others, expected)
    # Once with its chunk, once alone.
    assert extraction.measured() == {each.nucleus_id: 2 if each == spot else 1 for each in lab.spots}
