"""A Prefect server for the time of one command, where none is set.

Prefect would bring one itself. Ours ends when this process ends, even by SIGKILL; Ctrl-C does not reach it before the
run has said there how it ended; it may take as long to start as a busy machine needs, and starts beside our imports.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from somatic.errors import TransientError

_START_S = 180.0
_END_S = 10.0


@contextmanager
def own_server(folder: Path | None = None) -> Iterator[Callable[[], None]]:
    """Start a Prefect server that the flows inside use, unless the settings of Prefect name one.

    Its database is that of Prefect's settings, so that the runs are there for `prefect server start` later.

    Parameters
    ----------
    folder : Path, optional
        Working folder of the server, whose prefect.toml and .env it reads; the current one when left out.

    Yields
    ------
    callable
        Waits until the server answers; raises `TransientError` when it does not.
    """
    from prefect.settings import PREFECT_API_URL, temporary_settings

    if PREFECT_API_URL.value():
        yield lambda: None
        return
    with tempfile.TemporaryFile() as log, _process(log, folder) as (process, address):

        def wait() -> None:
            _wait(process, address, log)

        with temporary_settings({PREFECT_API_URL: f"http://{address[0]}:{address[1]}/api"}):
            try:
                yield wait
            finally:
                if process.poll() is None:
                    send_what_is_left()


@contextmanager
def _process(log: IO[bytes], folder: Path | None) -> Iterator[tuple[subprocess.Popen[bytes], tuple[str, int]]]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        process = subprocess.Popen(
            # -P: nothing in the working folder may take the place of a library.
            [sys.executable, "-P", "-m", __name__, str(listening.fileno())],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[listening.fileno()],
            cwd=folder,
            start_new_session=True,
        )
        address = listening.getsockname()
    try:
        yield process, address
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], address: tuple[str, int], log: IO[bytes]) -> None:
    import httpx

    deadline = time.monotonic() + _START_S
    while process.poll() is None:
        left_s = deadline - time.monotonic()
        if left_s < 0:
            raise TransientError(f"Prefect's own server was not ready within {_START_S:g} s; try again")
        try:
            # The port listens from the beginning: a request waits there for the server.
            health = httpx.get(f"http://{address[0]}:{address[1]}/api/health", timeout=left_s, trust_env=False)
        except httpx.TransportError:
            continue
        if health.is_success:
            return
    log.seek(0)
    said = log.read().decode(errors="replace").split("\n")
    reason = next((line.strip() for line in reversed(said) if line.strip()), f"exit status {process.returncode}")
    raise TransientError(f"Prefect's own server did not start ({reason}); try again, or set PREFECT_API_URL")


def send_what_is_left() -> None:
    """Send the log lines and states that Prefect still holds back, before the server is gone."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=_END_S)


def _serve(listening: socket.socket) -> None:
    # First, since the imports take seconds.
    threading.Thread(target=_end_with_parent, daemon=True).start()

    import uvicorn
    from prefect.server.api.server import create_app

    app = create_app(ephemeral=True, final=True)
    config = uvicorn.Config(app, lifespan="on", log_level="error", timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[listening])


def _end_with_parent() -> None:
    # Nobody writes: this returns when the other end is closed, or its process is gone.
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_END_S)
    os._exit(1)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
