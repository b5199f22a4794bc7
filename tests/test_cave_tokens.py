"""`somatic.cave.tokens`: which token belongs to a server, and which hosts it never reaches."""

import json
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import requests

from sandbox.cave.server import CaveServer, Datastack
from somatic.cave import tokens
from somatic.cave.calls import Patience
from somatic.cave.client import connect
from somatic.cave.graph import Graph
from somatic.cave.tokens import (
    TokenAuth,
    allow_named_hosts,
    check_host,
    find_token,
    token_origin,
    where_the_token_goes,
)
from somatic.dataset import CaveSource, TableName, load_dataset
from somatic.errors import CaveTokenError

TOKEN = "7b0c2f6e1d5a4938a1f0e2d3c4b5a697"
GLOBAL = "https://global.daf-apis.com"
MINNIE = "https://minnie.microns-daf.com"
LAB = "https://cave.example"
HURRY = Patience(connect_s=2, answer_s=5, query_s=5, tries=3, wait_s=0.01, longest_wait_s=0.02)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without token files, a token in the environment, and nothing that an earlier connection was told."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CAVE_TOKEN", TOKEN)
    monkeypatch.setattr(tokens, "_named", {})
    return tmp_path


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of hosts that somebody wants to connect to, but those on loopback."""
    names: list[str] = []
    look_up = socket.getaddrinfo

    def getaddrinfo(host: str, *arguments: object, **options: object) -> list:
        if host not in ("127.0.0.1", "localhost"):
            names.append(host)
            raise socket.gaierror(f"no network in tests, asked for {host}")
        return look_up(host, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return names


def write_token(home: Path, name: str, text: str) -> None:
    """Write a token file."""
    path = home / ".cloudvolume/secrets" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def source(server: str) -> CaveSource:
    """Tables on a server."""
    return CaveSource(server=server, datastack="tiny", nuclei=TableName(view="nuclei"))


# Which token


def test_token_of_the_environment_comes_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CAVE_TOKEN wins over the files, and blanks around it do not matter."""
    write_token(home, "cave-secret.json", '{"token": "other"}')
    write_token(home, "global.daf-apis.com-cave-secret.json", '{"token": "another"}')
    monkeypatch.setenv("CAVE_TOKEN", f" {TOKEN}\n")
    assert (find_token(GLOBAL), token_origin(GLOBAL)) == (TOKEN, "CAVE_TOKEN")


