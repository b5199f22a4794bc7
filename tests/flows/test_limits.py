"""The limit on requests to CAVE that all processes of a Prefect server share."""

import json
import logging
import math
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import httpx
import numpy as np
import pytest
from extracting import run
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_server import PrefectServer

import tasks.limits
from flows.own_server import send_what_is_left
from sandbox.cave.server import CaveServer
from somatic.cave import calls as cave_calls
from somatic.cave.calls import REQUESTS_PER_MINUTE
from tasks.limits import SLOTS, SLOTS_PER_S, SharedRateLimiter, limit_name

THREADS = 2
MANY_REQUESTS = f"""
import json, sys, threading, time
import tasks.limits
class Limiter(tasks.limits.SharedRateLimiter):
    unasked = 0
    def _ask_server(self):
        delay_s = super()._ask_server()
        self.unasked += not self._answered
        return delay_s
tasks.limits._AWAY_S = 0.0
limiter, passed = Limiter(sys.argv[1]), []
print("ready", flush=True)
until = float(sys.stdin.readline())
def ask():
    while time.monotonic() < until:
        limiter.wait()
        passed.append(time.monotonic())
threads = [threading.Thread(target=ask) for _ in range({THREADS})]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps([passed, limiter.unasked]))
"""
"""One of several processes. It asks again at once after a server that was too busy to answer."""


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    """Prefect's API."""
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def name() -> str:
    """Of a limit that is not there."""
    return f"cave-{uuid4().hex}"


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What is warned of outside runs."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logger, listener = logging.getLogger("prefect.tasks.limits"), Listener(logging.WARNING)
    logger.addHandler(listener)
    yield said
    logger.removeHandler(listener)


def put_limit(client: SyncPrefectClient, name: str, slots: int, per_s: float) -> None:
    """Make a limit."""
    client.create_global_concurrency_limit(
        GlobalConcurrencyLimitCreate(name=name, limit=slots, slot_decay_per_second=per_s)
    )


def used(client: SyncPrefectClient, name: str) -> int:
    """Slots of a limit that are taken."""
    return client.read_global_concurrency_limit_by_name(name).active_slots


def wait_often(limiter: SharedRateLimiter, number: int) -> float:
    """Let several threads ask for so many requests; give the seconds that it took."""
    started = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: limiter.wait(), range(number)))
    return time.monotonic() - started


@pytest.mark.parametrize(
    ("server", "name"),
    [
        ("https://global.daf-apis.com", "cave-global-daf-apis-com"),
        ("https://GLOBAL.daf-apis.com/", "cave-global-daf-apis-com"),
        ("http://me:a-password@127.0.0.1:8000", "cave-127-0-0-1-8000"),
    ],
)
def test_names(server: str, name: str) -> None:
    """A server has one limit, however its address is written; nothing secret is in its name."""
    assert limit_name(server) == name


def test_a_minute_is_what_cave_allows() -> None:
    """However the requests are spread, a minute sees no more than CAVE allows."""
    assert SLOTS + 60 * SLOTS_PER_S == REQUESTS_PER_MINUTE


def test_processes_share_it(client: SyncPrefectClient, name: str) -> None:
    """Three processes pass no more in any window than the limit lets, each its part, and waste little of it."""
    slots, per_s, seconds = 6, 6.0, 8.0
    put_limit(client, name, slots, per_s)
    command, pipe = [sys.executable, "-c", MANY_REQUESTS, name], subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(3)]
    for process in processes:
        # Their imports take seconds, and on a busy machine all of the time that they are to share.
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    until = time.monotonic() + seconds
    for process in processes:
        assert process.stdin
        process.stdin.write(f"{until}\n")
        process.stdin.flush()
    ended = [json.loads(process.communicate(timeout=60)[0].splitlines()[-1]) for process in processes]
    of_each = [passed for passed, _ in ended]
    passed = np.sort(np.concatenate(of_each))
    # On a busy machine the server fails now and then, and one request passes without it.
    unasked = sum(number for _, number in ended)
    assert unasked < 0.1 * len(passed)
    # A process notes the moment a little after the server let it pass, so a window may look a little shorter here.
    late_s = 0.3
    for first, start in enumerate(passed):
        in_window = np.arange(1, len(passed) - first + 1)
        let = slots + per_s * (passed[first:] - start + late_s)
        assert (in_window <= let + unasked).all(), passed[first:] - start
    assert len(passed) > 0.6 * per_s * (until - passed[0])
    assert min(len(each) for each in of_each) > 0.1 * len(passed)


