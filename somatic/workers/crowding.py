"""Ends the largest process that measures a cell when memory is nearly full, before all of them are ended.

A container beyond its limit may be killed as a whole. Its chunks would be tried again and die again, all for one cell.
"""

import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import psutil

from somatic.workers.memory import Budget, OwnMemory, memory_budgets, process_memory_bytes, resident_bytes

# Memory is read once a second, and sooner where what is free could be taken sooner, at about the rate of a process that
# does nothing else. Reading takes at most this share of the time.
_TAKEN_BYTES_PER_S = 2 * 2**30
_LOOK_EVERY_S = (0.05, 1.0)
_LOOKING_SHARE = 0.5
# What a killed process had is free some moments later.
_GONE_WITHIN_S = 5.0


@dataclass(frozen=True)
class Ended:
    """A process that was ended because a limit was nearly reached.

    Attributes
    ----------
    memory_bytes : int
        Memory that it had.
    others_bytes : int
        Memory under the same limit that other programs had; counted only when it was our only worker, else 0.
    limit_bytes : int
    """

    memory_bytes: int
    others_bytes: int
    limit_bytes: int


@dataclass(frozen=True)
class _Worker:
    process: psutil.Process
    parent: psutil.Process | None
    """What it is forked from, and shares memory with."""


_watched: dict[int, _Worker] = {}
_ended: dict[int, Ended] = {}
_lock = threading.Lock()
_watcher: threading.Thread | None = None


def watch(pid: int) -> None:
    """Have a process that measures cells be ended when memory is nearly full and it has the largest part of it."""
    global _watcher
    with suppress(psutil.Error), _lock:
        process = psutil.Process(pid)
        _watched[pid] = _Worker(process, process.parent())
        # One for all of them: each of a hundred threads that read the memory of all would keep cores busy.
        if _watcher is None:
            _watcher = threading.Thread(target=_watch, name="memory", daemon=True)
            _watcher.start()


def unwatch(pid: int) -> Ended | None:
    """Forget a process that has ended; how it was ended, if it was for its memory."""
    with _lock:
        _watched.pop(pid, None)
        return _ended.pop(pid, None)


def _watch() -> None:
    """Look until no process is left to be watched."""
    global _watcher
    own = OwnMemory()
    while True:
        with _lock:
            workers = list(_watched.values())
            if not workers:
                _watcher = None
                return
        begun = time.monotonic()
        budgets = memory_budgets(partial(own.bytes, _family(workers)))
        budget = min(budgets, key=lambda budget: budget.free_bytes)
        if budget.free_bytes < 0:
            _end_largest(workers, budget)
        took_s = time.monotonic() - begun
        least_s, most_s = _LOOK_EVERY_S
        filled_in_s = budget.free_bytes / _TAKEN_BYTES_PER_S
        time.sleep(max(min(max(filled_in_s, least_s), most_s), took_s / _LOOKING_SHARE))


def _family(workers: list[_Worker]) -> set[psutil.Process]:
    """All processes of ours."""
    parents = {worker.parent for worker in workers if worker.parent}
    return {psutil.Process(), *parents, *(worker.process for worker in workers)}


def _end_largest(workers: list[_Worker], budget: Budget) -> None:
    # What they share is the same for all of them, so the order is that of their own memory, and is known at once.
    largest = max((worker.process for worker in workers), key=resident_bytes)
    with suppress(psutil.Error):
        # It would take more while its memory is counted.
        largest.suspend()
        others = 0
        if len(workers) == 1:
            others = max(0, budget.used_bytes - sum(map(process_memory_bytes, _family(workers))))
        ended = Ended(process_memory_bytes(largest), others, budget.limit_bytes)
        with _lock:
            if largest.pid in _watched:
                _ended[largest.pid] = ended
        largest.kill()
        largest.wait(_GONE_WITHIN_S)
