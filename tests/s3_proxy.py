"""Stands before a server of buckets and lets it be slow, be too busy, or refuse requests as private buckets do."""

import http.client
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_FORBIDDEN = b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>'
_BUSY = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>'
_DENIED = b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>'


class S3Proxy:
    """Hands requests on to an S3 server, or one of Google's storage.

    Parameters
    ----------
    endpoint : str
        Of the server.

    Attributes
    ----------
    busy : bool
        Whether the answer to everything is 503.
    faulty : tuple of (str, int) or None
        Text in the path of requests that are answered with an error, and its status, 403 or 503.
    delay_s : float
        Wait before each answer.
    refused : int
        How many requests were answered with 503.
    refuses : int or None
        It is no longer busy when it has answered so many with 503; None: for ever.
    requests : list of (str, dict)
        Path and headers of every request, names in lower case.
    allows : callable
        Whether a request with this path and these headers may pass; else the answer is 403.
    hides_missing : bool
        Answers 403 in place of 404, as S3 does where a bucket may not be listed.
    """

    def __init__(self, endpoint: str) -> None:
        self.busy = False
        self.faulty: tuple[str, int] | None = None
        self.delay_s = 0.0
        self.refused = 0
        self.refuses: int | None = None
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.allows: Callable[[str, Mapping[str, str]], bool] = lambda _path, _headers: True
        self.hides_missing = False
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self, urlsplit(endpoint).netloc))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "S3Proxy":
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def refuse(self) -> bool:
        """Whether to answer a request with 503, which counts."""
        with self._lock:
            if not self.busy:
                return False
            self.refused += 1
            self.busy = self.refused != self.refuses
            return True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """A client that went away is no error here."""


def _handler(proxy: S3Proxy, behind: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self._body()
            headers = {name.lower(): value for name, value in self.headers.items()}
            proxy.requests.append((self.path, headers))
            time.sleep(proxy.delay_s)
            if not proxy.allows(self.path, headers):
                self._send(403, {"Content-Type": "application/xml"}, _DENIED)
                return
            if proxy.refuse():
                self._send(503, {"Content-Type": "application/xml"}, _BUSY)
                return
            if proxy.faulty and proxy.faulty[0] in self.path:
                status = proxy.faulty[1]
                self._send(status, {"Content-Type": "application/xml"}, _FORBIDDEN if status == 403 else _BUSY)
                return
            connection = http.client.HTTPConnection(behind, timeout=60)
            try:
                connection.request(self.command, self.path, body, dict(self.headers.items()))
                answer = connection.getresponse()
                if answer.status == 404 and proxy.hides_missing:
                    self._send(403, {"Content-Type": "application/xml"}, _DENIED)
                    return
                self._send(answer.status, dict(answer.headers.items()), answer.read())
            finally:
                connection.close()

        do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                raise NotImplementedError("S3 clients say how long their data is")
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            # That of a HEAD request is the length of what a GET would send.
            length = headers.get("Content-Length", len(body)) if self.command == "HEAD" else len(body)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler
