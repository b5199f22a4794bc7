"""Which materialization versions a CAVE server has, and which can be queried."""

from datetime import UTC, datetime

import numpy as np
import pytest
from cave_stack import HURRY, N_NUCLEI, TOKEN, a_datastack, a_version, source

from sandbox.cave.server import CaveServer
from somatic.cave.tables import CaveTables, Version, versions
from somatic.errors import CaveError, VersionNotReady

PAST = datetime(2020, 1, 1, 12, 30, 0, 1)


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
        (1600, "version 1600 cannot be queried .its status is FAILED."),
        (4242, "there is no version 4242"),
    ],
)
def test_version_that_cannot_be_queried(server: CaveServer, asked: int, said: str) -> None:
    """A version that expired, failed or never was is refused in one line that lists those there are."""
    with pytest.raises(CaveError, match=said) as caught:
        CaveTables(source(server), asked, HURRY)
    assert "943 (2024-01-21), 1300 (2024-01-21)" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("valid", "status"), [(False, "RUNNING"), ("f", "running"), (True, "RUNNING")])
def test_version_that_is_being_made(valid: bool | str, status: str) -> None:
    """It has not expired: it will be there, but no retry in some seconds helps; the latest is the one before."""
    making = a_version(1500, valid=valid, status=status)
    with CaveServer(a_datastack(making, a_version(1300)), token=TOKEN) as server:
        assert CaveTables(source(server), "latest", HURRY).version == 1300
        before = len(server.requests)
        with pytest.raises(
            VersionNotReady, match="still making version 1500 .its status is RUNNING.; .* 1300 "
        ) as caught:
            CaveTables(source(server), 1500, HURRY)
        assert "expired" not in str(caught.value)
        asked = [
            request for request in server.requests[before:] if "versions" in request.path or "metadata" in request.path
        ]
        assert len(asked) == 2


@pytest.mark.parametrize("valid", [True, "t"])
@pytest.mark.parametrize("asked", ["latest", 1400])
def test_version_past_its_expiry_date(valid: bool | str, asked: int | str) -> None:
    """As long as CAVE serves it, it is a version like others, and the latest if it is; one line warns of it."""
    versions_there = [a_version(1300), a_version(1400, expires_on=PAST, valid=valid)]
    with CaveServer(a_datastack(*versions_there), token=TOKEN) as server:
        assert [version.number for version in versions(source(server), HURRY)] == [1300, 1400]
        tables = CaveTables(source(server), asked, HURRY)  # type: ignore[arg-type]
        assert tables.version == 1400
        assert len(tables.nuclei().frame) == N_NUCLEI
        assert tables.notes == [
            "tiny_public v1400 expired on 2020-01-01 12:30 UTC; CAVE still serves it, but may drop it at any moment"
        ]
        assert CaveTables(source(server), 1300, HURRY).notes == []


@pytest.mark.parametrize("valid", [False, "f"])
def test_version_that_was_dropped(valid: bool | str) -> None:
    """What is not valid is not there, whenever it was to expire."""
    dropped = a_version(1400, valid=valid, expires_on=datetime(2121, 1, 1, 0, 0, 0, 1))
    with CaveServer(a_datastack(a_version(1300), dropped), token=TOKEN) as server:
        assert [version.number for version in versions(source(server), HURRY)] == [1300]


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
