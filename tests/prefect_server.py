"""A Prefect server and a worker as a person starts them; `prefect_api_url` is one server for all tests of a session."""

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest
from sessions import once_a_session

from sandbox import ending

_START_S = 600


class PrefectServer:
    """A Prefect server on this machine, which can be away for a while.

    Parameters
    ----------
    home : Path
        Folder of its own, for its database and its log.
    database : str, optional
        SQLAlchemy's URL of a database; SQLite in `home` when left out.
    made_before : Path, optional
        A new SQLite database, as `prefect_database` is one: half of a first start goes into making its tables.
    """

    def __init__(self, home: Path, database: str | None = None, made_before: Path | None = None) -> None:
        if made_before:
            shutil.copyfile(made_before, home / "prefect.db")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}/api"
        self.log = home / "log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        self._environment = environment | {
            "PREFECT_HOME": str(home),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }
        if database:
            self._environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = database

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self._port)]
        with self.log.open("ab") as log:
            self._process = ending.start(command, env=self._environment, stdout=log, stderr=log)
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it; what it was told so far it knows when it starts again."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_S
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.url}/health", timeout=5, trust_env=False).is_success:
                    return
            except httpx.TransportError:
                time.sleep(0.2)
        raise RuntimeError(f"no Prefect server at {self.url} within {_START_S} s: see {self.log}")


@contextmanager
def process_worker(pool: str, folder: Path, **environment: str) -> Iterator[psutil.Process]:
    """A worker of processes, as from another shell, with its log in a folder; it looks for runs every second."""
    command = [Path(sys.executable).with_name("prefect"), "worker", "start", "--pool", pool, "--type", "process"]
    known = {**os.environ, "PREFECT_WORKER_QUERY_SECONDS": "1", **environment}
    with (folder / "log").open("wb") as log:
        started = ending.start(command, cwd=folder, stdout=log, stderr=log, env=known)
    worker = psutil.Process(started.pid)
    try:
        yield worker
    finally:
        # SIGTERM may take it longer than 30 s, and it has nothing to finish.
        for process in [*worker.children(recursive=True), worker]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        started.wait()


@pytest.fixture(scope="session")
def prefect_api_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Prefect server on this machine, with a database of its own."""
    home = tmp_path_factory.mktemp("prefect-server")
    with once_a_session(tmp_path_factory, "prefect.db") as made_before:
        is_first = not made_before.exists()
        server = PrefectServer(home, made_before=None if is_first else made_before)
        server.start()
        if is_first:
            with closing(sqlite3.connect(home / "prefect.db")) as new, closing(sqlite3.connect(made_before)) as copy:
                new.backup(copy)
    try:
        yield server.url
    finally:
        server.stop()


@pytest.fixture(scope="session")
def prefect_database(prefect_api_url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ARG001
    """A database of Prefect as a first start makes it, to be copied."""
    with once_a_session(tmp_path_factory, "prefect.db") as made_before:
        return made_before
