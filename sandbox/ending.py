"""Processes that end with the one that started them, however that ends.

A server that a test or a benchmark started would else stay, and keep a part of a core busy, when its run is killed.
"""

import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import cache
from typing import Any

import psutil

_lock = threading.Lock()


def start(command: Sequence[Any], **options: Any) -> "subprocess.Popen[Any]":
    """Start a command that is killed, with all that it started, when this process is gone, even by SIGKILL.

    Parameters
    ----------
    command : sequence
        As `subprocess.Popen` takes it.
    **options
        Of `subprocess.Popen`. The command has a session of its own, so that what is sent to the group of this process
        ends it neither before what it started, nor at all on Ctrl-C.
    """
    process = subprocess.Popen(command, start_new_session=True, **options)
    end_with_this_process(process.pid)
    return process


def end_with_this_process(pid: int) -> None:
    """Have a process killed, with all that it started, when this process is gone; it may end before."""
    watcher = _watcher()
    assert watcher.stdin is not None
    with _lock:
        watcher.stdin.write(f"{pid}\n")
        watcher.stdin.flush()


@cache
def _watcher() -> "subprocess.Popen[str]":
    """A process at the other end of a pipe, which the kernel closes when this process is gone."""
    return subprocess.Popen(
        [sys.executable, "-P", __file__],
        stdin=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _main() -> None:
    watched = []
    for line in sys.stdin:
        try:
            watched.append(psutil.Process(int(line)))
        except psutil.NoSuchProcess:
            continue
    for process in watched:
        try:
            family = [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
        for one in family:
            try:
                one.kill()
            except psutil.NoSuchProcess:
                continue


if __name__ == "__main__":
    _main()
