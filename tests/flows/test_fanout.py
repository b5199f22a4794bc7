"""Extractions and shards as flow runs of deployments, on a work pool of processes with a worker beside this one."""

import contextvars
import hashlib
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pandas as pd
import psutil
import pytest
from extracting import TOKEN, Results, Spot, command, ended, error_of, run
from file_server import Fault, FileServer
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterIdempotencyKey,
    FlowRunFilterParentFlowRunId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.states import AwaitingRetry, Cancelling, Crashed, Pending
from prefect_server import process_worker

import flows.deployed
import flows.fanout
from flows.watch import watch
from sandbox.phantom.scene import Scene
from somatic.errors import FutileExtraction, IncompleteExtraction, PermanentError
from somatic.results.chunks import put_rows

POOL = "fanout"
KILLED = {"status": "failed", "reason": "its process was killed", "error_class": "CellKilled", "soma_volume_um": None}


@pytest.fixture(scope="module")
def client() -> Iterator[SyncPrefectClient]:
    """Prefect's API."""
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture(scope="module")
def worker(client: SyncPrefectClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[psutil.Process]:  # noqa: ARG001 - there is a server
    """What docs/cluster.md says for one machine: `somatic deploy`, and a worker in a second shell."""
    folder = tmp_path_factory.mktemp("worker")
    deploy = command("deploy", "--type", "process", "--pool", POOL, "--shards", 2, "--to", folder, folder=folder)
    ran = ended(deploy)
    assert ran.status == 0, ran.err
    # Less than the deployments say of a job, as where a LimitRange or a small machine allows no more.
    with process_worker(POOL, folder, CAVE_TOKEN=TOKEN, SOMATIC_MEMORY_BYTES=str(3 * 2**30)) as worker:
        yield worker


def started(client: SyncPrefectClient, dataset: Path, to: str) -> UUID:
    """Start an extraction on the work pool, in two shards of two chunks of three cells."""
    parameters = {
        "dataset": str(dataset),
        "version": None,
        "to": to,
        "chunk": 3,
        "chunks_per_shard": 2,
        "workers": 1,
        "meshes": False,
        "retry_delay_s": 0.05,
    }
    deployment = client.read_deployment_by_name("extract/minnie65")
    return client.create_flow_run_from_deployment(deployment.id, parameters=parameters).id


def shards(client: SyncPrefectClient, parent: UUID) -> list[FlowRun]:
    """Flow runs of its shards, by name."""
    chosen = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[parent]))
    return sorted(client.read_flow_runs(flow_run_filter=chosen), key=lambda shard: shard.name)


def until(true: Callable[[], bool], within_s: float = 120) -> None:
    """Wait for something that happens elsewhere."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def finished(client: SyncPrefectClient, run_id: UUID) -> FlowRun:
    """The flow run when it has ended."""

    def final() -> bool:
        state = client.read_flow_run(run_id).state
        return bool(state and state.is_final())

    until(final)
    return client.read_flow_run(run_id)


def state_names(runs: list[FlowRun]) -> list[str | None]:
    """How flow runs stand."""
    return [each.state_name for each in runs]


@pytest.mark.usefixtures("worker")
def test_shards_are_flow_runs(client: SyncPrefectClient, dataset: Path, undisturbed: Results, tmp_path: Path) -> None:
    """Each has a name, a range and the plan's hash for parameters, and no ids; the table is that of one process."""
    results = Results(str(tmp_path / "results"))
    parent = finished(client, started(client, dataset, results.root))
    assert parent.state
    assert parent.state.is_completed(), parent.state
    assert parent.name == "phantom v1"
    of_parent = shards(client, parent.id)
    assert [(each.name, each.state_name) for each in of_parent] == [
        ("phantom v1 chunks 0 to 1", "Completed"),
        ("phantom v1 chunks 2 to 3", "Completed"),
    ]
    [plan] = results.store.names("plans")
    for each, start in zip(of_parent, (0, 2), strict=True):
        assert (each.parameters["plan"], each.parameters["run"]) == (plan.removesuffix(".parquet"), str(parent.id))
        assert (each.parameters["start"], each.parameters["stop"]) == (start, start + 2)
        assert each.idempotency_key == f"{parent.id}:{each.parameters['plan']}:{start}-{start + 2}"
    assert results.features == undisturbed.features


