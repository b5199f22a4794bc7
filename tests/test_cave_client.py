"""`somatic.cave.client`: time-outs and what is told apart when a connection, or a token, is refused."""

import json
import logging
import socket
import threading
import time
import traceback
import webbrowser
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest

from sandbox.cave.server import CaveServer, CaveView, Datastack, MaterializedVersion
from somatic.cave.calls import Patience, RateLimiter
from somatic.cave.client import connect, nearest
from somatic.dataset import CaveSource, TableName
from somatic.errors import CaveError, CaveTokenError, CaveUnavailable, SomaticError

TOKEN = "7b0c2f6e1d5a4938a1f0e2d3c4b5a697"
NO_PERMISSION = "11110c2f6e1d5a4938a1f0e2d3c4b5a6"
NO_TERMS = "22220c2f6e1d5a4938a1f0e2d3c4b5a6"
HURRY = Patience(connect_s=2, answer_s=5, query_s=5, tries=3, wait_s=0.01, longest_wait_s=0.02)

VIEW = CaveView(pd.DataFrame({"id": [1, 2], "pt_root_id": [3, 4]}), (4.0, 4.0, 40.0))
DATASTACK = Datastack(
    "tiny_public",
    "tiny",
    "graphene://{server}/segmentation/table/tiny",
    [MaterializedVersion(7, datetime(2024, 1, 21, 20, 17, 9, 199182), views={"nuclei": VIEW})],
)


@pytest.fixture(scope="module")
def started() -> Iterator[CaveServer]:
    """A server."""
    with CaveServer(
        DATASTACK, token=TOKEN, unprivileged_tokens=[NO_PERMISSION], tokens_without_terms=[NO_TERMS]
    ) as running:
        yield running


@pytest.fixture
def server(started: CaveServer) -> Iterator[CaveServer]:
    """The server, in good health."""
    yield started
    started.clear_faults()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder without any token file, and the right token in the environment."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CAVE_TOKEN", TOKEN)
    return tmp_path


def source(url: str, datastack: str = "tiny_public") -> CaveSource:
    """Source on a server."""
    return CaveSource(server=url, datastack=datastack, nuclei=TableName(view="nuclei"))


def listen(handle: Callable[[BaseHTTPRequestHandler], None]) -> tuple[ThreadingHTTPServer, str]:
    """A server that handles each GET so; shut it down after use."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802 -- the name that http.server calls
            handle(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"


# The token


def test_wrong_token(server: CaveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that the server does not know: which one it was, and how to get another; asked once only."""
    monkeypatch.setenv("CAVE_TOKEN", "wrongwrongwrong")
    before = len(server.requests)
    with pytest.raises(CaveTokenError, match="does not accept the token of CAVE_TOKEN .401 invalid_token") as caught:
        connect(source(server.url), HURRY)
    assert f"{server.url}/sticky_auth/settings/tokens" in str(caught.value)
    assert "wrongwrong" not in str(caught.value)
    assert [request.status for request in server.requests[before:]].count(401) == 1