def test_without_a_limit(client: SyncPrefectClient, name: str, warnings: list[str]) -> None:
    """Where the server has none it is asked once; the process keeps its own limit and its pauses."""
    limiter = SharedRateLimiter(name)
    limiter.wait()
    put_limit(client, name, 1, 0.001)
    assert wait_often(limiter, REQUESTS_PER_MINUTE - 1) < 5
    assert used(client, name) == 0
    first = limiter._passed[0]
    limiter._window_s = time.monotonic() - first + 1
    limiter.wait()
    assert limiter._passed[-1] - first >= limiter._window_s
    paused = time.monotonic()
    limiter.pause(0.4)
    limiter.wait()
    assert limiter._passed[-1] >= limiter._paused_until >= paused + 0.4
    assert warnings == []


def test_a_limit_that_was_switched_off(client: SyncPrefectClient, name: str, warnings: list[str]) -> None:
    """A limit that a person switched off lets everything pass."""
    put_limit(client, name, 1, 0.001)
    client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(active=False))
    assert wait_often(SharedRateLimiter(name), 10) < 5
    assert warnings == []


def test_a_limit_that_is_raised(client: SyncPrefectClient, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits notices soon that a person raised the limit, however long the server told it to wait."""
    monkeypatch.setattr(tasks.limits, "_LONGEST_WAIT_S", 0.3)
    put_limit(client, name, 1, 0.001)
    limiter = SharedRateLimiter(name)
    limiter.wait()
    waiting = threading.Thread(target=limiter.wait)
    waiting.start()
    waiting.join(1)
    assert waiting.is_alive()
    client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(limit=10))
    waiting.join(5)
    assert not waiting.is_alive()


def test_a_limit_that_is_none(client: SyncPrefectClient, name: str, warnings: list[str]) -> None:
    """A limit whose slots never come back is refused by the server, and told once with the server's reason."""
    put_limit(client, name, 5, 0.0)
    assert wait_often(SharedRateLimiter(name), 10) < 5
    [warning] = warnings
    assert f"limit {name}: Prefect's server says 422" in warning
    assert "slot decay" in warning


def test_a_server_that_is_away(name: str, warnings: list[str], prefect_database: Path, tmp_path: Path) -> None:
    """While the server is away the work goes on with one warning; when it is back the limit holds again."""
    server = PrefectServer(tmp_path, made_before=prefect_database)
    server.start()
    try:
        with temporary_settings({PREFECT_API_URL: server.url}), get_client(sync_client=True) as client:
            put_limit(client, name, 1000, 0.001)
            limiter = SharedRateLimiter(name)
            wait_often(limiter, 5)
            assert used(client, name) == 5
        server.stop()
        assert wait_often(limiter, 50) < 15
        [warning] = warnings
        assert f"limit {name}: Prefect's server does not answer" in warning
        # The next who asks finds it away still.
        limiter._ask_from = -math.inf
        wait_often(limiter, 5)
        assert len(warnings) == 1
        server.start()
        limiter._ask_from = -math.inf
        wait_often(limiter, 7)
        with temporary_settings({PREFECT_API_URL: server.url}), get_client(sync_client=True) as client:
            assert used(client, name) == 12
    finally:
        server.stop()
    assert len(warnings) == 1


def test_a_server_that_is_silent(name: str, warnings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes a request and says nothing is not waited for long, and its password is in no warning."""
    monkeypatch.setattr(tasks.limits, "_PATIENCE", httpx.Timeout(0.5))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        api_url = f"http://me:a-password@127.0.0.1:{silent.getsockname()[1]}/api"
        with temporary_settings({PREFECT_API_URL: api_url}):
            limiter = SharedRateLimiter(name)
        assert wait_often(limiter, 20) < 10
    [warning] = warnings
    assert "does not answer" in warning
    assert "a-password" not in warning


def test_the_run_tells(client: SyncPrefectClient, name: str) -> None:
    """In a run it is the run's page that shows the warning."""
    put_limit(client, name, 5, 0.0)

    @flow
    def asking() -> str:
        SharedRateLimiter(name).wait()
        return str(flow_run.id)

    of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[asking()]))
    send_what_is_left()
    deadline = time.monotonic() + 20
    while not (found := [log for log in client.read_logs(of_run) if name in log.message]):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert len(found) == 1


def test_an_extraction_counts_all_its_requests(
    client: SyncPrefectClient, cave: CaveServer, cave_dataset: Path, tmp_path: Path
) -> None:
    """Every request of an extraction to CAVE is one of the limit."""
    put_limit(client, limit_name(cave.url), 1000, 0.001)
    assert run(cave_dataset, tmp_path / "results", version=1, limit=4).is_completed()
    assert set(cave_calls._limiters) == {cave.url}
    assert used(client, limit_name(cave.url)) == len(cave.requests) > 3