def test_token_of_files(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the file of the server counts, then the file for all servers."""
    monkeypatch.delenv("CAVE_TOKEN")
    write_token(home, "cave-secret.json", '{"token": "for-all"}')
    assert (find_token(GLOBAL), token_origin(GLOBAL)) == ("for-all", "a token file")
    write_token(home, "global.daf-apis.com-cave-secret.json", '{"token": "for-one"}')
    assert find_token(GLOBAL) == "for-one"


def test_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any token it is said where it was looked for, where to get one and where to put it."""
    monkeypatch.setenv("CAVE_TOKEN", "  ")
    with pytest.raises(CaveTokenError) as caught:
        connect(source(LAB), HURRY)
    text = str(caught.value)
    for part in (
        "CAVE_TOKEN and CAVE_TOKEN_HOSTS=cave.example",
        "~/.cloudvolume/secrets/cave.example-cave-secret.json",
        "~/.cloudvolume/secrets/cave-secret.json",
        "https://cave.example/sticky_auth/settings/tokens",
    ):
        assert part in text
    assert "\n" not in text


@pytest.mark.parametrize("content", ["{", '["token"]', '{"token": 5}', '{"key": "x"}'])
def test_token_file_that_is_none(home: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    """A token file without a token in it gives a line about tokens, not a traceback."""
    monkeypatch.delenv("CAVE_TOKEN")
    write_token(home, "cave-secret.json", content)
    with pytest.raises(CaveTokenError, match="cave-secret.json"):
        find_token(GLOBAL)


@pytest.mark.parametrize("wrong", ["Bearer abc", "abc\ndef", "abcä"])
def test_token_that_cannot_be_one(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    """A token that no HTTP header takes is refused before requests would quote it in an error."""
    monkeypatch.setenv("CAVE_TOKEN", wrong)
    with pytest.raises(CaveTokenError, match="CAVE_TOKEN holds something that cannot be a token") as caught:
        connect(source(GLOBAL), HURRY)
    assert "abc" not in str(caught.value)


# Which server


@pytest.mark.parametrize(
    "server",
    [
        *(f"https://{host}" for host in sorted(tokens.PUBLIC_SERVERS)),
        "https://GLOBAL.daf-apis.com:443/",
        MINNIE,
        "http://127.0.0.1:5000",
        "http://localhost:5000",
        "http://[::1]:5000",
    ],
)
def test_servers_that_get_it(server: str) -> None:
    """Public servers of CAVE, those of datasets that come with somatic, and this machine."""
    assert find_token(server) == TOKEN


@pytest.mark.parametrize(
    "server",
    [
        LAB,
        "https://global.daf-apis.com.evil.example",
        "https://evil.example/global.daf-apis.com",
        "https://global.daf-apis.com@evil.example",
        "https://evil.example#@global.daf-apis.com",
        "https://evil.example\\@global.daf-apis.com",
        "https://evil.example:443\\@global.daf-apis.com/",
        "https://127.0.0.1.evil.example",
        "https://localhost.evil.example",
    ],
)
def test_servers_that_do_not(server: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any other, however its address is written: no token of the environment, and none of the file for all."""
    refusal = "the token of {} is not sent to .*, which is not a CAVE server .* to the .* CAVE_TOKEN_HOSTS"
    with pytest.raises(CaveTokenError, match=refusal.format("CAVE_TOKEN")):
        find_token(server)
    monkeypatch.delenv("CAVE_TOKEN")
    write_token(home, "cave-secret.json", json.dumps({"token": TOKEN}))
    write_token(home, "global.daf-apis.com-cave-secret.json", json.dumps({"token": TOKEN}))
    with pytest.raises(CaveTokenError, match=refusal.format("a token file")):
        find_token(server)


@pytest.mark.parametrize("server", ["http://global.daf-apis.com", "http://cave.example", "ftp://global.daf-apis.com"])
@pytest.mark.parametrize("listed", ["", "cave.example,global.daf-apis.com", "http://cave.example"])
def test_only_over_https(server: str, listed: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who listens on the way would read it: no list and no file of the server's own changes that."""
    monkeypatch.setenv("CAVE_TOKEN_HOSTS", listed)
    write_token(home, "cave.example-cave-secret.json", '{"token": "for-one"}')
    host = server.partition("://")[2]
    with pytest.raises(CaveTokenError, match=f"only sent over https, and {server} is not; use https://{host}"):
        find_token(server)


def test_a_file_of_the_server_alone(home: Path) -> None:
    """Whoever has a token for a server trusts it: with that token, not with the one of the environment."""
    write_token(home, "cave.example-cave-secret.json", '{"token": "for-one"}')
    assert (find_token(LAB), token_origin(LAB)) == ("for-one", "a token file")
    with pytest.raises(CaveTokenError):
        find_token("https://other.example")


@pytest.mark.parametrize(
    ("listed", "server", "gets_it"),
    [
        ("cave.example", LAB, True),
        ("CAVE.example", "https://cave.EXAMPLE/", True),
        (" other.example , cave.example ", LAB, True),
        ("https://cave.example/", LAB, True),
        ("cave.example", f"{LAB}:8443", True),
        ("cave.example:8443", f"{LAB}:8443", True),
        ("cave.example:8443", LAB, False),
        ("example", LAB, False),
        ("*", LAB, False),
        ("ave.example", LAB, False),
        (",", LAB, False),
    ],
)
def test_servers_that_the_user_allows(listed: str, server: str, gets_it: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """CAVE_TOKEN_HOSTS has whole names of hosts, perhaps with a port, with commas between."""
    monkeypatch.setenv("CAVE_TOKEN_HOSTS", listed)
    if gets_it:
        assert find_token(server) == TOKEN
    else:
        with pytest.raises(CaveTokenError):
            find_token(server)


# Which other hosts


def test_hosts_that_cave_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server itself, what its info named in this process, what somatic's own datasets say, what the user allows."""
    for address in (GLOBAL, MINNIE):
        check_host(f"{address}/segmentation/table/t/info", GLOBAL)
    local = "https://local.example"
    with pytest.raises(CaveTokenError, match="not sent to local.example, .* names .global.daf-apis.com, minnie.micr"):
        check_host(local, GLOBAL)
    allow_named_hosts(GLOBAL, [local])
    check_host(f"{local}/materialize/api/v3/datastack/x", f"{GLOBAL}/")
    with pytest.raises(CaveTokenError):
        check_host(local, "https://global.brain-wire-test.org")
    monkeypatch.setenv("CAVE_TOKEN_HOSTS", "other.example")
    check_host("https://other.example/x", GLOBAL)
    assert where_the_token_goes(GLOBAL) == (
        "the token of CAVE goes to global.daf-apis.com, local.example, minnie.microns-daf.com, other.example only"
    )


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/",
        "http://global.daf-apis.com/",
        "http://127.0.0.1:5000/",
        "https://evil.example\\@global.daf-apis.com/",
        "https://global.daf-apis.com@evil.example/",
        "not an address",
        "",
    ],
)
def test_hosts_that_nobody_names(url: str) -> None:
    """The token is not added to a request to any other, nor sent without TLS; this machine is no host of CAVE's."""
    auth = TokenAuth(GLOBAL)
    request = requests.PreparedRequest()
    request.headers = requests.structures.CaseInsensitiveDict()
    request.url = url
    with pytest.raises(CaveTokenError) as caught:
        auth(request)
    assert dict(request.headers) == {}
    assert TOKEN not in str(caught.value) + repr(auth)


# Connections


def test_servers_of_a_dataset_file(looked_up: list[str]) -> None:
    """A server that a file names and nobody knows is refused before anybody is asked for it."""
    for server in (LAB, "http://cave.example", "https://evil.example\\@global.daf-apis.com"):
        with pytest.raises(CaveTokenError):
            connect(source(server), HURRY)
    assert looked_up == []


@pytest.fixture
def server() -> Iterator[CaveServer]:
    """A server of CAVE on this machine."""
    with CaveServer(Datastack("tiny", "tiny", "precomputed://gs://b/s", []), token=TOKEN) as running:
        yield running


def test_graph_of_a_dataset_file(server: CaveServer, looked_up: list[str]) -> None:
    """So is a graph on a host that CAVE does not name, with tables of CAVE and with tables in files."""
    connect(source(server.url), HURRY)
    evil = "graphene://https://evil.example/segmentation/table/t"
    with pytest.raises(CaveTokenError, match="is not sent to evil.example, .* add evil.example to .* CAVE_TOKEN_HOSTS"):
        Graph(evil, server.url, HURRY)
    with pytest.raises(CaveTokenError, match="is not sent to https://evil.example"):
        Graph(evil, patience=HURRY)
    with pytest.raises(CaveTokenError, match="only sent over https"):
        Graph("graphene://http://minnie.microns-daf.com/segmentation/table/t", "https://global.daf-apis.com", HURRY)
    with pytest.raises(CaveTokenError, match="is not sent to evil.example"):
        Graph(r"graphene://https://evil.example\minnie.microns-daf.com/segmentation/table/t", GLOBAL, HURRY)
    assert looked_up == []


@pytest.mark.parametrize("local", ["http://local.example:8080", "https://local.example"])
def test_local_server_that_the_info_names(local: str, looked_up: list[str]) -> None:
    """It gets the token over https and not otherwise."""
    seen: list[str | None] = []

    class Info(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802 -- the name that http.server calls
            seen.append(self.headers.get("Authorization"))
            full = {"local_server": local, "aligned_volume": {"name": "v", "id": 1}, "segmentation_source": None}
            content = json.dumps("4.3.3" if self.path.endswith("version") else full).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Info) as web:
        Thread(target=web.serve_forever, args=[0.02], daemon=True).start()
        url = f"http://127.0.0.1:{web.server_port}"
        # The one is refused, the other looked for.
        with pytest.raises(
            Exception, match="only sent over https" if local.startswith("http:") else "cannot be reached"
        ):
            connect(source(url), HURRY)
        web.shutdown()
    assert set(seen) == {f"Bearer {TOKEN}"}
    assert set(looked_up) == (set() if local.startswith("http:") else {"local.example"})


def test_no_proxy_reads_it(server: CaveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over plain http on this machine a proxy of the environment is passed by; no cookie holds the token either."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    client = connect(source(server.url), HURRY)
    assert client.materialize.get_versions() == []
    for session in (client.materialize.session, client.info.session):
        assert TOKEN not in str(session.cookies) + str(session.headers)


def test_bundled_datasets() -> None:
    """Each can be read with a token of CAVE_TOKEN, without a list."""
    dataset = load_dataset("minnie65")
    assert dataset.cave is not None
    assert find_token(dataset.cave.server) == TOKEN
    assert dataset.segmentation is not None
    check_host(dataset.segmentation.url.removeprefix("graphene://"), dataset.cave.server)