def test_a_shard_that_is_killed_runs_again(
    client: SyncPrefectClient,
    worker: psutil.Process,
    http_dataset: Path,
    bucket: FileServer,
    spots: list[Spot],
    undisturbed: Results,
    tmp_path: Path,
) -> None:
    """SIGKILL of its process: the same flow run starts again and measures only what was in flight."""
    held = Fault(wait=threading.Event(), times=1)
    bucket.faults[spots[0].file] = held
    results = Results(str(tmp_path / "results"))
    parent = started(client, http_dataset, results.root)
    until(lambda: any(spots[0].file in path for path in bucket.asked))
    before = results.stored
    shard = str(shard_of(client, parent, results, spots[0]))
    [process] = [child for child in worker.children() if shard in said_to(child)]
    process.kill()
    held.wait.set()
    run_of_parent = finished(client, parent)
    assert run_of_parent.state
    assert run_of_parent.state.is_completed(), run_of_parent.state
    assert sorted(each.run_count for each in shards(client, parent)) == [1, 2]
    assert results.stored == undisturbed.table.index.tolist()
    assert set(before) <= set(results.stored)
    assert results.features == undisturbed.features


def said_to(process: psutil.Process) -> str:
    """Arguments and environment of a process; nothing when it has ended."""
    try:
        return " ".join([*process.cmdline(), *process.environ().values()])
    except psutil.Error:
        return ""


def shard_of(client: SyncPrefectClient, parent: UUID, results: Results, spot: Spot) -> UUID:
    """Flow run of the shard that holds a cell."""
    [plan] = results.store.names("plans")
    rows = pd.read_parquet(results.store.url_of(f"plans/{plan}")).set_index("nucleus_id")
    chunk = rows.loc[spot.nucleus_id, "chunk"]
    [shard] = [each for each in shards(client, parent) if each.parameters["start"] <= chunk < each.parameters["stop"]]
    return shard.id


@pytest.mark.usefixtures("worker")
def test_a_cancelled_run_stops_its_shards(
    client: SyncPrefectClient, http_dataset: Path, bucket: FileServer, spots: list[Spot], tmp_path: Path
) -> None:
    """Cancelled in the UI, nothing of it goes on; what was stored stays."""
    held = Fault(wait=threading.Event())
    for spot in spots:
        bucket.faults[spot.file] = held
    results = Results(str(tmp_path / "results"))
    parent = started(client, http_dataset, results.root)
    until(lambda: any(spot.file in path for spot in spots for path in bucket.asked))
    client.set_flow_run_state(parent, Cancelling())
    until(lambda: set(state_names(shards(client, parent))) == {"Cancelled"})
    assert finished(client, parent).state_name == "Cancelled"
    held.wait.set()


@pytest.mark.usefixtures("worker")
def test_retry_runs_the_shards_again_that_failed(
    client: SyncPrefectClient,
    http_dataset: Path,
    bucket: FileServer,
    spots: list[Spot],
    undisturbed: Results,
    tmp_path: Path,
) -> None:
    """Retry in the UI of an extraction whose cells failed for now measures these, in the same flow runs."""
    bucket.faults[spots[0].file] = Fault(body=b"no segmentation")
    results = Results(str(tmp_path / "results"))
    parent = started(client, http_dataset, results.root)
    assert finished(client, parent).state_name == "Failed"
    assert sorted(state_names(shards(client, parent))) == ["Completed", "Failed"]
    bucket.faults.clear()
    client.set_flow_run_state(parent, AwaitingRetry(), force=True)
    until(lambda: client.read_flow_run(parent).run_count == 2)
    assert finished(client, parent).state_name == "Completed"
    assert sorted(each.run_count for each in shards(client, parent)) == [1, 2]
    assert results.features == undisturbed.features


