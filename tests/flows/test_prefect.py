"""What Prefect knows of a run: names, states, artifacts, retries; and what it must not keep."""

import json
import re
import select
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import prefect.client.base
import pytest
from extracting import Results, Spot, error_of, proofread, run, without_nuclei
from file_server import Fault, FileServer
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import Artifact, FlowRun, TaskRun
from prefect.flow_engine import run_flow
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_LOCAL_STORAGE_PATH,
    temporary_settings,
)
from prefect.states import AwaitingRetry, State

import flows.fanout
from flows.extract import extract
from flows.listening import Listener, heard_by
from flows.own_server import send_what_is_left
from sandbox.cave.server import CaveServer, Datastack
from sandbox.lab import write_cave_dataset, write_file_dataset
from sandbox.phantom.scene import Scene
from somatic.errors import TransientError
from somatic.progress import Progress


@pytest.fixture(scope="module")
def client() -> Iterator[SyncPrefectClient]:
    """Prefect's API."""
    with get_client(sync_client=True) as client:
        yield client


def run_id(state: State) -> UUID:
    """Id of the flow run that came to a state."""
    assert state.state_details.flow_run_id
    return state.state_details.flow_run_id


def eventually(look: Callable[[], list[Any]], number: int) -> list[Any]:
    """What is found when the server has recorded so many; it does so a little later."""
    send_what_is_left()
    deadline = time.monotonic() + 30
    while len(found := look()) < number and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def task_runs(client: SyncPrefectClient, flow_run_id: UUID, number: int) -> list[TaskRun]:
    """Task runs of a flow run that have ended."""
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))

    def look() -> list[TaskRun]:
        return [task for task in client.read_task_runs(flow_run_filter=of_run) if task.state and task.state.is_final()]

    return eventually(look, number)


def shards(client: SyncPrefectClient, flow_run_id: UUID) -> list[FlowRun]:
    """Flow runs of the shards of an extraction."""
    of_run = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[flow_run_id]))
    return client.read_flow_runs(flow_run_filter=of_run)


def artifacts(client: SyncPrefectClient, flow_run_id: UUID) -> dict[str, Artifact]:
    """Artifacts of a flow run by key."""
    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]))
    return {artifact.key or "": artifact for artifact in client.read_artifacts(artifact_filter=of_run)}


@dataclass(frozen=True)
class Seen:
    """A run as the API shows it."""

    flow_run: FlowRun
    tasks: list[TaskRun]
    shard: FlowRun
    tasks_of_shard: list[TaskRun]
    artifacts: dict[str, Artifact]


@pytest.fixture(scope="module")
def seen(scene: Scene, tmp_path_factory: pytest.TempPathFactory, client: SyncPrefectClient) -> Seen:
    """An extraction of version 1 of the scene."""
    folder = tmp_path_factory.mktemp("seen")
    state = run(without_nuclei(write_file_dataset(scene, 1, folder / "phantom.toml")), folder / "results")
    found = run_id(state)
    [shard] = shards(client, found)
    return Seen(
        client.read_flow_run(found),
        task_runs(client, found, 5),
        shard,
        task_runs(client, shard.id, 5),
        artifacts(client, found),
    )


def test_names_are_for_people(seen: Seen) -> None:
    """Run and shard are named by dataset, version and chunks, tasks by what they do, a chunk by its number."""
    assert seen.flow_run.name == "phantom v1"
    assert sorted(task.name for task in seen.tasks) == [
        "extract-shard-0",
        "nuclei of phantom v1",
        "plan of phantom v1",
        "segmentation of phantom v1",
        "table of phantom v1",
    ]
    assert seen.shard.name == "phantom v1 chunks 0 to 3"
    assert sorted(task.name for task in seen.tasks_of_shard) == [
        *(f"phantom v1 chunk {number}" for number in range(4)),
        "synapses of phantom v1 chunks 0 to 3",
    ]
    for each in (seen.flow_run, seen.shard, *seen.tasks, *seen.tasks_of_shard):
        assert each.state
        assert each.state.is_completed(), each.name


