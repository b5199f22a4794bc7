"""A bucket over HTTP on this machine, as cloud-volume meets one, with faults on demand."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import tenacity

from somatic.volume import patience

S3_DENIED = b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>'
"""How S3 refuses a key: one that may not be read and, in a bucket that may not be listed, one that does not exist."""


@pytest.fixture
def fast_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request is tried as often as ever, without waiting between the tries."""
    monkeypatch.setattr(patience, "WAIT", tenacity.wait_none())


@dataclass
class Fault:
    """What happens to requests whose path contains a text: one of these, in place of the file."""

    status: int | None = None
    body: bytes | None = None
    encoding: str | None = None
    """Content-Encoding of the body, that of the file when there is none."""
    cut: bool = False
    """Half of the body is sent, then the connection ends."""
    wait: threading.Event | None = None
    """Nothing is sent until this is set."""
    call: Callable[[int], None] | None = None
    """Called before the answer with the port that the client speaks from."""
    times: int = -1
    """How often; -1 for always."""


@dataclass
class FileServer:
    """Serves a folder; `*.gz` stands for the file without it, with Content-Encoding, as buckets have it."""

    folder: Path
    faults: dict[str, Fault] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    hides_missing: bool = False
    """Answers 403 for what is not there, as S3 and Google's storage do where a bucket may not be listed."""
    is_static: bool = False
    """Serves every file under its own name on disk, `*.gz` too, and whole whatever range is asked for."""

    def __enter__(self) -> "FileServer":
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for fault in self.faults.values():
            if fault.wait:
                fault.wait.set()
        self._server.shutdown()
        self._server.server_close()

    def url(self, folder: str = "") -> str:
        """cloud-volume's path of a layer in a folder below."""
        host, port = self._server.server_address[:2]
        return f"precomputed://http://{host}:{port}/{folder}".rstrip("/")

    def asked_for(self, *parts: str) -> list[str]:
        """Paths of the requests that contain all of some texts."""
        return [path for path in self.asked if all(part in path for part in parts)]

    def refuse(self, parts: Iterable[str] = ("",)) -> None:
        """From now on answer 403 to every path that contains one of these texts, as S3 does when access is revoked."""
        self.faults |= {part: Fault(status=403, body=S3_DENIED) for part in parts}

    def fault_of(self, path: str) -> Fault | None:
        """The fault that a request meets."""
        for text, fault in self.faults.items():
            if text in path and fault.times:
                fault.times -= 1
                return fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # cloud-files opens 20 connections at once; a shorter queue would drop some of them for a second.
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """A client that went away is no error here."""


def _handler(server: FileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.asked.append(self.path)
            fault = server.fault_of(self.path) or Fault()
            if fault.call:
                fault.call(self.client_address[1])
            if fault.wait:
                fault.wait.wait()
            file = server.folder / unquote(urlsplit(self.path).path).lstrip("/")
            zipped = file.with_name(f"{file.name}.gz")
            encoding = None
            body = None
            if file.is_file():
                body = file.read_bytes()
            elif zipped.is_file() and not server.is_static:
                body, encoding = zipped.read_bytes(), "gzip"
            if fault.status:
                return self._send(fault.status, fault.body or b"<html>fault</html>")
            if body is None:
                return self._send(403, S3_DENIED) if server.hides_missing else self._send(404, b"not found")
            if fault.body is not None:
                body, encoding = fault.body, fault.encoding or encoding
            status = 200
            if not server.is_static and (wanted := self.headers.get("Range")):
                first, last = wanted.removeprefix("bytes=").split("-")
                if int(first) >= len(body):
                    return self._send(416, b"")
                body = body[int(first) : int(last) + 1 if last else None]
                status = 206
            return self._send(status, body, encoding, cut=fault.cut)

        do_HEAD = do_GET  # noqa: N815

        def _send(self, status: int, body: bytes, encoding: str | None = None, *, cut: bool = False) -> None:
            try:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                if encoding:
                    self.send_header("Content-Encoding", encoding)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body[: len(body) // 2] if cut else body)
                self.close_connection = cut
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    return Handler