@pytest.mark.usefixtures("worker")
def test_a_killed_cell_is_tried_again_in_jobs_with_more_memory(
    dataset: Path, undisturbed: Results, tmp_path: Path
) -> None:
    """By what the deployment of the shards says: with a little more memory it counts as done, with much more not."""
    shutil.copytree(undisturbed.root, tmp_path / "results")
    results = Results(str(tmp_path / "results"))
    cell = next(iter(results.table.index[results.table["status"] == "ok"]))
    [row] = results.rows([cell])
    options = {"shard_deployment": "extract-shard/minnie65", "workers": 1}
    put_rows(results.store, [row | KILLED | {"memory_bytes": 4.5 * 2**30, "attempt": 2}], "a run")
    assert run(dataset, results.root, **options).is_completed()
    assert results.table.loc[cell, "status"] == "failed"

    put_rows(results.store, [row | KILLED | {"memory_bytes": 3 * 2**30, "attempt": 3}], "a run")
    assert run(dataset, results.root, **options).is_completed()
    assert results.features == undisturbed.features
    assert results.provenance.loc[cell, "attempt"] == 4


def kill_who_asks(port: int) -> None:
    """SIGKILL of the process below this one that speaks from a port, as the kernel does for lack of memory."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if any(connection.laddr.port == port for connection in process.net_connections("tcp")):
                process.kill()


@pytest.mark.usefixtures("worker")
def test_a_cell_that_is_killed_in_a_job(
    http_dataset: Path, bucket: FileServer, spots: list[Spot], undisturbed: Results, tmp_path: Path
) -> None:
    """What its run has measured is done for this run and for the next, however little of its memory a job has."""
    plan = pd.read_parquet(undisturbed.store.url_of(f"plans/{undisturbed.store.names('plans')[0]}"))
    # The first of its chunk, whose file is not fetched while another cell is measured.
    [spot] = [spot for spot in spots if spot.nucleus_id == plan["nucleus_id"].iloc[0]]
    bucket.faults[spot.file] = Fault(call=kill_who_asks)
    results = Results(str(tmp_path / "results"))
    options = {"shard_deployment": "extract-shard/minnie65", "workers": 1, "chunk": 12}
    for _ in range(2):
        state = run(http_dataset, results.root, **options)
        assert state.is_completed(), state
        assert results.table.drop(index=spot.nucleus_id).equals(undisturbed.table.drop(index=spot.nucleus_id))
        row = results.provenance.loc[spot.nucleus_id]
        assert (row["error_class"], row["transient"], row["attempt"]) == ("CellKilled", False, 1)
        # Once with its chunk and once alone, and not again by the same command.
        assert len([path for path in bucket.asked if spot.file in path]) == 2


@pytest.mark.parametrize(
    ("limit", "n_bytes"),
    [("5Gi", 5 * 2**30), ("512Mi", 2**29), ("1.5G", 1_500_000_000), (10**9, 10**9), ("100m", None), (None, None)],
)
def test_memory_of_a_job(client: SyncPrefectClient, limit: object, n_bytes: int | None) -> None:
    """As Kubernetes writes quantities; what is not understood is not known."""
    flow_id = client.create_flow_from_name("extract-shard")
    client.create_deployment(flow_id, "limited", job_variables={"memory_limit": limit} if limit else {})
    assert flows.deployed.job_memory_bytes(client, "extract-shard/limited") == n_bytes
    assert flows.deployed.job_memory_bytes(client, "extract-shard/nowhere") is None


@pytest.mark.usefixtures("worker")
def test_a_new_version_runs_as_deployed(
    client: SyncPrefectClient, scene: Scene, cave_dataset: Path, undisturbed: Results, tmp_path: Path
) -> None:
    """A look for versions starts the extraction of version 2, which the worker runs; then there is nothing to do.

    Without shards, which would take as long again.
    """
    deployed = client.read_deployment_by_name("extract/minnie65")
    fields = deployed.model_dump(include={"work_pool_name", "work_queue_name", "entrypoint", "pull_steps"})
    client.create_deployment(deployed.flow_id, "whole", parameters={"workers": 2, "meshes": False}, **fields)
    shutil.copytree(undisturbed.root, tmp_path / "results")
    results = Results(str(tmp_path / "results"), version=2)
    options = {"dataset": str(cave_dataset), "to": results.root, "extract_deployment": "extract/whole"}
    assert watch(**options) == [2]
    config = Results(results.root).store.url.rpartition("/")[2]
    place = hashlib.sha256(f"{results.root}/phantom/v2/{config}".encode()).hexdigest()[:16]
    with_key = FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=[f"phantom:2:{config}:{place}"]))
    [started] = client.read_flow_runs(flow_run_filter=with_key)
    ran = finished(client, started.id)
    assert (ran.name, ran.state_name) == ("phantom v2", "Completed")
    assert results.table.index.tolist() == sorted(scene.nuclei(2)["id"])
    assert watch(**options) == []
    client.delete_flow_run(started.id)


@contextmanager
def meanwhile(
    client: SyncPrefectClient, deployment: str, act: Callable[[SyncPrefectClient, FlowRun], Any]
) -> Iterator[None]:
    """Make a deployment that no worker looks after, and do something with each shard that is started as it."""
    deployment_id = client.create_deployment(client.create_flow_from_name("extract-shard"), deployment)
    of_deployment = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment_id]))
    over = threading.Event()

    def look() -> None:
        with get_client(sync_client=True) as client:
            while not over.wait(0.1):
                for shard in client.read_flow_runs(flow_run_filter=of_deployment):
                    if shard.state and shard.state.is_scheduled():
                        act(client, shard)

    context = contextvars.copy_context()  # which has the server's address
    thread = threading.Thread(target=context.run, args=[look])
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_shards_that_cannot_begin(
    client: SyncPrefectClient, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard that crashes before it begins, for want of its image perhaps, is not started for ever."""
    monkeypatch.setattr(flows.fanout, "_LOOK_AT_MOST_EVERY_S", 0.2)
    monkeypatch.setattr(flows.deployed, "_AFTER_CRASH", timedelta(0))
    crashes: Counter[UUID] = Counter()

    def crash(client: SyncPrefectClient, shard: FlowRun) -> None:
        client.set_flow_run_state(shard.id, Pending())
        client.set_flow_run_state(shard.id, Crashed(message="its image cannot be pulled"))
        crashes[shard.id] += 1

    with meanwhile(client, "unstartable", crash):
        error = error_of(
            run(dataset, tmp_path / "results", shard_deployment="extract-shard/unstartable", chunks_per_shard=1)
        )
    assert isinstance(error, FutileExtraction)
    assert "its image cannot be pulled" in str(error)
    assert max(crashes.values()) == 3


def test_shards_that_are_deleted(client: SyncPrefectClient, dataset: Path, tmp_path: Path) -> None:
    """They are not waited for; the table says which cells were not measured, and the run has failed for now."""
    with meanwhile(client, "deleted", lambda client, shard: client.delete_flow_run(shard.id)):
        error = error_of(
            run(dataset, tmp_path / "results", shard_deployment="extract-shard/deleted", chunks_per_shard=2)
        )
    assert isinstance(error, IncompleteExtraction)
    table = Results(str(tmp_path / "results")).table
    assert Counter(table["status"]) == {"failed": 12, "skipped": 3}


def test_a_deployment_that_is_not_there(dataset: Path, tmp_path: Path) -> None:
    """One line names it and says how to make it; the plan stays."""
    error = error_of(run(dataset, tmp_path / "results", shard_deployment="extract-shard/nowhere"))
    assert isinstance(error, PermanentError)
    assert "no deployment 'extract-shard/nowhere' for the shards; make it with: somatic deploy" in str(error)
