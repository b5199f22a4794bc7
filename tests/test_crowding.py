"""One thread watches the memory of all processes, and ends the largest one when it is short."""

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from somatic.workers import crowding
from somatic.workers.isolation import _too_much, warm_up
from somatic.workers.memory import Budget

MIB = 2**20
PLENTY = Budget(2**40, 2**30, 0)


def hold(channel: Connection, own_bytes: int) -> None:
    """In a process of its own: have some memory until told to end."""
    held = np.ones(own_bytes, np.uint8)
    channel.send(held.size)
    channel.recv()


@pytest.fixture
def start() -> Iterator[Callable[[int], int]]:
    """Starts a process that has some MiB of its own, and is watched; gives its pid."""
    warm_up("published")
    context, started = multiprocessing.get_context("forkserver"), []

    def start(own_mib: int) -> int:
        here, there = context.Pipe()
        process = context.Process(target=hold, args=(there, own_mib * MIB))
        process.start()
        started.append((here, process))
        assert here.recv() == own_mib * MIB
        assert process.pid
        crowding.watch(process.pid)
        return process.pid

    yield start
    for _, process in started:
        process.kill()
        process.join()
        assert process.pid
        crowding.unwatch(process.pid)


def until(true: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def watchers() -> list[threading.Thread]:
    """Threads that watch."""
    return [thread for thread in threading.enumerate() if thread.name == "memory"]


def test_one_watcher_for_all(start: Callable[[int], int], monkeypatch: pytest.MonkeyPatch) -> None:
    """However many processes there are it reads memory once a second, and ends with the last of them."""
    looked: list[float] = []

    def look(_: Callable[[int], int]) -> Iterator[Budget]:
        looked.append(time.monotonic())
        yield PLENTY

    monkeypatch.setattr(crowding, "memory_budgets", look)
    pids = [start(0) for _ in range(6)]
    assert len(watchers()) == 1
    until(lambda: len(looked) >= 3)
    assert all(later - earlier >= 1 for earlier, later in zip(looked, looked[1:], strict=False))
    for pid in pids:
        assert crowding.unwatch(pid) is None
    until(lambda: not watchers())
    # And another one begins with the next.
    start(0)
    assert len(watchers()) == 1


def test_the_less_is_free_the_sooner_it_looks(start: Callable[[int], int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Before memory can be filled by a process that does nothing else."""
    pauses: list[float] = []
    free = iter([10 * 2**30, 2**30, 2**20, 0])

    def look(_: Callable[[int], int]) -> Iterator[Budget]:
        left = next(free, 2**40)
        yield Budget(2**40, 2**40 - left, 0)

    monkeypatch.setattr(crowding, "memory_budgets", look)
    monkeypatch.setattr(crowding, "time", SimpleNamespace(sleep=pauses.append, monotonic=time.monotonic))
    monkeypatch.setattr(crowding, "_LOOKING_SHARE", float("inf"))
    pid = start(0)
    until(lambda: len(pauses) >= 4)
    crowding.unwatch(pid)
    monkeypatch.undo()
    until(lambda: not watchers())
    assert pauses[:4] == [1.0, 0.5, 0.05, 0.05]


def test_the_largest_is_ended(start: Callable[[int], int], monkeypatch: pytest.MonkeyPatch) -> None:
    """It alone, however much all of them share; the others stay."""
    short = threading.Event()

    def look(_: Callable[[int], int]) -> Iterator[Budget]:
        yield PLENTY
        yield Budget(4 * 2**30, 3 * 2**30, 2**30 + 1 if short.is_set() and psutil.pid_exists(large) else 0)

    small, large, middle = start(10), start(200), start(100)
    monkeypatch.setattr(crowding, "memory_budgets", look)
    short.set()
    until(lambda: not psutil.pid_exists(large))
    ended = crowding.unwatch(large)
    assert ended
    assert 200 * MIB < ended.memory_bytes < 400 * MIB
    assert ended.limit_bytes == 4 * 2**30
    assert crowding.unwatch(small) is None
    assert crowding.unwatch(middle) is None
    assert psutil.pid_exists(small)
    assert psutil.pid_exists(middle)
    assert type(_too_much(ended)).__name__ == "CellKilled"


@pytest.mark.parametrize(
    ("used_gib", "error", "said"),
    [
        (16, "MemoryShort", r"other programs had 1[3-5]\.\d of 16.0 GiB"),
        (0.3, "CellKilled", "it needs more memory than there is .it had 0.\\d GiB; this process may use 0.3 GiB"),
    ],
)
def test_who_has_the_memory(
    used_gib: float, error: str, said: str, start: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a single process it is known whether it had the memory, or programs that are not ours had more."""

    def look(_: Callable[[int], int]) -> Iterator[Budget]:
        used = int(used_gib * 2**30)
        yield Budget(used, used, 1)

    pid = start(200)
    monkeypatch.setattr(crowding, "memory_budgets", look)
    until(lambda: not psutil.pid_exists(pid))
    ended = crowding.unwatch(pid)
    assert ended
    fault = _too_much(ended)
    assert type(fault).__name__ == error
    with pytest.raises(type(fault), match=said):
        raise fault
