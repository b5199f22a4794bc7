"""Which materialization versions a CAVE server has, and which can be queried."""

from datetime import UTC, datetime

import numpy as np
import pytest
from cave_stack import HURRY, TOKEN, a_datastack, a_version, source

from sandbox.cave.server import CaveServer
from somatic.cave.tables import CaveTables, Version, versions
from somatic.errors import CaveError


def test_versions_are_sorted_utc_and_alive(server: CaveServer) -> None:
    """Listed are the versions that can be queried, ascending, all times with their zone."""
    when = datetime(2024, 1, 21, 20, 17, 9, 199182, tzinfo=UTC)
    assert versions(source(server), HURRY) == [
        Version(943, when, datetime(2121, 11, 10, 7, 10, 0, 1, tzinfo=UTC)),
        Version(1300, when, None),
    ]


@pytest.mark.parametrize("asked", ["latest", 1300, np.int64(1300)])
def test_version_becomes_a_plain_integer(server: CaveServer, asked: object) -> None:
    """The latest version that can be queried, a Python and a numpy integer give an int."""
    tables = CaveTables(source(server), asked, HURRY)  # type: ignore[arg-type]
    assert tables.version == 1300
    assert type(tables.version) is int
    assert tables.timestamp == datetime(2024, 1, 21, 20, 17, 9, 199182, tzinfo=UTC)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (1000, "version 1000 has expired"),
        (1400, "version 1400 has expired"),
        (4242, "there is no version 4242"),
    ],
)
def test_version_that_cannot_be_queried(server: CaveServer, asked: int, said: str) -> None:
    """An expired or unknown version is refused in one line that lists those there are."""
    with pytest.raises(CaveError, match=said) as caught:
        CaveTables(source(server), asked, HURRY)
    assert "943 (2024-01-21), 1300 (2024-01-21)" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("asked", ["1300", 1300.0, None])
def test_version_of_another_type(server: CaveServer, asked: object) -> None:
    """What is no whole number is refused, not guessed at."""
    with pytest.raises(CaveError, match="whole number"):
        CaveTables(source(server), asked, HURRY)  # type: ignore[arg-type]


def test_no_version_at_all() -> None:
    """A datastack whose versions have all expired, which CAVE answers with 404, says so."""
    with CaveServer(a_datastack(a_version(1000, valid=False)), token=TOKEN) as server:
        assert versions(source(server), HURRY) == []
        with pytest.raises(CaveError, match="no version that can be queried"):
            CaveTables(source(server), "latest", HURRY)
