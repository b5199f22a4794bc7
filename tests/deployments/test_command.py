"""`somatic deploy` and `prefect deploy` as people run them, and a worker of processes on this machine."""

import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import psutil
import pytest
from answers import Answers
from conftest import EVERYTHING, IMAGE, Deploy, everything_on, hasten, prefect
from file_server import Fault, FileServer
from namesakes import put_namesakes
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_server import process_worker
from snippets import Snippet, snippets_of
from volumes import put_volume

from cli.deploy import _check_image
from cli.main import main
from deployments.automations import restarted_extractions

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ran:
    """How the command ended."""

    status: int | str
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that it said."""
        assert self.out == ""
        [line] = self.err.splitlines()
        return line


Somatic = Callable[..., Ran]


@pytest.fixture
def somatic(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Somatic]:
    """Run `somatic deploy` in this process, which is five seconds faster than in one of its own."""
    before = dict(os.environ)

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["somatic", "deploy", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return Ran(end.value.code or 0, *capsys.readouterr())

    yield run
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--image", "Somatic:1"], ["--image", "'Somatic:1'", "not the name of an image"]),
        (["--image", "registry.example.org/somatic"], ["--image", "no version", ":TAG"]),
        (["--image", "http://registry/somatic:1"], ["--image", "not the name of an image"]),
        (["--namespace", "My_Lab"], ["--namespace", "'My_Lab'"]),
        (["--type", "docker"], ["--type", "'docker'", "process"]),
        (["--type", "process", "--image", IMAGE], ["--type", "neither image nor namespace"]),
        (["--job-variable", "node_selector"], ["--job-variable", "NAME=JSON"]),
        (["--job-variable", "priority_class_name=low"], ["--job-variable", "quotes"]),
        (["--shards", "0"], ["--shards"]),
        (["--notify", "hooks.example.org/a-secret-path"], ["--notify", "no URL"]),
    ],
)
def test_wrong_arguments(somatic: Somatic, arguments: list[str], says: list[str]) -> None:
    """A wrong option is told in one line that names it; status 2, and nothing begins."""
    ran = somatic(*arguments)
    assert ran.status == 2
    assert "a-secret-path" not in ran.error
    for part in says:
        assert part in ran.error


@pytest.mark.parametrize("image", ["somatic:1", IMAGE, "localhost:5000/a/b-c/somatic:v0.1_x", f"a/b@sha256:{'0' * 64}"])
def test_names_of_images(image: str) -> None:
    """These are names of images."""
    assert _check_image(image) == image


def test_no_server(somatic: Somatic, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a server it is told to start one; one that does not answer is told soon, and without its password."""
    with temporary_settings({PREFECT_API_URL: None}):
        nowhere = somatic()
    assert nowhere.status == 1
    assert "prefect server start" in nowhere.error
    assert "PREFECT_API_URL" in nowhere.error

    monkeypatch.setattr("cli.prefect_server._ANSWER_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        with temporary_settings({PREFECT_API_URL: f"http://me:a-password@{host}/api"}):
            silence = somatic()
    assert time.monotonic() - started < 10
    assert silence.status == 1
    assert f"the Prefect server at {host} does not answer" in silence.error
    assert "a-password" not in silence.error


def test_a_server_that_is_too_old(somatic: Somatic) -> None:
    """It is told with both versions, and nothing was made on it; with --dry-run too."""
    known = {"/api/admin/version": (200, "3.4.14"), "/api/*": (200, [])}
    with Answers(known) as old, temporary_settings({PREFECT_API_URL: f"http://{old.host}/api"}):
        for options in ([], ["--dry-run"]):
            ran = somatic("--type", "process", "--to", "/data", *options)
            assert ran.status == 1
            assert f"Prefect server at {old.host} is too old for somatic deploy: it has version 3.4.14" in ran.error
            assert "nothing was changed" in ran.error
    assert {asked.split()[0] for asked in old.asked} == {"GET"}


def test_a_server_that_refuses(somatic: Somatic, client: SyncPrefectClient) -> None:  # noqa: ARG001
    """What the server does not take is told with its own reason."""
    ran = somatic("--image", IMAGE, "--to", "s3://bucket", "--job-variable", "node_selector=[1]", "--dry-run")
    assert ran.status == 0  # only the server knows the types
    ran = somatic("--image", IMAGE, "--to", "s3://bucket", "--job-variable", "node_selector=[1]")
    assert ran.status == 1
    assert "refused" in ran.error
    assert "node_selector" in ran.error


def test_what_it_prints(somatic: Somatic, client: SyncPrefectClient) -> None:  # noqa: ARG001
    """It says what became of each thing; a second time, that all was left."""
    first = somatic("--image", IMAGE, "--to", "s3://bucket/somatic")
    assert (first.status, first.err) == (0, "")
    lines = first.out.splitlines()
    assert "created      work pool somatic (kubernetes)" in lines
    assert "created      deployment extract/minnie65" in lines
    assert lines[-1].endswith("prefect deployment run extract/minnie65 --watch")
    second = somatic().out.splitlines()
    assert [line.split()[0] for line in second[:-3]] == ["left"] * len(EVERYTHING)
    announced = somatic("--shards", "3", "--dry-run").out.splitlines()
    assert "would change work queue shards (at most 3 at once)" in announced
    assert all(line.startswith("would ") for line in announced)


def test_prefect_deploy(
    deployed: Deploy, client: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`prefect deploy --all` makes the very deployments that somatic makes, and takes no automation away.

    The entries for another dataset in the comment of prefect.yaml work as they stand there.
    """
    deployed(webhook="https://hooks.example.org/x")
    automations = {automation.id for automation in client.read_automations()}
    assert len(automations) == 4
    client.delete_deployment(client.read_deployment_by_name("extract/minnie65").id)
    watch = client.read_deployment_by_name("watch/minnie65")
    client.delete_deployment(watch.id)

    text = (ROOT / "deployments" / "prefect.yaml").read_text()
    entries = re.findall(r"^# ((?:  - <<|    \w+): .*)$", text, re.MULTILINE)
    assert len(entries) == 12
    path = tmp_path / "prefect.yaml"
    path.write_text("\n".join([text, *entries, ""]))
    monkeypatch.chdir(ROOT)
    prefect("--no-prompt", "deploy", "--all", "--prefect-file", str(path))
    assert {automation.id for automation in client.read_automations()} == automations
    assert {change.what for change in deployed() if change.did != "left"} == set()

    mine = client.read_deployment_by_name("extract/mine")
    assert mine.parameters["dataset"] == "mine"
    assert mine.parameters["shard_deployment"] == "extract-shard/mine"
    assert mine.parameters["chunks_per_shard"] == 20
    assert client.read_deployment_by_name("extract-shard/mine").work_queue_name == "shards"
    watch_mine = client.read_deployment_by_name("watch/mine")
    assert (watch_mine.parameters["dataset"], watch_mine.parameters["extract_deployment"]) == ("mine", "extract/mine")
    for each in (client.read_deployment_by_name("watch/minnie65"), watch_mine):
        assert schedules(each) == schedules(watch)


def schedules(deployment: DeploymentResponse) -> list[dict[str, Any]]:
    """When a deployment runs by itself."""
    return [one.model_dump(include={"schedule", "active", "slug"}) for one in deployment.schedules]


RUN_HERE = [one for one in snippets_of(ROOT / "docs" / "cluster.md") if one.language == "bash" and not one.needs]


@pytest.mark.parametrize("snippet", RUN_HERE, ids=str)
def test_commands_of_the_documentation(
    somatic: Somatic, deploy: Deploy, client: SyncPrefectClient, snippet: Snippet
) -> None:
    """What docs/cluster.md says to do with a Prefect server works; its undo leaves nothing of a deployment there."""
    before = everything_on(client)
    if ["somatic", "deploy"] not in [command[:2] for command in snippet.commands]:
        deploy(job_variables={"image": IMAGE}, results="s3://bucket/somatic", webhook="https://hooks.example.org/x")
    for program, *arguments in snippet.commands:
        if program == "somatic":
            assert arguments[0] == "deploy"
            assert somatic(*arguments[1:]).status == 0
        elif program == "prefect":
            prefect(*arguments)
        else:
            # Of where the server is; here it is elsewhere, and known.
            assert (program, arguments[0].partition("=")[0]) == ("export", "PREFECT_API_URL")
    if "delete watch/minnie65" in snippet.code:
        assert everything_on(client) == before


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two cells, tables in files."""
    labels = np.zeros((48, 24, 24), np.uint64)
    grid = np.indices(labels.shape)
    for root_id, x in ((2**60 + 1, 12), (2**60 + 3, 36)):
        centre = np.array([x, 12, 12]).reshape(3, 1, 1, 1)
        labels[((grid - centre) ** 2).sum(0) < 8**2] = root_id
    segmentation = put_volume(tmp_path / "segmentation", labels, resolution_nm=(256, 256, 256))
    pd.DataFrame(
        {
            "id": [5, 7, 9],
            "pt_root_id": [2**60 + 1, 2**60 + 3, 0],
            "pt_position_x": [12, 36, 24],
            "pt_position_y": 12,
            "pt_position_z": 12,
        }
    ).to_csv(tmp_path / "nuclei.csv", index=False)
    path = tmp_path / "two.toml"
    path.write_text(
        f'name = "two"\nmip = 0\ncutout_radius_um = 2.5\nsegmentation = "{segmentation}"\n'
        f'[files]\nnuclei = "nuclei.csv"\nresolution_nm = [256, 256, 256]\n'
    )
    return path


def finished(client: SyncPrefectClient, run_id: UUID, log: Path) -> FlowRun:
    """Wait for the end of a run that must end well."""
    deadline = time.monotonic() + 150
    while (run := client.read_flow_run(run_id)).state_name != "Completed":
        assert time.monotonic() < deadline, f"{run.state_name}\n{log.read_text()}"
        time.sleep(0.3)
    return run


def test_an_extraction_that_is_killed(
    somatic: Somatic, client: SyncPrefectClient, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An extraction whose process is killed comes back as the same run, though nobody does anything, and completes.

    After ten seconds in place of thirty. Its deployment lets one extraction run: the killed one makes room for itself.
    """
    monkeypatch.chdir(tmp_path)
    assert somatic("--pool", "here", "--type", "process", "--to", "results").status == 0
    hasten(client, restarted_extractions())
    with FileServer(tmp_path) as server, process_worker("here", tmp_path):
        nuclei = f"{server.url().removeprefix('precomputed://')}/nuclei.csv"
        dataset.write_text(dataset.read_text().replace("nuclei.csv", nuclei))
        server.faults["nuclei.csv"] = Fault(wait=threading.Event(), times=1)
        options = {"dataset": str(dataset), "version": 0, "workers": 1, "meshes": False, "shard_deployment": None}
        deployment = client.read_deployment_by_name("extract/minnie65")
        run = client.create_flow_run_from_deployment(deployment.id, parameters=options)
        deadline = time.monotonic() + 90
        while not server.asked:
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.2)
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("PREFECT__FLOW_RUN_ID") == str(run.id):
                    process.kill()
        assert finished(client, run.id, tmp_path / "log").run_count == 2
    states = client.read_flow_run_states(run.id)
    names = [state.name for state in states if state.name in ("Running", "Crashed", "Killed", "AwaitingRetry")]
    assert names == ["Running", "Crashed", "Killed", "AwaitingRetry", "Running"]
    [path] = tmp_path.glob("results/two/v0/*/features.parquet")
    assert pd.read_parquet(path).set_index("nucleus_id").status.to_dict() == {5: "ok", 7: "ok", 9: "skipped"}


def test_processes_of_one_machine(
    somatic: Somatic, client: SyncPrefectClient, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deployed for processes, a worker in a second shell runs the extraction; every nucleus is in the table.

    The worker and its runs are in a folder that has packages of its own with the names of ours.
    """
    monkeypatch.chdir(tmp_path)
    put_namesakes(tmp_path)
    assert somatic("--pool", "here", "--type", "process", "--to", "results").status == 0
    options = {"dataset": str(dataset), "version": 0, "workers": 1, "meshes": False, "shard_deployment": None}
    deployment = client.read_deployment_by_name("extract/minnie65")
    here = {"working_dir": str(tmp_path)}
    run = client.create_flow_run_from_deployment(deployment.id, parameters=options, job_variables=here)
    with process_worker("here", tmp_path):
        finished(client, run.id, tmp_path / "log")
    [path] = tmp_path.glob("results/two/v0/*/features.parquet")
    table = pd.read_parquet(path).set_index("nucleus_id")
    assert table.status.to_dict() == {5: "ok", 7: "ok", 9: "skipped"}

    # The engine's signs of life are such as the automation looks for.
    wanted = {"filter": {"event": {"name": ["prefect.flow-run.heartbeat"]}}}
    events = client.request("POST", "/events/filter", json=wanted).json()["events"]
    [sign] = [event for event in events if event["resource"]["prefect.resource.id"] == f"prefect.flow-run.{run.id}"]
    assert "prefect.tag.somatic" in {related["prefect.resource.id"] for related in sign["related"]}
