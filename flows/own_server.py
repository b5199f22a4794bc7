"""A Prefect server for the time of one command, where none is set.

Prefect would bring one itself. Ours ends when this process ends, even by SIGKILL; Ctrl-C does not reach it before the
run has said there how it ended; it may take as long to start as a busy machine needs, and starts beside our imports.
"""

import json
import os
import re
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
from typing import IO, Any

from somatic.errors import PermanentError, TransientError, one_line

_START_S = 180.0
_END_S = 10.0
_LOOK_UP_S = 0.05
_MARK = "somatic: why: "
_ERROR = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt)\b")


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
        Waits until the server answers; raises `PermanentError` or `TransientError` when it does not, which says why.
    """
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_URL,
        PREFECT_SERVER_API_AUTH_STRING,
        PREFECT_SERVER_API_BASE_PATH,
        temporary_settings,
    )

    if PREFECT_API_URL.value():
        yield lambda: None
        return
    with tempfile.TemporaryFile() as log, _process(log, folder) as (process, address):
        url = f"http://{address[0]}:{address[1]}/{(PREFECT_SERVER_API_BASE_PATH.value() or '/api').strip('/')}"

        def wait() -> None:
            _wait(process, url, log)

        # Our server asks for the password that the user's own servers ask for, where the settings say one.
        password = PREFECT_SERVER_API_AUTH_STRING.value() or PREFECT_API_AUTH_STRING.value()
        with temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: password}):
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


def _wait(process: subprocess.Popen[bytes], url: str, log: IO[bytes]) -> None:
    import httpx

    deadline = time.monotonic() + _START_S
    while process.poll() is None:
        left_s = deadline - time.monotonic()
        if left_s < 0:
            raise TransientError(f"Prefect's own server was not ready within {_START_S:g} s; try again")
        try:
            # The port listens from the beginning: a request waits there for the server.
            health = httpx.get(f"{url}/health", timeout=left_s, trust_env=False)
        except httpx.TransportError:
            continue
        if health.is_success:
            return
        time.sleep(_LOOK_UP_S)
    log.seek(0)
    raise _fault(log.read().decode(errors="replace").split("\n"), process.returncode)


def _fault(said: list[str], exit_status: int) -> PermanentError | TransientError:
    """Why the process ended: by its own word, else by the last error in its log."""
    for line in reversed(said):
        if line.startswith(_MARK):
            why, is_passing = json.loads(line.removeprefix(_MARK))
            return (TransientError if is_passing else PermanentError)(f"Prefect's own server did not start: {why}")
    how = f"exit status {exit_status}" if exit_status >= 0 else f"ended by {signal.Signals(-exit_status).name}"
    reason = next((one_line(line) for line in reversed(said) if _ERROR.match(line)), how)
    return TransientError(f"Prefect's own server did not start ({reason}); try again, or set PREFECT_API_URL")


def send_what_is_left() -> None:
    """Send the log lines and states that Prefect still holds back, before the server is gone."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=_END_S)


def _serve(listening: socket.socket) -> None:
    # First, since the imports take seconds.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    app = None
    try:
        import uvicorn
        from prefect.server.api.server import create_app

        app = _Noting(create_app(ephemeral=True, final=True))
        config = uvicorn.Config(app, lifespan="on", log_level="error", timeout_graceful_shutdown=2)
        uvicorn.Server(config).run(sockets=[listening])
    except BaseException as error:
        _tell((app and app.fault) or error)
        raise


class _Noting:
    """An application that notes what its start fails of, which uvicorn writes to its log alone."""

    def __init__(self, app: Any) -> None:
        self.fault: BaseException | None = None
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self._app(scope, receive, send)
        except BaseException as error:
            if scope["type"] == "lifespan":
                self.fault = error
            raise


def _tell(error: BaseException) -> None:
    """Write into the log what `_fault` finds there."""
    # Not before there is a fault, since it imports what the server does.
    from flows.server_fault import describe_fault

    print(f"\n{_MARK}{json.dumps(describe_fault(error))}", file=sys.stderr, flush=True)


def _end_with_parent() -> None:
    # Nobody writes: this returns when the other end is closed, or its process is gone. Not by way of sys.stdin, whose
    # lock Python would find taken at its end.
    os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_END_S)
    os._exit(1)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
