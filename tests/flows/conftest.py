"""A scene, datasets made of it, a Prefect server, and ways to run the flow and the command."""

import multiprocessing.forkserver
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import impatient  # noqa: F401
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

os.environ |= {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}  # before Prefect is imported

from prefect import State
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, PREFECT_LOGGING_LEVEL, temporary_settings

import somatic.cave_client
from file_server import FileServer
from flows.extract import extract
from flows.own_server import send_what_is_left
from prefect_server import prefect_api_url  # noqa: F401 - a fixture
from sandbox.cave import CaveServer
from sandbox.lab import datastack, write_cave_dataset, write_file_dataset
from sandbox.scene import Scene, write_scene
from somatic import cave_calls
from somatic.cave_calls import Patience
from somatic.store import ResultStore

SOMATIC = Path(sys.executable).with_name("somatic")
TOKEN = "5ca1ab1e0123456789abcdef5ca1ab1e"
RADIUS_UM = 3.0
"""Small cutouts are fast; what is measured in them is tested elsewhere."""


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """The whole phantom; SOMATIC_SCENE names a folder that keeps it from one session to the next."""
    return write_scene(Path(os.environ.get("SOMATIC_SCENE") or tmp_path_factory.mktemp("flows") / "volume"))


@pytest.fixture(scope="session", autouse=True)
def _fork_server() -> None:
    """Workers whose cloud-files does not wait between its tries."""
    multiprocessing.set_forkserver_preload(["impatient", "somatic.isolation"])
    multiprocessing.forkserver.ensure_running()


@pytest.fixture(scope="session", autouse=True)
def _prefect(prefect_api_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:  # noqa: F811
    """Flows of this process, and commands that it starts, use the server of the tests."""
    home = tmp_path_factory.mktemp("prefect-home")
    settings = {PREFECT_API_URL: prefect_api_url, PREFECT_HOME: home, PREFECT_LOGGING_LEVEL: "INFO"}
    with temporary_settings(settings), pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", prefect_api_url)
        patch.setenv("PREFECT_HOME", str(home))
        yield
        send_what_is_left()


@pytest.fixture(autouse=True)
def _laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home and a token; CAVE's limit on requests begins anew, and nobody waits long for CAVE."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CAVE_TOKEN", TOKEN)
    monkeypatch.setattr(cave_calls, "_limiters", {})
    impatient_caller = partial(Patience, wait_s=0.05, busy_pause_s=0.2, answer_s=2.0, query_s=2.0)
    monkeypatch.setattr(somatic.cave_client, "Patience", impatient_caller)


@pytest.fixture
def cave(scene: Scene) -> Iterator[CaveServer]:
    """The scene behind a CAVE server that wants the token."""
    with CaveServer(datastack(scene), token=TOKEN) as server:
        yield server


@pytest.fixture
def bucket(scene: Scene) -> Iterator[FileServer]:
    """The layers of the scene over HTTP, with faults on demand."""
    with FileServer(scene.folder) as server:
        yield server


def changed(path: Path, *changes: tuple[str, str]) -> Path:
    """The same file with some text replaced; each must be there."""
    text = path.read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    path.write_text(text)
    return path


def without_nuclei(path: Path) -> Path:
    """A dataset file with small cutouts and without the layer of the nuclei, so that a cell takes a tenth of a second."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("nucleus_segmentation")]
    path.write_text("\n".join(lines) + "\n")
    return changed(path, ("mip = 0\n", f"mip = 0\ncutout_radius_um = {RADIUS_UM}\n"))


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


@dataclass(frozen=True)
class Results:
    """What runs left at a place for results, of one version and configuration."""

    root: str
    version: int = 1

    @property
    def store(self) -> ResultStore:
        """Where features.parquet lies."""
        versions = ResultStore(f"{self.root}/phantom")
        [config] = versions.names(f"v{self.version}")
        return ResultStore(versions.url_of(f"v{self.version}/{config}"))

    @property
    def features(self) -> bytes:
        """Bytes of the table."""
        return self.store.get("features.parquet")

    @property
    def table(self) -> pd.DataFrame:
        """The table, as a user of a laptop reads it, by nucleus id."""
        return pd.read_parquet(self.store.url_of("features.parquet")).set_index("nucleus_id")

    @property
    def provenance(self) -> pd.DataFrame:
        """provenance.parquet by nucleus id."""
        return pd.read_parquet(self.store.url_of("provenance.parquet")).set_index("nucleus_id")

    @property
    def chunks(self) -> dict[str, list[int]]:
        """Name of each chunk file and the nuclei in it."""
        store = self.store
        return {
            name: pq.read_table(store.url_of(f"chunks/{name}"), columns=["nucleus_id"])["nucleus_id"].to_pylist()
            for name in store.names("chunks")
        }

    @property
    def stored(self) -> list[int]:
        """Nuclei of all chunk files, as often as they stand there, sorted."""
        return sorted(nucleus_id for nuclei in self.chunks.values() for nucleus_id in nuclei)


def run(dataset: Path, to: object, **parameters: Any) -> State:
    """Run the flow in this process, with short waits and two workers; give its final state."""
    options = {"workers": 2, "chunk": 3, "meshes": False, "retry_delay_s": 0.05} | parameters
    return extract(str(dataset), to=str(to), **options, return_state=True)


def error_of(state: State) -> BaseException:
    """What a flow run failed with."""
    assert state.is_failed(), state
    return state.result(raise_on_failure=False)


@pytest.fixture(scope="session")
def undisturbed(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Version 1 of the scene, extracted in one go."""
    folder = tmp_path_factory.mktemp("undisturbed")
    dataset = without_nuclei(write_file_dataset(scene, 1, folder / "phantom.toml"))
    state = run(dataset, folder / "results")
    assert state.is_completed(), state
    return Results(str(folder / "results"))


@dataclass(frozen=True)
class Spot:
    """A cell, and a file of the segmentation that its cutout needs, but no other cutout and no look at a centre."""

    nucleus_id: int
    file: str


@pytest.fixture(scope="session")
def spots(scene: Scene) -> list[Spot]:
    """Cells that can be made to fail or to wait, each alone."""
    rows = scene.nuclei(1)
    rows = rows[rows["pt_root_id"].fillna(0) > 1]
    centres_nm = rows[[f"pt_position_lookup_{axis}" for axis in "xyz"]].to_numpy() * scene.table_resolution_nm
    sides = np.array(scene.voxel_size_nm)
    # A voxel more, since the flow rounds in its own way.
    lower, upper = (centres_nm + (sign * (RADIUS_UM * 1000 + sides)) for sign in (-1, 1))
    found = {}
    for path in (scene.folder / "seg_v1").glob("*/*.gz"):
        box_nm = np.array(re.findall(r"(-?\d+)-(-?\d+)", path.name), dtype=int).T * sides
        touching = np.flatnonzero(((lower < box_nm[1]) & (upper > box_nm[0])).all(axis=1))
        inner = (centres_nm - RADIUS_UM * 1000 < box_nm[1]) & (centres_nm + RADIUS_UM * 1000 > box_nm[0])
        holds_centre = ((centres_nm >= box_nm[0]) & (centres_nm < box_nm[1])).all(axis=1)
        if len(touching) == 1 and inner[touching[0]].all() and not holds_centre.any():
            found[int(rows["id"].iloc[touching[0]])] = path.name.removesuffix(".gz")
    return [Spot(nucleus_id, name) for nucleus_id, name in sorted(found.items())]
