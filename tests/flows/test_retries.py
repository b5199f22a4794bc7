"""How long a task waits before it is tried again."""

import importlib
import pkgutil
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prefect import Task

import tasks
import tasks.extraction
from somatic.errors import IncompleteExtraction, Stopped
from tasks.cave import query_synapses
from tasks.extraction import ShardRun, extract_chunk
from tasks.transient import JITTER, RETRIES, RETRY_DELAY_S, exponential_delays_s, is_transient

FIRST_S = 8.0

# These run without a flow, whose page would show their log.
pytestmark = pytest.mark.filterwarnings("ignore:Logger 'prefect.task_runs' attempted to send logs")


class Waits(threading.Event):
    """Is never set, and notes how long it was waited for, without waiting."""

    def __init__(self, is_set: bool = False) -> None:
        super().__init__()
        self.seconds: list[float | None] = []
        self._is_set = is_set

    def wait(self, timeout: float | None = None) -> bool:
        """Note it; say whether it was set meanwhile."""
        self.seconds.append(timeout)
        return self._is_set


class Failing:
    """An extraction in which every cell fails for now."""

    store = None

    def extract(self, *_: object, **__: object) -> None:
        """Measure nothing."""
        raise IncompleteExtraction("not now")


def error_of_chunk(number: int, stop: threading.Event, monkeypatch: pytest.MonkeyPatch) -> BaseException:
    """Run the task for a chunk whose cells fail for now; give what it failed with."""
    monkeypatch.setattr(tasks.extraction, "put_rows", lambda *_: None)
    ledger = SimpleNamespace(missing=lambda rows: rows, add=lambda _: None, memory_bytes=0)
    shard = ShardRun(
        extraction=cast(Any, Failing()),
        resolution_nm=(1.0, 1.0, 1.0),
        ledger=cast(Any, ledger),
        progress=cast(Any, None),
        run_id="run",
        cell_timeout_s=1.0,
        retry_delay_s=FIRST_S,
        file_cache="",
        stop=stop,
    )
    state = extract_chunk("phantom v1", number, cast(Any, None), None, shard, return_state=True)
    return state.result(raise_on_failure=False)


def test_a_chunk_waits_twice_as_long_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each of three retries, more or less by half, so that chunks which failed together do not come together."""
    of_chunks = []
    for number in range(3):
        stop = Waits()
        assert isinstance(error_of_chunk(number, stop, monkeypatch), IncompleteExtraction)
        of_chunks.append(stop.seconds)
    for seconds in of_chunks:
        assert len(seconds) == RETRIES == 3
        for waited, meant in zip(seconds, (FIRST_S, 2 * FIRST_S, 4 * FIRST_S), strict=True):
            assert waited is not None
            assert (1 - JITTER) * meant <= waited <= (1 + JITTER) * meant
    for together in zip(*of_chunks, strict=True):
        assert len(set(together)) == 3


def test_a_chunk_that_waits_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not come to another trial."""
    stop = Waits(is_set=True)
    assert isinstance(error_of_chunk(0, stop, monkeypatch), Stopped)
    assert len(stop.seconds) == 1


def test_every_other_task_does_the_same() -> None:
    """Prefect doubles their waits and spreads them, only after what may pass."""
    modules = [importlib.import_module(f"tasks.{module.name}") for module in pkgutil.iter_modules(tasks.__path__)]
    found = {each.name: each for module in modules for each in vars(module).values() if isinstance(each, Task)}
    assert len(found) >= 7
    for task in found.values():
        assert (task.retries, task.retry_condition_fn) == (RETRIES, is_transient), task.name
        if task.name != extract_chunk.name:
            assert task.retry_delay_seconds == [RETRY_DELAY_S, 2 * RETRY_DELAY_S, 4 * RETRY_DELAY_S], task.name
            assert task.retry_jitter_factor == JITTER, task.name
    assert 0 < JITTER < 1


def test_another_first_wait() -> None:
    """The waits of a run that asks for others double too, and are spread as before."""
    assert exponential_delays_s(0.5) == [0.5, 1.0, 2.0]
    asked = query_synapses.with_options(retry_delay_seconds=exponential_delays_s(0.5))
    assert (asked.retry_delay_seconds, asked.retry_jitter_factor) == ([0.5, 1.0, 2.0], JITTER)
