"""The sandbox's CAVE server answers each recorded request as the real servers did."""

import json

import pyarrow as pa
import pytest
import requests
from shared import RECORDINGS

from sandbox.cave.server import CaveServer

INDEX = RECORDINGS / "index.json"
EXCHANGES = [entry for entry in json.loads(INDEX.read_text()) if "n" in entry] if INDEX.is_file() else []
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

pytestmark = pytest.mark.skipif(not EXCHANGES, reason=f"no recordings of CAVE in {RECORDINGS}")


@pytest.fixture(scope="module")
def server(datastack):
    """A server without tokens and with the recorded row cap."""
    with CaveServer(datastack, row_cap=500) as running:
        yield running


@pytest.fixture(params=EXCHANGES, ids=lambda entry: f"{entry['n']:03}-{entry['step'].replace(' ', '-')}")
def exchange(request):
    """Yield each recorded exchange."""
    return request.param


@pytest.fixture
def answer(server, exchange):
    """Return what the sandbox answers to the recorded request."""
    return requests.request(
        exchange["method"],
        exchange["url"].format(**{"global": server.url, "local": server.url}),
        headers=exchange["request_headers"],
        data=exchange["request_body"],
        timeout=20,
    )


def test_status_and_headers(exchange, answer):
    """The status and every recorded header, Warning and column_names included, are the same to the letter."""
    assert answer.status_code == exchange["status"]
    found = {name: answer.headers.get(name) for name in exchange["response_headers"]}
    assert found == exchange["response_headers"]
    assert ("Warning" in answer.headers) == ("Warning" in exchange["response_headers"])


def test_body(exchange, answer):
    """JSON has the same keys and types, an error the same text, Arrow the same schema and compression."""
    recorded = (RECORDINGS / exchange["body_file"]).read_bytes()
    if exchange["body_file"].endswith(".json"):
        ours_json, recorded_json = _without_traceback(answer.json()), _without_traceback(json.loads(recorded))
        if exchange["status"] >= 400:
            assert ours_json == recorded_json
        assert _shape(ours_json) == _shape(recorded_json)
        return
    ours, theirs = pa.ipc.open_stream(answer.content), pa.ipc.open_stream(recorded)
    assert ours.schema == theirs.schema
    assert ours.schema.pandas_metadata["columns"] == theirs.schema.pandas_metadata["columns"]
    assert (ZSTD_MAGIC in answer.content) == (ZSTD_MAGIC in recorded)
    assert ours.read_all().num_rows == theirs.read_all().num_rows


def test_every_body_was_compared():
    """All 46 recorded exchanges are replayed."""
    assert len(EXCHANGES) == 46


def _without_traceback(body):
    return {**body, "traceback": "left out"} if isinstance(body, dict) and "traceback" in body else body


def _shape(value):
    """Return keys and types. Of a list of rows: the types that each column has where it is not null."""
    if isinstance(value, dict):
        return {name: _shape(item) for name, item in value.items()}
    if not isinstance(value, list):
        return type(value).__name__
    if not all(isinstance(item, dict) for item in value):
        return sorted({type(item).__name__ for item in value})
    columns = {name for row in value for name in row}
    return {name: {str(_shape(row[name])) for row in value if row.get(name) is not None} for name in columns}