def test_no_permission(server: CaveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token without the permission: which permission it is."""
    monkeypatch.setenv("CAVE_TOKEN", NO_PERMISSION)
    with pytest.raises(
        CaveTokenError, match="403 missing_permission, Missing permission: view for dataset tiny_public"
    ):
        connect(source(server.url), HURRY)


def test_terms_of_service(server: CaveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Terms that were not accepted: the form's address is named, and no web browser opened, as caveclient would."""
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setenv("CAVE_TOKEN", NO_TERMS)
    with pytest.raises(CaveTokenError, match=f"terms of service accepted first .403.; open {server.url}/auth/tos/1"):
        connect(source(server.url), HURRY)
    assert opened == []


def test_token_does_not_follow_a_redirect() -> None:
    """A server that sends to another gets a line that names both choices; the other never sees the token."""
    seen: list[str] = []
    other, other_url = listen(lambda request: seen.append(str(request.headers)))

    def redirect(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", f"{other_url}/login?redirect=here")
        request.end_headers()

    first, url = listen(redirect)
    try:
        with pytest.raises(CaveTokenError, match=f"sends to {other_url}/login; if that is a login page"):
            connect(source(url), HURRY)
    finally:
        first.shutdown()
        other.shutdown()
    assert seen == []


# The connection


def test_connection(server: CaveServer, home: Path) -> None:
    """A connection takes three requests, none of them the probe that has no time-out, and writes nothing at home."""
    before = len(server.requests)
    client = connect(source(server.url + "/"), HURRY)
    assert [request.path for request in server.requests[before:]] == [
        "/info/version",
        "/info/api/v2/datastack/full/tiny_public",
        "/materialize/version",
    ]
    assert client.materialize.get_versions() == [7]
    assert list(home.rglob("*")) == []


def test_failing_probe_for_the_api(server: CaveServer) -> None:
    """When the server cannot say which API versions it has, views can be queried all the same."""
    server.fail("/api/versions", 500, "down", times=None)
    client = connect(source(server.url), HURRY)
    assert list(client.materialize.query_view("nuclei", materialization_version=7, metadata=False)["id"]) == [1, 2]


def test_truncation_is_noticed_for_each_answer() -> None:
    """What the header says of an answer is known until the next answer to the same thread."""
    with CaveServer(DATASTACK, token=TOKEN, row_cap=2) as server:
        client = connect(source(server.url), HURRY)
        assert not client.truncated
        client.materialize.query_view("nuclei", materialization_version=7, metadata=False)
        assert client.truncated
        told: list[bool] = []
        thread = threading.Thread(target=lambda: told.append(client.truncated))
        thread.start()
        thread.join()
        assert told == [False]
        client.materialize.query_view("nuclei", {"id": [1]}, materialization_version=7, metadata=False)
        assert not client.truncated


def test_passing_fault_while_connecting(server: CaveServer) -> None:
    """A gateway's error and a connection that breaks off are tried again."""
    server.fail("/info/version", 502, times=1)
    server.hang_up("/datastack/full", times=1)
    assert connect(source(server.url), HURRY).datastack_name == "tiny_public"


def test_unknown_datastack(server: CaveServer) -> None:
    """A datastack that is not there: which there are. A server that checks tokens says 400, another one 404."""
    with CaveServer(DATASTACK) as open_to_all:
        for running in (server, open_to_all):
            before = len(running.requests)
            with pytest.raises(CaveError, match="has no datastack tiny_pulic; there are: tiny_public"):
                connect(source(running.url, "tiny_pulic"), HURRY)
            asked = [request.path for request in running.requests[before:]]
            assert sum("tiny_pulic" in path for path in asked) == 1


def test_server_that_is_no_cave() -> None:
    """A web server that knows none of CAVE's addresses is a permanent error, one that talks HTML a transient one."""

    def no_such_page(request: BaseHTTPRequestHandler) -> None:
        request.send_error(404)

    def page(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "text/html")
        request.end_headers()
        request.wfile.write(b"<html>Welcome</html>")

    for handle, error, said in (
        (no_such_page, CaveError, "answered 404: .*is that the global server of a CAVE"),
        (page, CaveUnavailable, "cannot be read"),
    ):
        web, url = listen(handle)
        try:
            with pytest.raises(error, match=f"datastack tiny_public: .*{said}"):
                connect(source(url), HURRY)
        finally:
            web.shutdown()


def test_nobody_listens() -> None:
    """An address where nothing listens: what the network said, within the time that our patience gives."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    start = time.monotonic()
    with pytest.raises(CaveUnavailable, match=f"CAVE at {url} cannot be reached .*Connection refused"):
        connect(source(url), HURRY)
    # The default would take 7 s between its attempts alone.
    assert time.monotonic() - start < 6


def test_server_that_never_answers() -> None:
    """A server that takes the connection and says nothing is given up, within the time that our patience gives."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(CaveUnavailable, match=f"CAVE at {url} did not answer in time"):
            connect(source(url), replace(HURRY, answer_s=0.3))
        # Each answer is waited for; the default would do so for 15 s, and ask again.
        assert 0.3 * HURRY.tries < time.monotonic() - start < 15


def test_default_patience_with_a_dead_server() -> None:
    """The defaults give up a server that drops packets after about 30 s, and one that never answers as well."""
    patience = Patience()
    waits = [min(patience.wait_s * 2**n, patience.longest_wait_s) + patience.wait_s for n in range(patience.tries)]
    for attempt_s in (patience.connect_s, patience.connect_s + patience.answer_s):
        elapsed_s = 0.0
        for attempt in range(1, patience.tries + 1):
            elapsed_s += attempt_s
            if attempt >= 2 and elapsed_s >= patience.give_up_s:
                break
            elapsed_s += waits[attempt - 1]
        assert elapsed_s < 45


def test_address_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be an address is a permanent error."""
    monkeypatch.setenv("CAVE_TOKEN_HOSTS", "*.example")
    with pytest.raises(CaveError, match="is no address of a CAVE server"):
        connect(source("https://*.example"), HURRY)


def test_every_request_counts_for_the_limit(server: CaveServer) -> None:
    """The limiter that is passed in sees every request, so that a limit of one a window spreads them out."""
    start = time.monotonic()
    connect(source(server.url), HURRY, RateLimiter(1, window_s=0.2))
    assert time.monotonic() - start > 0.4


def test_nearest_names() -> None:
    """Few names are all listed; of many, those most alike."""
    assert nearest("a", []) == "there is none"
    assert nearest("a", ["c", "b"]) == "there are: b, c"
    names = [f"table_{number}" for number in range(50)] + ["nucleus_detection_v0"]
    assert nearest("nucleus_detecton", names) == "of 51 the nearest names are: nucleus_detection_v0"


# The token stays inside


def test_token_stands_nowhere(
    server: CaveServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture
) -> None:
    """Neither reprs nor errors, their tracebacks with all variables of our frames, logs or output show the token."""
    caplog.set_level(logging.DEBUG)
    shown = [repr(connect(source(server.url), HURRY)), str(vars(source(server.url)))]

    def fails(url: str, datastack: str = "tiny_public") -> None:
        try:
            connect(source(url, datastack), HURRY)
        except SomaticError as error:
            trace = traceback.TracebackException.from_exception(error, capture_locals=True)
            shown.append(str(error))
            shown.append("".join(trace.format()))
        else:
            pytest.fail("there is an error in each of these cases")

    server.fail("/info/version", 401, f"token {TOKEN} is invalid")
    fails(server.url)
    server.fail("/info/version", 400, f"header Authorization: Bearer {TOKEN}")
    fails(server.url)
    server.fail("/materialize/version", 500, f"user of {TOKEN}", times=HURRY.tries)
    fails(server.url)
    server.hang_up("/info/version", times=HURRY.tries)
    fails(server.url)
    fails(server.url, "nope")
    fails("http://127.0.0.1:9")

    assert "(the token)" in "".join(shown), "the server's words are shown, without the token"
    shown += [record.getMessage() for record in caplog.records] + list(capfd.readouterr())
    assert TOKEN not in json.dumps(shown)
