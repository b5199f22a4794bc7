"""Accidents on demand: a server that fails, dawdles, dies in the middle of an answer, or has had enough."""

from __future__ import annotations

import asyncio
import html
import threading
import time
from dataclasses import dataclass, field
from typing import NamedTuple

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_OF_A_GATEWAY = (502, 503, 504)


class Request(NamedTuple):
    """A request that was answered: no header, hence no token."""

    method: str
    path: str
    query: str
    status: int | None
    """HTTP status; None where the server hung up, 499 where the client did (as nginx writes it)."""


@dataclass
class _Fault:
    kind: str
    where: str
    times: int | None
    status: int = 500
    message: str = ""
    seconds: float = 0.0


def server_error(message: str, status: int = 500) -> Response:
    """Return what a CAVE service answers when something went wrong, whatever it was.

    A gateway in front of it (502, 503, 504) answers with a page of HTML instead.
    """
    if status in _OF_A_GATEWAY:
        title = html.escape(f"{status} {message}".strip())
        page = f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>"
        return Response(page, status, media_type="text/html")
    return JSONResponse({"code": status, "message": message, "traceback": []}, status)


@dataclass
class Faults:
    """ASGI middleware that keeps a record of requests and lets some of them go wrong.

    A fault concerns requests whose path with query contains `where`, the next `times` of them (None: all).
    """

    app: ASGIApp
    _faults: list[_Fault] = field(default_factory=list)
    _requests: list[Request] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, where: str, status: int, message: str, times: int | None) -> None:
        """Answer with this status and message."""
        self._add(_Fault("fail", where, times, status=status, message=message))

    def slow(self, where: str, seconds: float, times: int | None) -> None:
        """Wait before the answer."""
        self._add(_Fault("slow", where, times, seconds=seconds))

    def hang_up(self, where: str, times: int | None) -> None:
        """Send the headers and half of the body, then close the connection."""
        self._add(_Fault("hang up", where, times))

    def clear(self) -> None:
        """Forget all faults."""
        with self._lock:
            self._faults.clear()

    @property
    def requests(self) -> list[Request]:
        """What was answered so far."""
        with self._lock:
            return list(self._requests)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or let it go wrong."""
        target = f"{scope['path']}?{scope['query_string'].decode('latin-1')}"

        async def noting(message: Message) -> None:
            # Before it is sent, so that whoever has the answer finds it in the record.
            if message["type"] == "http.response.start":
                self._note(scope, message["status"])
            await send(message)

        if slow := self._take("slow", target):
            await asyncio.sleep(slow.seconds)
        if failure := self._take("fail", target):
            await _drain(receive)
            await server_error(failure.message, failure.status)(scope, receive, noting)
        elif self._take("hang up", target):
            self._note(scope, None)
            await self._half_an_answer(scope, receive, send)
        else:
            await self.app(scope, receive, noting)

    async def _half_an_answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        await self.app(scope, receive, keep)
        body = b"".join(message.get("body", b"") for message in messages)
        await send(messages[0])
        # The server closes the connection of an application that returns before its body is complete.
        await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})

    def _note(self, scope: Scope, status: int | None) -> None:
        query = scope["query_string"].decode("latin-1")
        with self._lock:
            self._requests.append(Request(scope["method"], scope["path"], query, status))

    def _add(self, fault: _Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def _take(self, kind: str, target: str) -> _Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.kind == kind and fault.where in target and fault.times != 0:
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return None


class RateLimit:
    """So many requests per window, user and endpoint, as flask-limiter counts: the window opens with the first."""

    def __init__(self, per_minute: int, window_seconds: float = 60.0):
        self.per_minute = per_minute
        self._window_seconds = window_seconds
        self._windows: dict[tuple[str, str], tuple[float, int]] = {}
        self._lock = threading.Lock()

    def exceeded(self, user: str, endpoint: str) -> bool:
        """Count a request and tell whether it is one too many."""
        now = time.monotonic()
        with self._lock:
            opened, count = self._windows.get((user, endpoint), (now, 0))
            if now - opened >= self._window_seconds:
                opened, count = now, 0
            self._windows[user, endpoint] = (opened, count + 1)
            return count >= self.per_minute

    @property
    def message(self) -> str:
        """What the server says when there were too many."""
        return f"429 Too Many Requests: {self.per_minute} per 1 minute"


async def _drain(receive: Receive) -> None:
    # An unread request body would keep the connection from being used again.
    while (await receive()).get("more_body", False):
        pass
