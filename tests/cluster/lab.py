"""A lab with a cluster: Prefect's server, a worker, a bucket, CAVE, and extractions that are started there."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
import pytest
from cluster import Cluster
from extracting import Results, Spot, command, ended
from file_server import Fault, FileServer
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, State
from prefect.client.schemas.sorting import LogSort
from prefect.states import Cancelling
from prefect_server import PrefectServer
from s3_proxy import S3Proxy

from deployments.definitions import apply_deployment, read_definitions
from sandbox import ending
from sandbox.cave.server import CaveServer

POOL = "somatic"
WORKERS = 2
_MEMORY_GIB = 4
_PARAMETERS = {
    "version": 1,
    "shard_deployment": "extract-shard/phantom",
    "chunk": 1,
    "chunks_per_shard": 6,
    "workers": WORKERS,
    "retry_delay_s": 0.5,
}
_BIN = Path(sys.executable).parent
# Starting the pod of an extraction and those of its shards takes a minute on two cores that others use too.
_PATIENCE_S = 400.0


class Worker:
    """A worker of the pool, with the rights of its account alone.

    Parameters
    ----------
    kubeconfig : Path
        Of its account.
    api_url : str
        Of Prefect's server.
    folder : Path
        For its log.
    """

    def __init__(self, kubeconfig: Path, api_url: str, folder: Path) -> None:
        self.log = folder / "worker.log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "AWS_"))}
        self._environment = environment | {
            "HOME": str(folder),
            "KUBECONFIG": str(kubeconfig),
            "PREFECT_API_URL": api_url,
            # As the chart of the worker has it: its role holds in this namespace alone.
            "PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES": "somatic",
            "PREFECT_KUBERNETES_CLUSTER_UID": "somatic",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }

    def start(self) -> None:
        """Start it."""
        command = [_BIN / "prefect", "worker", "start", "--pool", POOL, "--type", "kubernetes"]
        with self.log.open("ab") as log:
            self._process = ending.start(
                [*command, "--install-policy", "never"], env=self._environment, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """Let it vanish without a word."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End it as Kubernetes does."""
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()


def deploy(client: SyncPrefectClient, api_url: str, dataset: Path, results: str, s3_endpoint: str) -> None:
    """Make pool, queues and automations as docs/cluster.md says, and deployments like those of prefect.yaml.

    A config map holds the dataset file. It is mounted where the file lies on this machine, since the nodes of some
    clusters mount nothing, and are this machine.
    """
    environment = {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_DEFAULT_REGION": "us-east-1",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        # A container knows its limit and its use. The node of ../shared/kube has no containers, though it keeps the
        # limit, and counts a page that processes share once for each.
        "SOMATIC_MEMORY_BYTES": str((_MEMORY_GIB - 1) * 2**30),
    }
    volumes = [
        {"name": "scratch", "emptyDir": {"sizeLimit": "4Gi"}},
        {"name": "dataset", "configMap": {"name": dataset.stem}},
    ]
    mounts = [
        {"name": "scratch", "mountPath": "/tmp"},
        {"name": "dataset", "mountPath": str(dataset.parent), "readOnly": True},
    ]
    said = {"env": environment, "volumes": volumes, "volume_mounts": mounts}
    variables = [f"--job-variable={name}={json.dumps(value)}" for name, value in said.items()]
    ran = ended(
        command(
            *("deploy", "--type", "kubernetes", "--image", "somatic:test", "--to", results, "--shards", 2, *variables),
            folder=dataset.parent,
            PREFECT_API_URL=api_url,
        )
    )
    assert ran.status == 0, ran.err
    for definition in read_definitions():
        small = {"cpu_request": "250m", "cpu_limit": "2", "memory_request": "1Gi", "memory_limit": f"{_MEMORY_GIB}Gi"}
        of_scene = {"dataset": str(dataset)}
        if "shard_deployment" in definition["parameters"]:
            of_scene |= _PARAMETERS
        pool = definition["work_pool"]
        phantom = definition | {
            "name": "phantom",
            "tags": ["somatic", "phantom"],
            "parameters": definition["parameters"] | of_scene,
            "work_pool": pool | {"job_variables": pool["job_variables"] | small},
        }
        apply_deployment(client, phantom, POOL, results, dry_run=False)


