"""Task runs that a killed attempt left behind."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import AwaitingRetry, Cancelled, Completed, Crashed, Failed, Pending, Running, Scheduled

import tasks.stale
from tasks.stale import close_stale_task_runs

UNFINISHED: dict[str, Callable[[], State]] = {
    "running": Running,
    "pending": Pending,
    "scheduled": Scheduled,
    "waiting for its retry": AwaitingRetry,
}
FINISHED: dict[str, Callable[[], State]] = {
    "completed": Completed,
    "failed": Failed,
    "cancelled": Cancelled,
    "crashed": Crashed,
}
KILLED = """
import time
from pathlib import Path
from prefect import flow, task
from prefect.runtime import flow_run

@task
def finished():
    pass

@task
def under_way():
    time.sleep(600)

@flow
def shard():
    Path("shard").write_text(str(flow_run.id))
    time.sleep(600)

@flow
def extraction():
    Path("extraction").write_text(str(flow_run.id))
    finished()
    under_way.submit()
    shard()

extraction()
"""


@task
def chunk() -> None:
    """Stand for the tasks of a run."""


@flow
def extraction() -> None:
    """Stand for the flow."""


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    """Prefect's API."""
    with get_client(sync_client=True) as client:
        yield client


def tasks_of(client: SyncPrefectClient, flow_run_id: UUID) -> dict[str, TaskRun]:
    """Task runs of a flow run by name."""
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    return {run.name: run for run in client.read_task_runs(flow_run_filter=of_run)}


def states_of(client: SyncPrefectClient, flow_run_id: UUID) -> dict[str, str]:
    """States of the task runs of a flow run."""
    return {name: run.state_name or "" for name, run in tasks_of(client, flow_run_id).items()}


def leave(client: SyncPrefectClient, flow_run_id: UUID, name: str, state: State) -> TaskRun:
    """Leave a task run in a state."""
    left = client.create_task_run(chunk, flow_run_id, dynamic_key=name, name=name)
    client.set_task_run_state(left.id, state, force=True)
    return left


def test_what_is_unfinished_has_crashed(client: SyncPrefectClient) -> None:
    """Whatever state an attempt left its task runs in, they are Crashed and say why; those that ended stay."""
    run = client.create_flow_run(extraction)
    for name, state in (UNFINISHED | FINISHED).items():
        leave(client, run.id, name, state())
    assert close_stale_task_runs(client, run.id) == len(UNFINISHED)
    left = tasks_of(client, run.id)
    assert {name: left[name].state_name for name in UNFINISHED} == dict.fromkeys(UNFINISHED, "Crashed")
    assert {left[name].state.message for name in UNFINISHED} == {"left behind by a killed attempt"}  # type: ignore[union-attr]
    assert {name: left[name].state_name.lower() for name in FINISHED} == {name: name for name in FINISHED}  # type: ignore[union-attr]
    assert close_stale_task_runs(client, run.id) == 0


def test_sub_flow_runs_and_other_runs_are_left_alone(client: SyncPrefectClient) -> None:
    """A task run that stands for a flow run is left as it is, and so are those of other flow runs."""
    run, other = client.create_flow_run(extraction), client.create_flow_run(extraction)
    leave(client, run.id, "chunk", Running())
    stands_for_shard = leave(client, run.id, "shard", Running())
    shard = client.create_flow_run(extraction, parent_task_run_id=stands_for_shard.id)
    client.set_flow_run_state(shard.id, Running())
    leave(client, other.id, "chunk", Running())
    assert close_stale_task_runs(client, run.id) == 1
    assert states_of(client, run.id) == {"chunk": "Crashed", "shard": "Running"}
    assert states_of(client, other.id) == {"chunk": "Running"}


def test_more_than_a_page(client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, all are closed."""
    monkeypatch.setattr(tasks.stale, "_PAGE", 3)
    run = client.create_flow_run(extraction)
    for number in range(7):
        leave(client, run.id, f"chunk {number}", Running())
    assert close_stale_task_runs(client, run.id) == 7
    assert set(states_of(client, run.id).values()) == {"Crashed"}


def test_after_a_kill(client: SyncPrefectClient, tmp_path: Path) -> None:
    """What a flow's process left behind when it was killed, as its own events told the server."""
    (tmp_path / "killed.py").write_text(KILLED)
    process = subprocess.Popen([sys.executable, "killed.py"], cwd=tmp_path, env=dict(os.environ))
    expected = {"finished": "Completed", "under_way": "Running", "shard": "Running"}

    def seen() -> dict[str, str]:
        # Prefect adds a few letters to the names of tasks, and a number to those of flows.
        states = states_of(client, UUID((tmp_path / "extraction").read_text()))
        return {name.rpartition("-")[0]: state for name, state in states.items()}

    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "shard").exists() or seen() != expected:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        process.kill()
        process.wait()
    assert close_stale_task_runs(client, UUID((tmp_path / "extraction").read_text())) == 1
    assert seen() == expected | {"under_way": "Crashed"}
    assert client.read_flow_run(UUID((tmp_path / "shard").read_text())).state_name == "Running"
