"""Memory that is nearly full: the largest process that measures a cell is ended before all of them are.

A container over its limit is killed as a whole. Its chunks would be tried again and die again, all for one cell.
"""

import threading
from contextlib import suppress

import psutil

from somatic.workers.memory import machine_memory_bytes, process_memory_bytes, used_memory_bytes

# The rest is for what the largest takes until it is looked at again.
_FULL = 0.95

_processes: dict[int, psutil.Process] = {}
_lock = threading.Lock()


def count(pid: int) -> None:
    """Have a process that measures cells count from now on."""
    with _lock, suppress(psutil.NoSuchProcess):
        _processes[pid] = psutil.Process(pid)


def forget(pid: int) -> None:
    """Have it count no more; to be called when it is gone."""
    with _lock:
        _processes.pop(pid, None)


def is_too_much(pid: int) -> bool:
    """Whether memory is nearly full, and a process that is counted has the largest part of it."""
    with _lock:
        processes = [psutil.Process(), *_processes.values()]
    if used_memory_bytes(processes) < _FULL * machine_memory_bytes():
        return False
    return max(processes, key=process_memory_bytes).pid == pid
