"""A server of HTTP that says what it is told to say."""

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answers:
    """Answers by path, status and content, JSON unless it is text; 404 for every other path.

    Attributes
    ----------
    by_path : dict
        The answers; a path that ends in * stands for all that begin so.
    asked : list of str
        Methods and paths of the requests so far.
    """

    by_path: dict[str, tuple[int, Any]]
    asked: list[str] = field(default_factory=list)

    def __enter__(self) -> "Answers":
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def host(self) -> str:
        """Name and port."""
        return f"127.0.0.1:{self._server.server_port}"

    def answer(self, path: str) -> tuple[int, Any]:
        """What is said at a path."""
        for known, said in self.by_path.items():
            if path == known or (known.endswith("*") and path.startswith(known[:-1])):
                return said
        return 404, {"detail": "Not Found"}


def _handler(answers: Answers) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answers.asked.append(f"{self.command} {self.path}")
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, said = answers.answer(self.path.partition("?")[0])
            text = isinstance(said, str) and said.startswith("<")
            body = said.encode() if text else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if text else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    return Handler
