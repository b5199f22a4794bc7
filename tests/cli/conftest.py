"""A small phantom volume behind a CAVE server, dataset files for it, and the command."""

import contextlib
import io
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from command_line import NO_PERMISSION, NO_TERMS, TOKEN, Ran, Run, laptop

from cli.main import main
from sandbox.cave import CaveServer
from sandbox.lab import datastack, write_cave_dataset, write_file_dataset
from sandbox.scene import Scene, write_scene
from somatic import cave_calls

EXTENT_UM = (36.0, 24.0, 38.0)
"""Holds three of the phantom's nuclei: two with a cell, and one without a root."""
RADIUS_UM = 5
"""Small cutouts are fast; what is measured in them is tested elsewhere."""


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Two cells, and a nucleus without a root; two versions."""
    return write_scene(tmp_path_factory.mktemp("cli") / "volume", extent_um=EXTENT_UM)


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


@pytest.fixture(autouse=True)
def _laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home, a current folder and a terminal of 80 columns for each test; the token that opens the server."""
    for name, value in laptop(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    # Each command has a process, and so a rate limiter, of its own; these run in one process.
    monkeypatch.setattr(cave_calls, "_limiters", {})


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in this process, through the entry point of the command line."""

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["somatic", *map(str, arguments)])
        started = time.monotonic()
        with (
            mock.patch.dict(os.environ),
            contextlib.redirect_stdout(io.StringIO()) as out,
            contextlib.redirect_stderr(io.StringIO()) as err,
        ):
            try:
                main()
                raise AssertionError("the entry point must end with a status")
            except SystemExit as ended:
                status = ended.code or 0
        assert isinstance(status, int)
        return Ran(status, out.getvalue(), err.getvalue(), time.monotonic() - started)

    return run


@pytest.fixture
def run_flow(run: Run, prefect_api_url: str) -> Run:
    """The same, with a Prefect server for the flow."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    def run_flow(*arguments: object) -> Ran:
        with temporary_settings({PREFECT_API_URL: prefect_api_url}):
            return run(*arguments)

    return run_flow


def _with_small_cutouts(path: Path) -> Path:
    path.write_text(path.read_text().replace("mip = 0\n", f"mip = 0\ncutout_radius_um = {RADIUS_UM}\n"))
    return path
