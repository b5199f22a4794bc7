"""Servers of the small datastack, for all tests of a file."""

from collections.abc import Iterator

import pytest
from cave_stack import DATASTACK, TOKEN

from sandbox.cave.server import CaveServer


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The token that the server wants."""
    monkeypatch.setenv("CAVE_TOKEN", TOKEN)


@pytest.fixture(scope="module")
def started() -> Iterator[tuple[CaveServer, CaveServer]]:
    """Two servers that hold all versions; the second answers with at most 20 rows."""
    with CaveServer(DATASTACK, token=TOKEN) as full, CaveServer(DATASTACK, token=TOKEN, row_cap=20) as cut:
        yield full, cut


@pytest.fixture
def server(started: tuple[CaveServer, CaveServer]) -> Iterator[CaveServer]:
    """The server that answers in full, in good health."""
    yield started[0]
    started[0].clear_faults()


@pytest.fixture
def capped(started: tuple[CaveServer, CaveServer]) -> Iterator[CaveServer]:
    """The server whose answers are cut, in good health."""
    yield started[1]
    started[1].clear_faults()
    started[1].rate_limit(None)
