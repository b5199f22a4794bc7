"""Turns of the processes that measure cells: many at once, or one with the machine to itself."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from somatic.errors import Stopped

# A cell takes seconds. One that takes longer than this is measured again later, so that all do not wait for it.
_PATIENCE_S = 60.0
_STOPPED_WITHIN_S = 0.5

_changed = threading.Condition()
_n_at_work = 0
_waiting_since: list[float] = []
"""When each of those began to wait who want the machine for themselves, the one that has it included."""
_alone = False


@contextmanager
def with_others(stop: threading.Event) -> Iterator[None]:
    """Take a turn beside others; wait while somebody has, or wants, the machine alone.

    Raises
    ------
    Stopped
        `stop` was set meanwhile.
    """
    global _n_at_work
    with _changed:
        _wait_for(lambda: not _waiting_since, stop)
        _n_at_work += 1
    try:
        yield
    finally:
        with _changed:
            _n_at_work -= 1
            _changed.notify_all()


@contextmanager
def alone(stop: threading.Event) -> Iterator[None]:
    """Take a turn when the others have made room, who take theirs again afterwards; raises as `with_others`."""
    global _alone
    since = time.monotonic()
    with _changed:
        _waiting_since.append(since)
        try:
            _wait_for(lambda: not _alone and _n_at_work == 0, stop)
        except Stopped:
            _waiting_since.remove(since)
            raise
        _alone = True
    try:
        yield
    finally:
        with _changed:
            _alone = False
            _waiting_since.remove(since)
            _changed.notify_all()


def should_make_room() -> bool:
    """Whether a turn beside others should end after the cell that is being measured."""
    return bool(_waiting_since)


def must_make_room() -> bool:
    """Whether it should end at once, since somebody has waited for long."""
    with _changed:
        return bool(_waiting_since) and not _alone and time.monotonic() - min(_waiting_since) > _PATIENCE_S


def _wait_for(true: Callable[[], bool], stop: threading.Event) -> None:
    while not _changed.wait_for(true, _STOPPED_WITHIN_S):
        if stop.is_set():
            raise Stopped("the extraction was stopped")
