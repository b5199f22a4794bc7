"""What the blocks and the automations do, on a real server, with a real webhook and a real bucket."""

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import pytest
from conftest import Deploy, hasten
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.objects import FlowRun
from prefect.events.schemas.events import Event, RelatedResource, Resource
from prefect.filesystems import RemoteFileSystem
from prefect.states import AwaitingRetry, Cancelled, Completed, Crashed, Failed, Pending, Running
from prefect_aws import S3Bucket

from deployments.automations import RESTARTS, restarted_extractions, silent_runs
from deployments.blocks import results_block


class Channel:
    """A webhook on this machine, and what it was told."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.news = threading.Event()
        channel = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                channel.texts.append(body["text"])
                channel.news.set()
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/services/a-secret-path"


@pytest.fixture
def channel() -> Iterator[Channel]:
    """A webhook."""
    channel = Channel()
    thread = threading.Thread(target=channel.server.serve_forever)
    thread.start()
    yield channel
    channel.server.shutdown()
    channel.server.server_close()
    thread.join()


EXTRACTION, SHARD, WATCH = "extract/minnie65", "extract-shard/minnie65", "watch/minnie65"


def start(client: SyncPrefectClient, name: str, times: int = 1) -> FlowRun:
    """A run of a deployment that says it is running, though nothing runs; it may have been started some times."""
    deployment = client.read_deployment_by_name(name)
    parameters = {"version": 1, "plan": "0", "start": 0, "stop": 20, "run": "0"} if "shard" in name else {}
    run = client.create_flow_run_from_deployment(deployment.id, parameters=parameters, name=f"run {uuid.uuid4()}")
    for _ in range(times - 1):
        client.set_flow_run_state(run.id, Running(), force=True)
        client.set_flow_run_state(run.id, AwaitingRetry(), force=True)
    client.set_flow_run_state(run.id, Running(), force=True)
    return client.read_flow_run(run.id)


def wait_until(seen: Callable[[], bool], every_s: float = 0.2) -> None:
    """Wait for what the server does when it gets to it."""
    deadline = time.monotonic() + 60
    while not seen():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(every_s)


def test_failed_extractions_are_told(deployed: Deploy, client: SyncPrefectClient, channel: Channel) -> None:
    """The webhook hears why an extraction failed, and does not hear of a shard; its URL is kept as a secret."""
    deployed(webhook=channel.url)
    shard, parent = start(client, SHARD), start(client, EXTRACTION)
    client.set_flow_run_state(shard.id, Failed(message="a shard"), force=True)
    client.set_flow_run_state(parent.id, Failed(message='CAVE said "no" to {{all}}'), force=True)
    wait_until(lambda: bool(channel.texts))
    [text] = channel.texts
    assert parent.name in text
    assert "Failed" in text
    assert 'CAVE said "no" to {{all}}' in text
    assert str(parent.id) in text

    assert "a-secret-path" not in str(client.read_block_documents(include_secrets=False))
    # Said once, it is kept; another run tells the same channel, and so does a look for versions.
    deployed()
    for number, name in enumerate((EXTRACTION, WATCH), start=1):
        another = start(client, name)
        client.set_flow_run_state(another.id, Crashed(message="killed"), force=True)
        wait_until(lambda: len(channel.texts) == number + 1)  # noqa: B023
        assert another.name in channel.texts[number]


def test_silent_runs_have_crashed(deployed: Deploy, client: SyncPrefectClient) -> None:  # noqa: ARG001
    """A run that gives no more signs of life is marked Crashed, unless it ended or waits to be started again.

    Within ten seconds in place of half an hour.
    """
    hasten(client, silent_runs())
    silent, ended, waiting, alive = (start(client, SHARD) for _ in range(4))
    send_signs_of_life(client, silent, ended, waiting, alive)
    # At once, so that the server may hear of the end before it has dealt with the sign of life.
    client.set_flow_run_state(ended.id, Completed(), force=True)
    time.sleep(2)
    client.set_flow_run_state(waiting.id, AwaitingRetry(), force=True)

    def crashed() -> bool:
        send_signs_of_life(client, alive)
        return state(client, silent) == "Crashed"

    wait_until(crashed, every_s=2)
    assert "No sign of life" in (client.read_flow_run(silent.id).state.message or "")  # type: ignore[union-attr]
    assert state(client, ended) == "Completed"
    assert state(client, waiting) == "AwaitingRetry"
    assert state(client, alive) == "Running"


def crash(client: SyncPrefectClient, run: FlowRun) -> None:
    """What a worker says when the pod of a run is gone."""
    client.set_flow_run_state(run.id, Crashed(message="its pod is gone"))


def test_killed_extractions_start_again(deployed: Deploy, client: SyncPrefectClient) -> None:  # noqa: ARG001
    """An extraction that crashed at work is started again, as the same run; nothing else is touched.

    After ten seconds in place of thirty.
    """
    hasten(client, restarted_extractions())
    cancelled, failed, ended, shard = *(start(client, EXTRACTION) for _ in range(3)), start(client, SHARD)
    client.set_flow_run_state(cancelled.id, Cancelled(), force=True)
    client.set_flow_run_state(failed.id, Failed(), force=True)
    client.set_flow_run_state(ended.id, Completed(), force=True)
    crash(client, shard)
    deployment = client.read_deployment_by_name(EXTRACTION)
    never_began = client.create_flow_run_from_deployment(deployment.id, state=Pending())
    crash(client, never_began)
    too_often, by_hand = start(client, EXTRACTION, RESTARTS + 1), start(client, EXTRACTION)
    crash(client, too_often)
    crash(client, by_hand)
    wait_until(lambda: state(client, by_hand) == "Killed")
    client.set_flow_run_state(by_hand.id, Cancelled(), force=True)

    killed, last_time = start(client, EXTRACTION), start(client, EXTRACTION, RESTARTS)
    for run in (killed, last_time):
        crash(client, run)
    for run in (killed, last_time):
        wait_until(lambda: state(client, run) == "AwaitingRetry")  # noqa: B023
    untouched = (cancelled, failed, ended, shard, never_began, too_often, by_hand)
    assert [state(client, run) for run in untouched] == [
        "Cancelled",
        "Failed",
        "Completed",
        "Crashed",
        "Crashed",
        "Crashed",
        "Cancelled",
    ]

    # One of them is killed again; the other cannot begin, and is not started for ever.
    client.set_flow_run_state(last_time.id, Pending())
    crash(client, last_time)
    client.set_flow_run_state(killed.id, Running(), force=True)
    crash(client, killed)
    wait_until(lambda: state(client, killed) == "Killed")
    wait_until(lambda: state(client, killed) == "AwaitingRetry")
    assert state(client, last_time) == "Crashed"


def test_a_second_report_changes_nothing(deployed: Deploy, client: SyncPrefectClient) -> None:  # noqa: ARG001
    """A worker that says once more that the run crashed does not keep it from being started again."""
    hasten(client, restarted_extractions())
    run = start(client, EXTRACTION)
    crash(client, run)
    wait_until(lambda: state(client, run) == "Killed")
    crash(client, run)
    wait_until(lambda: state(client, run) == "AwaitingRetry")
    assert client.read_flow_run(run.id).run_count == 1


def test_silent_extractions_start_again(deployed: Deploy, client: SyncPrefectClient) -> None:  # noqa: ARG001
    """An extraction whose worker and pod both died crashes when it was silent for long, and is started again."""
    hasten(client, silent_runs())
    hasten(client, restarted_extractions())
    run = start(client, EXTRACTION)
    send_signs_of_life(client, run)
    names: list[str] = []

    def again() -> bool:
        names.append(state(client, run))
        return names[-1] == "AwaitingRetry"

    wait_until(again)
    assert "Killed" in names
    # Waiting for its worker, it is not silent.
    client.set_flow_run_state(run.id, Pending())
    other = start(client, EXTRACTION)
    crash(client, other)
    wait_until(lambda: state(client, other) == "AwaitingRetry")
    assert state(client, run) == "Pending"


def state(client: SyncPrefectClient, run: FlowRun) -> str:
    """The state of a run by its name."""
    return client.read_flow_run(run.id).state_name or ""


def test_the_schedule_makes_runs(deployed: Deploy, client: SyncPrefectClient) -> None:  # noqa: ARG001
    """The server plans the looks of the next days, at their time; paused, it plans none."""
    watch = client.read_deployment_by_name(WATCH)
    of_watch = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[watch.id]))

    def planned() -> list[tuple[int, int]]:
        runs = client.read_flow_runs(flow_run_filter=of_watch)
        times = [run.next_scheduled_start_time for run in runs if run.auto_scheduled]
        return [(time.hour, time.minute) for time in times if time]

    wait_until(lambda: len(planned()) >= 3)
    assert set(planned()) == {(5, 17)}
    [daily] = watch.schedules
    client.update_deployment_schedule(watch.id, daily.id, active=False)
    assert planned() == []


def send_signs_of_life(client: SyncPrefectClient, *runs: FlowRun) -> None:
    """Send a heartbeat of each run, as the engine does."""
    for run in runs:
        tags = [{"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"} for tag in run.tags]
        event = Event(
            event="prefect.flow-run.heartbeat",
            resource=Resource({"prefect.resource.id": f"prefect.flow-run.{run.id}"}),
            related=[RelatedResource(tag) for tag in tags],
        )
        client.request("POST", "/events", json=[event.model_dump(mode="json")])


def test_results_on_s3(deploy: Deploy, s3_url: str, s3_endpoint: str) -> None:
    """Prefect's results lie below ours, written with the environment's key and address: the block has neither."""
    deploy(job_variables={"image": "somatic:1"}, results=f"{s3_url}/lab/somatic/")
    block: Any = S3Bucket.load("somatic-results")
    block.write_path("a-result", content=b"42")
    bucket = s3_url.removeprefix("s3://")
    found = boto3.client("s3", endpoint_url=s3_endpoint).get_object(Bucket=bucket, Key="lab/somatic/.prefect/a-result")
    assert found["Body"].read() == b"42"
    assert block.read_path("a-result") == b"42"
    held = block.credentials.model_dump(exclude_none=True)
    assert not {name for name in held if name.startswith("aws_") and name != "aws_client_parameters"}
    assert held["aws_client_parameters"].get("endpoint_url") is None


@pytest.mark.parametrize(
    ("url", "kind", "place"),
    [
        ("s3://bucket", S3Bucket, ".prefect"),
        ("s3://bucket/a/b/", S3Bucket, "a/b/.prefect"),
        ("gs://bucket/a", RemoteFileSystem, "gs://bucket/a/.prefect"),
        ("/data/somatic", None, None),
        ("file:///data/somatic", None, None),
    ],
)
def test_block_for_results(url: str, kind: type | None, place: str | None) -> None:
    """S3 has its own block, other stores that of fsspec; in a folder Prefect needs none."""
    block: Any = results_block(url)
    assert (type(block) if block else None) is kind
    if block:
        assert (block.bucket_folder if kind is S3Bucket else block.basepath) == place
