"""Fixtures that many tests share."""

import json
import logging
import os
import signal
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from chromium import axe  # noqa: F401 - a fixture
from gcp_storage_emulator.server import create_server
from hypothesis import settings
from moto.server import ThreadedMotoServer
from prefect_server import prefect_api_url, prefect_database  # noqa: F401 - fixtures
from sessions import SMALL_UM, once_a_session

from sandbox.phantom.scene import Scene, write_scene

SLOW = {
    "cli": {"cell", "report", "snippets", "waiting", "watch"},
    "deployments": {"apply", "command", "effects"},
    "flows": {"fanout", "faults", "limits", "new_version_faults", "own_server", "prefect", "receipts", "refused_files"}
    | {"resume", "retries", "reuse_faults", "secrets", "stale", "watch", "what_a_run_cost"},
    "hostile": {"dataset_files", "layers_of_strangers", "result_sets", "table_files"},
    "tests": {"isolation", "missing_files", "private_layers", "using_results", "working_folder"},
}
"""By folder, the files `test_<name>.py` or `test_command_<name>.py` that `make test` leaves to `make test-all`."""

# A shell that starts the tests in the background makes them and their children ignore Ctrl-C, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)
# On a busy machine an example may take any time.
settings.register_profile("somatic", deadline=None)
settings.load_profile("somatic")

_S3 = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of slow files."""
    for item in items:
        name = item.path.stem.removeprefix("test_").removeprefix("command_")
        if name in SLOW.get(item.path.parent.name, ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Address of an S3 server on this machine, which the environment names as AWS users do."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # else a line for every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _S3.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        patch.delenv("AWS_PROFILE", raising=False)
        patch.delenv("AWS_SESSION_TOKEN", raising=False)
        yield endpoint
    server.stop()


@pytest.fixture(scope="session")
def s3_url(s3_endpoint: str) -> str:
    """A bucket."""
    name = f"somatic-{os.getpid()}"
    boto3.client("s3", endpoint_url=s3_endpoint).create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def gs_endpoint() -> Iterator[str]:
    """Address of a server of Google's kind of buckets on this machine, with the bucket `somatic`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with create_server("127.0.0.1", port, in_memory=True, default_bucket="somatic"):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def gs_url(gs_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """That bucket; its server is known to this test alone, since others read public buckets."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gs_endpoint)
    return "gs://somatic"


@pytest.fixture(params=["file", "s3", "gs"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for results, in a folder and in buckets."""
    if request.param == "file":
        return str(tmp_path / "results")
    return f"{request.getfixturevalue(f'{request.param}_url')}/{uuid.uuid4().hex}"


@dataclass(frozen=True)
class Phantom:
    """The whole phantom scene, and how it was to write it."""

    scene: Scene
    shares: list[float]
    """Progress as it was told."""
    cpu_s: float


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Phantom:
    """The phantom, written once for all processes of a session; SOMATIC_SCENE names a folder that keeps it for more."""
    with once_a_session(tmp_path_factory, "phantom") as folder:
        folder = Path(os.environ.get("SOMATIC_SCENE") or folder)
        noted = folder.with_name(f"{folder.name}-written.json")
        shares: list[float] = []
        started = time.process_time()
        # One that is there and complete is used again.
        scene = write_scene(folder, progress=shares.append)
        if len(shares) > 1 or not noted.exists():
            noted.write_text(json.dumps([shares, time.process_time() - started]))
    return Phantom(scene, *json.loads(noted.read_text()))


@pytest.fixture(scope="session")
def small_scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Two cells of the phantom, and a nucleus without a root; two versions, and the volume begins below zero."""
    with once_a_session(tmp_path_factory, "small") as folder:
        return write_scene(folder, extent_um=SMALL_UM)