def test_progress_and_summary_are_words(seen: Seen) -> None:
    """The progress bar ends at 100 % and says how many; the summary counts by status and names the place."""
    shown = seen.artifacts
    progress = shown["phantom-v1-progress"]
    assert progress.data == 100.0
    assert progress.description
    assert progress.description.startswith("12 of 12 cells (1 failed), ")
    assert "results/phantom/v1/" in progress.description
    summary = str(shown["phantom-v1-summary"].data)
    assert summary.startswith("# phantom v1: 15 nuclei\n")
    for line in ("| ok | 11 |", "| failed for good | 1 |", "| failed for now (run again) | 0 |", "| skipped | 3 |"):
        assert f"\n{line}\n" in summary
    assert "features.parquet` (15 rows)" in summary
    assert re.search(r"in \d+ s; [\d.]+ cells measured a minute\.\n", summary)
    assert re.search(r"\nReport: `\S+/results/phantom/v1/\w{8}/report\.html`\.\n", summary)
    assert "\n| cells measured | 12 | 12 |\n| cells reused | 0 | 0 |\n| requests to CAVE | 0 | 0 |\n" in summary
    assert "## Changes" not in summary


def test_failures_show_ids_to_the_last_digit(seen: Seen, scene: Scene) -> None:
    """The table of failures has ids as text, since a browser would round them."""
    table = json.loads(str(seen.artifacts["phantom-v1-failures"].data))
    [truth] = scene.with_role("not in segmentation")
    assert table == {
        "nucleus_id": [str(truth.nucleus_id)],
        "soma_id": [str(truth.roots[1])],
        "reason": [f"root id {truth.roots[1]} has no voxel in the cutout"],
        "error_class": ["MissingSegment"],
        "transient": [False],
    }


def test_nothing_of_a_task_is_kept(seen: Seen) -> None:
    """Neither parameters nor results of tasks are stored anywhere, so that no connection, token or pickle is."""
    for task in seen.tasks_of_shard + [task for task in seen.tasks if not task.name.startswith("extract-shard")]:
        references = [reference for given in task.task_inputs.values() for reference in given]
        assert all(reference.input_type == "task_run" for reference in references)
        assert task.cache_key is None
        assert task.state
        assert task.state.data is None or "storage_key" not in str(task.state.data)


def test_no_pickle_is_written(dataset: Path, tmp_path: Path) -> None:
    """What Prefect stores of a run that failed, the error, is JSON; of others it stores nothing."""
    stored = Path(PREFECT_LOCAL_STORAGE_PATH.value())
    before = set(stored.glob("*"))
    assert run(dataset, tmp_path / "results", limit=4).is_completed()
    assert set(stored.glob("*")) == before
    error = error_of(run(dataset, tmp_path / "results", retry=[1]))
    [written] = set(stored.glob("*")) - before
    assert json.loads(written.read_bytes()) == {
        "__exc_type__": "somatic.errors.PermanentError",
        "message": str(error),
    }


def test_the_log_is_short_and_names_things(
    client: SyncPrefectClient, http_dataset: Path, bucket: FileServer, spots: list[Spot], tmp_path: Path
) -> None:
    """A few lines for the run and two for each task; a failure names dataset, chunk, cell and reason."""
    bucket.faults[spots[0].file] = Fault(body=b"no segmentation", times=1)
    state = run(http_dataset, tmp_path / "results", limit=6, chunk=2)
    [shard] = shards(client, run_id(state))
    of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id(state), shard.id]))
    # At least: when each begins, one for each of seven tasks, and three for the failure.
    lines = [log.message for log in eventually(lambda: client.read_logs(of_run, limit=200), 12)]
    assert len(lines) < 25, lines
    assert "phantom v1: 4 cells to measure in 2 chunks, 0 done already" in lines
    [failed] = [line for line in lines if "failed for now" in line]
    assert "1 of 2 cells of phantom v1 chunk" in failed
    assert f"nucleus {spots[0].nucleus_id}: the file of voxels " in failed


def test_a_run_with_cells_that_failed_for_now_has_failed(
    client: SyncPrefectClient, http_dataset: Path, bucket: FileServer, spots: list[Spot], tmp_path: Path
) -> None:
    """In the UI the run is Failed with the reason, and so is the one chunk; the table of the run is there."""
    bucket.faults[spots[0].file] = Fault(body=b"no segmentation")
    state = run(http_dataset, tmp_path / "results", limit=6, chunk=2)
    flow_run = client.read_flow_run(run_id(state))
    assert flow_run.state
    assert flow_run.state.is_failed()
    assert "1 of 6 nuclei failed for now" in str(flow_run.state.message)
    [shard] = shards(client, flow_run.id)
    assert shard.state
    assert shard.state.is_failed()
    tasks = task_runs(client, shard.id, 3)
    failed = [task for task in tasks if task.state and task.state.is_failed()]
    assert [task.run_count for task in failed] == [4]
    assert sum(task.state.is_completed() for task in tasks if task.state) == 2
    table = json.loads(str(artifacts(client, flow_run.id)["phantom-v1-failures"].data))
    assert dict(zip(table["nucleus_id"], table["transient"], strict=True))[str(spots[0].nucleus_id)] is True


