"""A scene, datasets made of it, a Prefect server and a laptop."""

import multiprocessing.forkserver
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import impatient  # noqa: F401 - for what this process reads itself
import pytest
from extracting import TOKEN, Results, Spot, changed, find_spots, run, without_nuclei
from file_server import FileServer
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, PREFECT_HOME, temporary_settings

import somatic.cave.client
import somatic.report.overview
from flows.own_server import send_what_is_left
from sandbox.cave.server import CaveServer, Datastack
from sandbox.lab import datastack, write_cave_dataset, write_file_dataset
from sandbox.phantom.scene import Scene
from somatic.cave import calls as cave_calls
from somatic.cave.calls import Patience


@pytest.fixture(scope="session")
def scene(phantom: Any) -> Scene:
    """The whole phantom."""
    return phantom.scene


@pytest.fixture(scope="session", autouse=True)
def _fork_server() -> None:
    """Workers whose cloud-files does not wait between its tries."""
    multiprocessing.forkserver._forkserver._stop()  # one of earlier tests
    multiprocessing.set_forkserver_preload(
        ["impatient", "somatic.workers.isolation", "somatic.workers.ready_published"]
    )
    with pytest.MonkeyPatch.context() as patch:
        # Python 3.11 does not hand sys.path to a fork server before what it preloads.
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        multiprocessing.forkserver.ensure_running()


@pytest.fixture(scope="session", autouse=True)
def _prefect(prefect_api_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Flows of this process, and commands that it starts, use the server of the tests."""
    home = tmp_path_factory.mktemp("prefect-home")
    # Every flow would wait at its end, up to a second, for the thread that gives signs of life.
    settings = {PREFECT_API_URL: prefect_api_url, PREFECT_HOME: home, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    with (
        temporary_settings(settings),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("PREFECT_API_URL", prefect_api_url)
        patch.setenv("PREFECT_HOME", str(home))
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        yield
        send_what_is_left()


@pytest.fixture(autouse=True)
def _laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home and a token; CAVE's limit on requests begins anew, and nobody waits long for CAVE."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CAVE_TOKEN", TOKEN)
    monkeypatch.setattr(cave_calls, "_limiters", {})
    hasty = partial(Patience, wait_s=0.05, busy_pause_s=0.2, answer_s=5.0, query_s=5.0)
    monkeypatch.setattr(somatic.cave.client, "Patience", hasty)


@pytest.fixture(scope="module")
def no_report() -> Iterator[None]:
    """No report is drawn, for tests that end with a table many times; it takes a third of a small run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(somatic.report.overview, "put_report", lambda _store: None)
        yield


@pytest.fixture
def stack(scene: Scene) -> Datastack:
    """The datastack of the scene."""
    return datastack(scene)


@pytest.fixture
def cave(stack: Datastack) -> Iterator[CaveServer]:
    """The scene behind a CAVE server that wants the token."""
    with CaveServer(stack, token=TOKEN) as server:
        yield server


@pytest.fixture
def bucket(scene: Scene) -> Iterator[FileServer]:
    """The layers of the scene over HTTP, with faults on demand."""
    with FileServer(scene.folder) as server:
        yield server


@pytest.fixture
def dataset(scene: Scene, tmp_path: Path) -> Path:
    """Version 1 of the scene, tables in files."""
    return without_nuclei(write_file_dataset(scene, 1, tmp_path / "phantom.toml"))


@pytest.fixture
def http_dataset(scene: Scene, bucket: FileServer, dataset: Path) -> Path:
    """The same, with the segmentation over HTTP."""
    return changed(dataset, (scene.segmentation_url(1), bucket.url("seg_v1")))


@pytest.fixture
def cave_dataset(scene: Scene, cave: CaveServer, tmp_path: Path) -> Path:
    """The scene behind CAVE."""
    return without_nuclei(write_cave_dataset(scene, cave.url, tmp_path / "phantom.toml"))


@pytest.fixture(scope="session")
def undisturbed(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Version 1 of the scene, extracted in one go."""
    folder = tmp_path_factory.mktemp("undisturbed")
    state = run(without_nuclei(write_file_dataset(scene, 1, folder / "phantom.toml")), folder / "results")
    assert state.is_completed(), state
    return Results(str(folder / "results"))


@pytest.fixture(scope="session")
def spots(scene: Scene) -> list[Spot]:
    """Cells that can be made to fail or to wait, each alone, in the order of their ids."""
    return find_spots(scene)