@dataclass(frozen=True)
class Lab:
    """Everything that an extraction of the scene needs, and what goes wrong on demand.

    Attributes
    ----------
    bucket : FileServer
        The segmentation. It notes what is read: a cell that is measured reads its file (`Spot`) once.
    s3 : S3Proxy
        What the pods take for S3.
    """

    client: SyncPrefectClient
    cluster: Cluster
    server: PrefectServer
    worker: Worker
    cave: CaveServer
    bucket: FileServer
    s3: S3Proxy
    s3_url: str
    spots: list[Spot]

    def extract(self, to: str | None = None, **parameters: Any) -> "Extraction":
        """Start extract/phantom: twelve chunks of one cell in two shards, each with two workers."""
        self.bucket.asked.clear()
        to = to or f"{self.s3_url}/{uuid4().hex}"
        deployment = self.client.read_deployment_by_name("extract/phantom")
        run = self.client.create_flow_run_from_deployment(deployment.id, parameters={"to": to, **parameters})
        return Extraction(self, run.id, Results(to))

    def hold(self, spot: Spot) -> None:
        """Let the next who measures this cell wait, until `repair`; whoever comes after them need not."""
        self.bucket.faults[spot.file] = Fault(wait=threading.Event(), times=1)

    def is_held(self, spot: Spot) -> bool:
        """Whether somebody waits."""
        return any(spot.file in path for path in self.bucket.asked)

    def release(self) -> None:
        """Let nobody wait any more."""
        for fault in self.bucket.faults.values():
            if fault.wait:
                fault.wait.set()
        self.bucket.faults.clear()

    def repair(self) -> None:
        """Let nobody wait, and nothing fail."""
        self.release()
        self.cave.clear_faults()
        self.cave.rate_limit(None)
        self.s3.busy, self.s3.delay_s = False, 0.0

    def end_all(self) -> None:
        """End what a test that failed left, since the next one would wait for it, or take it for its own."""
        for run in self._unfinished():
            self.client.set_flow_run_state(run.id, Cancelling())
        wait_until(lambda: not self._unfinished(), lambda: f"{self._unfinished()} do not end")

    def _unfinished(self) -> list[FlowRun]:
        of_type = FlowRunFilterStateType(not_any_=list(TERMINAL_STATES))
        return self.client.read_flow_runs(flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=of_type)))

    def processes_of(self, flow_run_id: UUID) -> list[psutil.Process]:
        """Processes of the pod of a flow run, the container's first one first.

        A signal other than SIGTERM, and one to a process that is not the first, would else take a shell in the pod.
        """
        if not self.cluster.runs_processes():
            pytest.skip("the pods of this cluster are no processes of this machine")
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("PREFECT__FLOW_RUN_ID") == str(flow_run_id):
                    found.append(process)
        assert found, f"flow run {flow_run_id} has no process"
        return sorted(found, key=psutil.Process.create_time)


def wait_until(true: Callable[[], bool], otherwise: Callable[[], str]) -> None:
    """Wait for something; if it does not happen, fail with some words."""
    deadline = time.monotonic() + _PATIENCE_S
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"it did not happen within {_PATIENCE_S:g} s\n{otherwise()}")
        time.sleep(0.2)


def kill(processes: list[psutil.Process]) -> None:
    """SIGKILL."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@dataclass(frozen=True)
class Extraction:
    """A flow run of extract/phantom."""

    lab: Lab
    id: UUID
    results: Results

    @property
    def run(self) -> FlowRun:
        """The flow run as it is now."""
        return self.lab.client.read_flow_run(self.id)

    @property
    def state(self) -> State:
        """Its state now."""
        state = self.run.state
        assert state
        return state

    def shards(self) -> list[FlowRun]:
        """Its shards, the first first."""
        of_run = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[self.id]))
        return sorted(self.lab.client.read_flow_runs(flow_run_filter=of_run), key=lambda run: run.parameters["start"])

    def ended(self) -> State:
        """Wait for its end; give its final state."""
        self.until(lambda: self.state.is_final())
        return self.state

    def until(self, true: Callable[[], bool]) -> None:
        """Wait for something; if it does not happen, say what the runs said instead."""
        wait_until(true, self.story)

    def story(self) -> str:
        """States and logs of its flow runs."""
        runs = [self.run, *self.shards()]
        lines = [f"{run.name} ({run.id}): {run.state_name}, started {run.run_count} times" for run in runs]
        of_runs = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id for run in runs]))
        logs = self.lab.client.read_logs(of_runs, limit=200, sort=LogSort.TIMESTAMP_ASC)
        return "\n".join([*lines, *(f"{log.timestamp:%H:%M:%S} {log.message}" for log in logs)])

    def shard_of(self, chunk: int) -> FlowRun:
        """The shard that a chunk belongs to."""
        [shard] = [run for run in self.shards() if run.parameters["start"] <= chunk < run.parameters["stop"]]
        return shard

    def measured(self) -> Counter[int]:
        """How often each cell was begun, of those that have a file of their own."""
        reads = Counter(path.rsplit("/", 1)[-1] for path in self.lab.bucket.asked)
        return Counter({spot.nucleus_id: reads[spot.file] for spot in self.lab.spots})


def check(extraction: Extraction, undisturbed: Results, *, at_most_twice: int = 0) -> None:
    """See that all of it was done well, and with so many cells begun twice, all others once."""
    check_table(extraction, undisturbed)
    begun = extraction.measured()
    assert set(begun.values()) <= {1, 2}, begun
    assert list(begun.values()).count(2) <= at_most_twice, begun


def check_table(extraction: Extraction, undisturbed: Results) -> None:
    """See that it ended well: each nucleus in one chunk file, the table that of an undisturbed run."""
    assert extraction.ended().is_completed(), extraction.story()
    assert extraction.results.stored == undisturbed.stored
    assert extraction.results.features == undisturbed.features
