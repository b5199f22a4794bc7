"""Faults in the middle of a reading cost no row."""

import time
from dataclasses import replace

import pytest
from cave_stack import HURRY, N_NUCLEI, n_queries, nucleus_frame, opened, source

from sandbox.cave.server import CaveServer
from somatic.cave.calls import RateLimiter
from somatic.cave.tables import CaveTables
from somatic.errors import CaveError, CaveUnavailable


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


def test_error_names_the_version_that_vanished(server: CaveServer) -> None:
    """A version that expires while it is read gives a permanent error with CAVE's reason, not tried again."""
    tables = opened(server)
    server.fail("/query", 500, "404 Not Found: version 1300 not found because there is no valid parent", times=None)
    before = n_queries(server)
    with pytest.raises(CaveError, match="no valid parent"):
        tables.nuclei()
    assert n_queries(server) - before == 1