def test_a_retry_keeps_version_and_plan(
    client: SyncPrefectClient, stack: Datastack, scene: Scene, tmp_path: Path
) -> None:
    """A retry from the UI, after a newer version came out, goes on with the version and plan of the first attempt."""
    newer = proofread(stack.version(2), 3)
    stack.versions.append(newer)
    with CaveServer(stack) as cave:
        stack.versions.remove(newer)
        dataset = without_nuclei(write_cave_dataset(scene, cave.url, tmp_path / "phantom.toml"))
        results = Results(str(tmp_path / "results"), version=2)
        down = Listener(on_estimate=lambda *_: cave.fail("table/synapses_phantom/query", 502, times=None))
        with heard_by(down):
            state = run(dataset, results.root, version="latest", limit=8, workers=1, retry_delay_s=0)
        assert isinstance(error_of(state), TransientError)
        assert results.provenance["transient"].sum() > 1
        [plan] = results.store.names("plans")

        stack.versions.append(newer)
        cave.clear_faults()
        client.set_flow_run_state(run_id(state), AwaitingRetry(), force=True)
        again = run_flow(extract, flow_run=client.read_flow_run(run_id(state)), return_type="state")
        assert again.is_completed(), again
    flow_run = client.read_flow_run(run_id(state))
    assert (flow_run.name, flow_run.run_count) == ("phantom v2", 2)
    assert results.store.names("plans") == [plan]
    assert not results.provenance["transient"].any()
    assert not (tmp_path / "results/phantom/v3").exists()


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"workers": "many"}, "workers"),
        ({"version": "newest"}, "version"),
        ({"retry": ["some"]}, "retry"),
    ],
    ids=["workers", "version", "retry"],
)
def test_parameters_are_checked(parameters: dict[str, Any], said: str, dataset: Path, tmp_path: Path) -> None:
    """A parameter of the wrong kind stops the run before it begins, and the error names it."""
    error = error_of(run(dataset, tmp_path / "results", **parameters))
    assert type(error).__name__ == "ParameterTypeError"
    assert said in str(error)
    assert not (tmp_path / "results").exists()


def test_the_form_of_a_deployment_explains_the_parameters() -> None:
    """The schema that the UI makes its form of has a type and a description for every parameter."""
    schema = extract.parameters
    assert schema.required == ["dataset"]
    for name, parameter in schema.properties.items():
        assert parameter.get("description"), name


class Relay(socketserver.ThreadingTCPServer):
    """Stands between a client and Prefect's server, and lets nothing through while it is cut."""

    daemon_threads = True

    def __init__(self, api_url: str) -> None:
        parts = urlsplit(api_url)
        self.server = (parts.hostname, parts.port)
        self.cut = False
        self.refused = 0
        super().__init__(("127.0.0.1", 0), Relayed)
        self.api_url = f"http://127.0.0.1:{self.server_address[1]}{parts.path}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


class Relayed(socketserver.BaseRequestHandler):
    """One connection."""

    def handle(self) -> None:
        """Copy both ways until one side ends or the relay is cut."""
        assert isinstance(self.server, Relay)
        with socket.create_connection(self.server.server) as server:
            ends = {self.request: server, server: self.request}
            while True:
                for ready in select.select(list(ends), [], [])[0]:
                    data = ready.recv(65536)
                    if self.server.cut:
                        self.server.refused += 1
                        return
                    if not data:
                        return
                    ends[ready].sendall(data)


def test_a_server_that_does_not_answer_for_a_while(
    dataset: Path, undisturbed: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While cells are measured nobody need listen: the run goes on, and says at its end how it came out."""
    monkeypatch.setattr(flows.fanout, "UPDATE_EVERY_S", 0.0)
    with Relay(PREFECT_API_URL.value()) as relay:

        def on_progress(progress: Progress) -> None:
            relay.cut = 3 <= progress.done < 11

        # Nobody tries again while the relay is cut, so that nobody waits for it; a server that is only busy, as it is
        # when the machine is, is tried again as ever.
        retries = PREFECT_CLIENT_MAX_RETRIES.value()
        monkeypatch.setattr(
            prefect.client.base,
            "PREFECT_CLIENT_MAX_RETRIES",
            SimpleNamespace(value=lambda: 0 if relay.cut else retries),
        )
        with temporary_settings({PREFECT_API_URL: relay.api_url}), heard_by(Listener(on_progress=on_progress)):
            state = run(dataset, tmp_path / "results")
        relay.shutdown()
    assert relay.refused
    assert state.is_completed(), state
    assert Results(str(tmp_path / "results")).features == undisturbed.features
