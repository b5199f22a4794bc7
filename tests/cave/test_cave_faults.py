"""Faults in the middle of a reading cost no row."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from cave_stack import (
    BIG,
    HURRY,
    N_NUCLEI,
    TOKEN,
    a_datastack,
    a_version,
    n_queries,
    nucleus_frame,
    opened,
    source,
    with_tables,
)

from sandbox.cave.server import CaveServer
from somatic.cave.calls import RateLimiter
from somatic.cave.tables import CaveTables
from somatic.errors import CaveError, CaveTokenError, CaveUnavailable, DatasetError


def reader(tables: CaveTables, *, synapses: bool) -> Callable[[], object]:
    """Reads the synapses of tables, or their nuclei."""
    return partial(tables.synapses, [BIG], [0, 0, 0], [1e4, 1e4, 1e4]) if synapses else tables.nuclei


@pytest.mark.parametrize("fault", ["500", "502", "503", "504", "429 in 500", "429", "hang up"])
def test_passing_faults_cost_no_row(capped: CaveServer, fault: str) -> None:
    """A reading of many pages, two requests of which fail for a passing reason, still has every row once."""
    if fault == "hang up":
        capped.hang_up("/query", times=2)
    elif fault == "429 in 500":
        capped.fail("/query", 500, "429 Too Many Requests: 200 per 1 minute", times=2)
    else:
        capped.fail("/query", int(fault), "something", times=2)
    before = len(capped.requests)
    assert opened(capped).nuclei().frame["nucleus_id"].tolist() == sorted(nucleus_frame()["id"])
    broken = [request for request in capped.requests[before:] if request.status != 200]
    assert len(broken) == 2


def test_slow_answers_cost_no_row(capped: CaveServer) -> None:
    """An answer that takes longer than our patience is asked for again."""
    capped.slow("/query", 0.6, times=2)
    # On a busy machine others may be as late.
    tables = CaveTables(source(capped), 1300, replace(HURRY, query_s=0.3, tries=30), RateLimiter(100_000))
    start = time.monotonic()
    assert tables.nuclei().frame["nucleus_id"].tolist() == sorted(nucleus_frame()["id"])
    assert time.monotonic() - start > 0.6


def test_rate_limit_is_not_an_attempt(capped: CaveServer) -> None:
    """However often the rate limit is hit, it uses up no attempt: it passes with time alone."""
    capped.fail("/query", 429, times=2 * HURRY.tries)
    tables = CaveTables(source(capped), 1300, replace(HURRY, busy_pause_s=0.01), RateLimiter(100_000))
    assert len(tables.nuclei().frame) == N_NUCLEI


def test_server_that_stays_broken(server: CaveServer) -> None:
    """After the last attempt the error is a transient one, and says what the server said."""
    server.fail("/query", 500, "connection to database lost", times=None)
    before = n_queries(server)
    with pytest.raises(CaveUnavailable, match="answered 500: connection to database lost"):
        opened(server).nuclei()
    assert n_queries(server) - before == HURRY.tries


def test_rate_limit_of_the_server_is_waited_for(capped: CaveServer) -> None:
    """A server that allows 3 queries a window gets all of a reading that needs more, and refuses few."""
    tables = opened(capped)
    before = len(capped.requests)
    capped.rate_limit(3, window_seconds=0.5)
    assert len(tables.nuclei().frame) == N_NUCLEI
    statuses = [request.status for request in capped.requests[before:]]
    assert 0 < statuses.count(500) < len(statuses) / 2


@pytest.mark.parametrize("parent", [None, "tiny"])
@pytest.mark.parametrize("met_by", ["metadata of a table", "metadata of a view", "a query", "synapses", "a join"])
def test_version_that_is_dropped_while_it_is_read(parent: str | None, met_by: str) -> None:
    """Whichever request meets it first, one line says that the version is gone, and nothing is tried again."""
    stack = replace(a_datastack(a_version(943), a_version(1300)), parent=parent)
    names = {"view": "nucleus_lookup"} if met_by == "metadata of a view" else {"table": "nucleus_detection_v0"}
    with CaveServer(stack, token=TOKEN) as server:
        tables = opened(server, synapses="synapses", **{"table": "nucleus_ref"} if met_by == "a join" else names)
        read = reader(tables, synapses=met_by == "synapses")
        if "metadata" not in met_by:
            read()
        stack.versions[1] = replace(stack.versions[1], valid=False)
        before = len(server.requests)
        with pytest.raises(
            CaveError, match="tiny_public: version 1300 has expired, CAVE has dropped it mean"
        ) as caught:
            read()
        assert "\n" not in str(caught.value)
        assert [request.status for request in server.requests[before:]].count(500) == 1


def test_query_that_the_database_does_not_understand(server: CaveServer) -> None:
    """The reason behind the SQL is shown, however long that is, and it is permanent."""
    sql = "SELECT " + ", ".join(f"nuclei.column_{n}" for n in range(100)) + " FROM nuclei WHERE name = 'x'"
    reason = 'relation "nuclei" does not exist'
    server.fail("/query", 500, f"Execution failed on sql '{sql}': {reason}\nLINE 2: FROM nuclei", times=None)
    before = n_queries(server)
    with pytest.raises(CaveError, match=f"answered 500: Execution failed on sql ...: {reason} LINE 2") as caught:
        opened(server).nuclei()
    assert not isinstance(caught.value, CaveTokenError)
    assert n_queries(server) - before == 1


@pytest.mark.parametrize(
    ("permission", "why"),
    [
        ("PRIVATE", "The table can only be read by its owner"),
        ("GROUP", "You cannot read this table because you do not"),
    ],
)
@pytest.mark.parametrize("which", ["nucleus_detection_v0", "nucleus_ref", "synapses"])
def test_table_of_somebody_else(which: str, permission: str, why: str) -> None:
    """Its name, why, and what to do; permanent. A table that refers to it cannot be read either."""
    named = "nucleus_detection_v0" if which == "nucleus_ref" else which
    private = replace(a_version(1300).tables[named], read_permission=permission)
    with CaveServer(with_tables(**{named: private}), token=TOKEN) as server:
        read = reader(opened(server, table=which, synapses="synapses"), synapses=which == "synapses")
        with pytest.raises(
            CaveTokenError, match=f"table {which} of .* does not let this token read it .{why}"
        ) as caught:
            read()
        assert "ask the owner of the table for access" in str(caught.value)
        assert TOKEN not in str(caught.value)
        assert [request.status for request in server.requests].count(500) == 1


@pytest.mark.parametrize(
    "message", ["401 Unauthorized: no", "403 Forbidden: no", "403 Client Error: FORBIDDEN for url: x"]
)
def test_refusals_inside_a_500(server: CaveServer, message: str) -> None:
    """A refusal of another service that comes as a 500 is one, and no retry changes it."""
    server.fail("/query", 500, message, times=None)
    before = n_queries(server)
    with pytest.raises(CaveTokenError, match="does not let this token read it"):
        opened(server).nuclei()
    assert n_queries(server) - before == 1


@pytest.mark.parametrize("resolution", [(0, 0, 0), (4, 0, 40), (4, 4, float("nan")), (4, 4, float("inf")), (-4, 4, 40)])
def test_resolution_that_is_none(resolution: tuple[float, float, float]) -> None:
    """A table or view without a voxel size is named before it is queried: the answer would be a 500 or points at 0."""
    version = a_version(1300)
    bad = {
        name: replace(version.tables[name], resolution_nm=resolution) for name in ("nucleus_detection_v0", "synapses")
    }
    views = {"nucleus_lookup": replace(version.views["nucleus_lookup"], resolution_nm=resolution)}
    stack = a_datastack(replace(version, tables=version.tables | bad, views=views))
    with CaveServer(stack, token=TOKEN) as server:
        for names, named in (
            ({"view": "nucleus_lookup"}, "view nucleus_lookup"),
            ({"table": "nucleus_detection_v0"}, "table"),
        ):
            with pytest.raises(DatasetError, match=f"{named} .*, version 1300: CAVE has no voxel resolution for it"):
                opened(server, **names).nuclei()
        with pytest.raises(DatasetError, match="table synapses of .* has no voxel resolution"):
            opened(server, synapses="synapses").synapses([BIG], [0, 0, 0], [1, 1, 1])
        assert n_queries(server) == 0


def test_limit_on_fast_requests_is_waited_for() -> None:
    """Where a deployment counts versions and metadata too, they are waited for like queries."""
    with CaveServer(a_datastack(a_version(1300)), token=TOKEN) as server:
        server.rate_limit(None, window_seconds=0.5, fast_per_minute=1)
        for _ in range(3):
            assert len(opened(server, table="nucleus_detection_v0").nuclei().frame) == N_NUCLEI
        assert 500 in {request.status for request in server.requests}
