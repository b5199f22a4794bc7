"""A small phantom volume behind a CAVE server, dataset files for it, and the command."""

import contextlib
import gzip
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import (
    NO_PERMISSION,
    NO_TERMS,
    TOKEN,
    Ran,
    Run,
    Running,
    at_a_laptop,
    changed,
    run_here,
    start,
)

from sandbox.cave.server import CaveServer
from sandbox.lab import datastack, write_cave_dataset, write_file_dataset
from sandbox.phantom.scene import Scene

RADIUS_UM = 5
"""Small cutouts are fast; what is measured in them is tested elsewhere."""


@pytest.fixture(scope="session")
def scene(small_scene: Scene) -> Scene:
    """Two cells, and a nucleus without a root; two versions."""
    return small_scene


@pytest.fixture(scope="session")
def cave(scene: Scene) -> Iterator[CaveServer]:
    """The scene behind a CAVE server."""
    with CaveServer(
        datastack(scene), token=TOKEN, unprivileged_tokens=[NO_PERMISSION], tokens_without_terms=[NO_TERMS]
    ) as server:
        yield server


@pytest.fixture(scope="session")
def cave_toml(scene: Scene, cave: CaveServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dataset file of the scene behind the CAVE server."""
    path = write_cave_dataset(scene, cave.url, tmp_path_factory.mktemp("dataset") / "phantom.toml")
    return _with_small_cutouts(path)


@pytest.fixture(scope="session")
def files_toml(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dataset file of version 1 of the scene, with tables in files."""
    return _with_small_cutouts(write_file_dataset(scene, 1, tmp_path_factory.mktemp("dataset") / "tables.toml"))


@pytest.fixture(scope="session")
def cell_id(scene: Scene) -> int:
    """A nucleus with all there is to measure."""
    return scene.with_role("ordinary")[0].nucleus_id


@pytest.fixture(scope="session")
def no_mesh_toml(scene: Scene, files_toml: Path, cell_id: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset whose nucleus layer has no mesh of the cell."""
    folder = tmp_path_factory.mktemp("no-mesh")
    shutil.copytree(scene.folder / "nuclei", folder / "nuclei")
    for part in (folder / "nuclei" / "mesh").glob(f"{cell_id}:*"):
        part.unlink()
    return changed(files_toml, folder, (scene.nucleus_segmentation_url, f"precomputed://file://{folder}/nuclei"))


@pytest.fixture(autouse=True)
def _laptop(tmp_path: Path) -> Iterator[None]:
    """A laptop for each test."""
    with at_a_laptop(tmp_path):
        yield


@pytest.fixture
def run() -> Run:
    """Run the command in this process."""
    return run_here


@pytest.fixture(scope="session")
def run_flow(prefect_api_url: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same, with a Prefect server for the flow."""
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_HOME,
        temporary_settings,
    )

    from flows.own_server import send_what_is_left

    home = tmp_path_factory.mktemp("prefect-home")

    def run_flow(*arguments: object, api_url: str = prefect_api_url) -> Ran:
        # Every flow would wait at its end, up to a second, for the thread that gives signs of life.
        settings = {PREFECT_API_URL: api_url, PREFECT_HOME: home, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
        with temporary_settings(settings):
            try:
                return run_here(*arguments)
            finally:
                send_what_is_left()

    return run_flow


@pytest.fixture(scope="session")
def damaged(scene: Scene, files_toml: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dataset file, and its segmentation, in which a file that only the first cell's cutout needs does not decode."""
    folder = tmp_path_factory.mktemp("damaged")
    segmentation = folder / "seg_v1"
    shutil.copytree(scene.folder / "seg_v1", segmentation)
    # Files are 2.56 um deep. These begin at 10.24 um; the cell lies at 16, and its cutout begins at 11.
    start_vx = scene.voxel_offset[2] + 4 * 32
    files = list(segmentation.glob(f"*/*_{start_vx}-{start_vx + 32}.gz"))
    assert files
    for path in files:
        path.write_bytes(gzip.compress(b"no segmentation"))
    return changed(files_toml, folder, (scene.segmentation_url(1), str(segmentation))), segmentation


@pytest.fixture(scope="session")
def waiting(
    cave_toml: Path, cave: CaveServer, prefect_api_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Running]]:
    """Commands on their way to ports that refuse, swallow or never answer."""
    with contextlib.ExitStack() as sockets:
        refusing, swallowing, silent = (sockets.enter_context(socket.socket()) for _ in range(3))
        for port in (refusing, swallowing, silent):
            port.bind(("127.0.0.1", 0))
        swallowing.listen(0)
        silent.listen(100)
        # The queue is full with these, and whoever comes then is not answered at all.
        for _ in range(4):
            visitor = sockets.enter_context(socket.socket())
            visitor.setblocking(False)
            visitor.connect_ex(swallowing.getsockname())
        running = {}
        for name, port, arguments in (
            ("extract, refused", refusing, ["extract"]),
            ("plan, no connection", swallowing, ["plan"]),
            ("cell, no answer", silent, ["cell", 5]),
        ):
            folder = tmp_path_factory.mktemp("waiting")
            host, number = port.getsockname()
            dataset = changed(cave_toml, folder, (cave.url, f"http://{host}:{number}"))
            running[name] = start(arguments[0], dataset, *arguments[1:], folder=folder, PREFECT_API_URL=prefect_api_url)
        yield running
        for command in running.values():
            command.process.kill()


@pytest.fixture(scope="session", autouse=True)
def _begin_waiting(request: pytest.FixtureRequest) -> None:
    """Start what waits before the first test, if any of the chosen tests looks at it.

    Not where several processes share the tests: each would start it, and while one of them waits the others are busy.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    if any("waiting" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("waiting")


def _with_small_cutouts(path: Path) -> Path:
    path.write_text(path.read_text().replace("mip = 0\n", f"mip = 0\ncutout_radius_um = {RADIUS_UM}\n"))
    return path
