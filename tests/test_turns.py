"""Turns of processes: many beside each other, or one alone, and nobody waits for ever."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from somatic.errors import Stopped
from somatic.workers import turns


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def stop() -> threading.Event:
    """Ends who waits."""
    return threading.Event()


def until(true: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def alone(pool: ThreadPoolExecutor, stop: threading.Event, begun: threading.Event, end: threading.Event) -> Future:
    """Take a turn alone in another thread, until `end` is set."""

    def take() -> None:
        with turns.alone(stop):
            begun.set()
            assert end.wait(60)

    return pool.submit(take)


def test_many_beside_each_other_and_one_alone(pool: ThreadPoolExecutor, stop: threading.Event) -> None:
    """Whatever the order, nobody is at work beside who is alone, and everybody gets a turn."""
    lock, at_work, worst = threading.Lock(), [0, 0], [0]

    def take(number: int) -> int:
        is_alone = number % 5 == 0
        with (turns.alone if is_alone else turns.with_others)(stop):
            with lock:
                at_work[is_alone] += 1
                if at_work[1] > 1 or (at_work[1] and at_work[0]):
                    worst[0] += 1
            time.sleep(0.001)
            with lock:
                at_work[is_alone] -= 1
        return number

    assert list(pool.map(take, range(200))) == list(range(200))
    assert worst == [0]
    assert not turns.should_make_room()


def test_who_comes_later_waits(pool: ThreadPoolExecutor, stop: threading.Event) -> None:
    """Who wants the machine alone is waited for, so that new turns of others never keep it from beginning."""
    begun, end, after = threading.Event(), threading.Event(), threading.Event()
    with turns.with_others(stop):
        assert not turns.should_make_room()
        one = alone(pool, stop, begun, end)
        until(turns.should_make_room)

        def come_later() -> None:
            with turns.with_others(stop):
                after.set()

        later = pool.submit(come_later)
        assert not begun.is_set()
    assert begun.wait(60)
    assert not after.is_set()
    end.set()
    one.result(60)
    later.result(60)
    assert after.is_set()


def test_patience_ends(pool: ThreadPoolExecutor, stop: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while those at work must make room at once, but not while somebody has the machine."""
    begun, end = threading.Event(), threading.Event()
    with turns.with_others(stop):
        one = alone(pool, stop, begun, end)
        until(turns.should_make_room)
        assert not turns.must_make_room()
        monkeypatch.setattr(turns, "_PATIENCE_S", 0.0)
        assert turns.must_make_room()
    assert begun.wait(60)
    assert not turns.must_make_room()
    end.set()
    one.result(60)
    assert not turns.must_make_room()


@pytest.mark.parametrize("turn", [turns.alone, turns.with_others], ids=["alone", "with others"])
def test_stopped_while_it_waits(pool: ThreadPoolExecutor, turn: Callable, stop: threading.Event) -> None:
    """It ends, and nobody waits for it afterwards."""
    begun, end, mine = threading.Event(), threading.Event(), threading.Event()
    one = alone(pool, stop, begun, end)
    assert begun.wait(60)

    def take() -> None:
        with turn(mine):
            pass

    waiting = pool.submit(take)
    mine.set()
    with pytest.raises(Stopped):
        waiting.result(60)
    end.set()
    one.result(60)
    assert not turns.should_make_room()
    with turns.with_others(stop):
        pass


def test_an_error_ends_a_turn(stop: threading.Event) -> None:
    """Alone or not, who fails lets go."""
    for turn in (turns.alone, turns.with_others, turns.alone):
        with pytest.raises(KeyError), turn(stop):
            raise KeyError
    assert not turns.should_make_room()
