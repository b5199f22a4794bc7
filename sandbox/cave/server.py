"""A CAVE server on this machine: what caveclient talks to in the demo, the tests and the benchmarks."""

from __future__ import annotations

import socket
import threading
from collections.abc import Collection
from types import TracebackType
from typing import Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from sandbox.cave import faults
from sandbox.cave.auth import LOGIN_PATH, Gate
from sandbox.cave.http import json_answer
from sandbox.cave.info import info_routes
from sandbox.cave.materialize import Materialize
from sandbox.cave.tables import CaveTable, CaveView, Datastack, MaterializedVersion, graph_name
from sandbox.graph.routes import Segmentation

__all__ = ["CaveServer", "CaveTable", "CaveView", "Datastack", "MaterializedVersion"]


class CaveServer:
    """One datastack, served on loopback at a free port by a thread of this process.

    It is the global server and the local one at once. Use it in a ``with`` statement, or call `start` and `stop`.

    Parameters
    ----------
    datastack : Datastack
    token : str, optional
        The token that opens it; None: none is asked for.
    row_cap : int
        No answer to a query has more rows, and only a Warning header says that some are missing.
    unprivileged_tokens : collection of str
        Known tokens without the permission to view the datastack: 403 missing_permission.
    tokens_without_terms : collection of str
        Known tokens whose owner has not accepted the terms of service: 403 missing_tos.
    redirects_to_login : bool
        What happens to a request without any token. False: 401 invalid_token. True: a redirect to a login page, as
        the servers of the field do to what could be a browser; caveclient then raises AuthException.
    """

    def __init__(
        self,
        datastack: Datastack,
        token: str | None = None,
        row_cap: int = 500_000,
        unprivileged_tokens: Collection[str] = (),
        tokens_without_terms: Collection[str] = (),
        redirects_to_login: bool = False,
    ):
        gate = Gate(token, unprivileged_tokens, tokens_without_terms, redirects_to_login)
        self._materialize = Materialize(datastack, gate, row_cap)
        self._segmentation = Segmentation(datastack.graph, graph_name(datastack), gate, datastack.name)
        # Named as TCP, so that asyncio sends small packets at once; without it every answer waits 40 ms.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(128)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        routes = [
            *info_routes(datastack, gate, self.url),
            *self._materialize.routes(),
            *self._segmentation.routes(),
            Route(LOGIN_PATH, _login_page),
        ]
        app = Starlette(routes=routes, exception_handlers={404: _no_such_url})
        self._faults = faults.Faults(app)
        config = uvicorn.Config(
            self._faults,
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="cave-sandbox", daemon=True)

    def start(self) -> Self:
        """Begin to serve. The port is taken, and connections wait, from the moment of construction."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop serving and free the port; answers under way are cut off after a second."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join()
        self._socket.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def requests(self) -> list[faults.Request]:
        """What was answered so far: method, path, query, status; a copy."""
        return self._faults.requests

    def fail(self, where: str, status: int = 500, message: str = "", times: int | None = 1) -> None:
        """Answer the next `times` requests (None: all) whose path and query contain `where` with an error.

        The body is ``{"code", "message", "traceback"}``, and for 502, 503 and 504 a page of HTML, as from a gateway.
        """
        self._faults.fail(where, status, message, times)

    def slow(self, where: str, seconds: float, times: int | None = 1) -> None:
        """Wait before each of the next `times` answers to requests that contain `where`."""
        self._faults.slow(where, seconds, times)

    def hang_up(self, where: str, times: int | None = 1) -> None:
        """Close the connection in the middle of the next `times` answers to requests that contain `where`."""
        self._faults.hang_up(where, times)

    def clear_faults(self) -> None:
        """Be well again: forget what `fail`, `slow` and `hang_up` asked for."""
        self._faults.clear()

    def rate_limit(
        self, per_minute: int | None, window_seconds: float = 60.0, fast_per_minute: int | None = None
    ) -> None:
        """Refuse what a user requests beyond so many per minute, with a 500 that hides a 429; None: no limit.

        Each endpoint is counted apart. `per_minute` is for queries, `fast_per_minute` for versions and the metadata of
        tables, which most deployments do not limit; the graph has no limit of its own. `window_seconds` shortens the
        minute for tests; the message still says minute.
        """

        def limit(number: int | None) -> faults.RateLimit | None:
            return None if number is None else faults.RateLimit(number, window_seconds)

        self._materialize.rate_limit = limit(per_minute)
        self._materialize.fast_rate_limit = limit(fast_per_minute)

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])


def _login_page(_request: Request) -> Response:
    return HTMLResponse("<html><body>Log in</body></html>")


def _no_such_url(_request: Request, _error: Exception) -> Response:
    return json_answer({"message": "The requested URL was not found on the server."}, 404)
