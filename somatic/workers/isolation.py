"""Cells measured in a process of their own, so that one that dies or hangs costs nobody else.

Results come through a pipe one by one. The cell that a process died of is therefore known; it is tried once more in
a process that measures it alone, and if that dies too, it alone has failed. Where memory may be the reason, the other
processes of this program make room first: they end after the cell that they are at, and go on afterwards.
"""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import tqdm

from somatic.cave.tokens import TOKEN_VARIABLE
from somatic.cell import Cell
from somatic.errors import (
    CellHung,
    CellKilled,
    MemoryShort,
    ProcessEnded,
    SomaticError,
    Stopped,
    UnexpectedError,
    typed_line,
)
from somatic.geometry.compiled import has_machine_code
from somatic.workers import crowding, turns
from somatic.workers.crowding import Ended
from somatic.workers.measuring import CellMeasurer, CellResult, Inputs, failed
from somatic.workers.memory import machine_memory_bytes

CELL_TIMEOUT_S = 900.0
# For opening the layers, and for the imports when the fork server starts.
_START_TIMEOUT_S = 120.0
# How soon a process ends that is to be stopped. Each thread looks so often.
_LOOK_UP_S = 0.5
_OUT_OF_MEMORY = 77


def extract_cells_apart(
    cells: list[Cell],
    inputs: Inputs,
    *,
    cell_timeout_s: float = CELL_TIMEOUT_S,
    stop: threading.Event | None = None,
) -> Iterator[CellResult]:
    """Measure cells in another process, each result as soon as it is there.

    Parameters
    ----------
    cells : list of Cell
        Measured in this order.
    inputs : Inputs
        What they are measured from.
    cell_timeout_s : float
        Longest time for one cell; after that its process is ended.
    stop : threading.Event, optional
        Set by another thread to end the process and this generator soon.

    Yields
    ------
    CellResult
        Exactly one for each cell, though not in order when one of them ended its process.

    Raises
    ------
    SomaticError
        The layers cannot be opened; `ProcessEnded` when their process died or hung over it.
    Stopped
        `stop` was set.
    """
    stop = stop or threading.Event()
    waiting = list(cells)
    suspects: list[tuple[Cell, SomaticError]] = []
    while waiting:
        done, fault = yield from _measure_in_turn(turns.with_others(stop), waiting, inputs, cell_timeout_s, stop)
        if fault:
            suspects.append((waiting[done], fault))
            done += 1
        waiting = waiting[done:]
    for cell, fault in suspects:
        # Whether a cell needs more memory than there is shows only when no other cell takes any.
        turn = turns.alone if isinstance(fault, CellKilled | MemoryShort) else turns.with_others
        done, again = 0, None
        while not done and again is None:
            done, again = yield from _measure_in_turn(turn(stop), [cell], inputs, cell_timeout_s, stop)
        if again:
            yield failed(cell, inputs, again)


def _measure_in_turn(
    turn: AbstractContextManager[None], cells: list[Cell], inputs: Inputs, cell_timeout_s: float, stop: threading.Event
) -> Generator[CellResult, None, tuple[int, SomaticError | None]]:
    """Measure cells until one ends its process or another process needs the machine.

    Returns how many were measured, and what went wrong with the one after these, if anything.
    """
    done = 0
    with turn, _Measuring(cells, inputs, cell_timeout_s, stop) as measuring:
        for result in measuring:
            done += 1
            yield result
            if turns.should_make_room():
                break
    return done, measuring.fault


def warm_up(definitions: str) -> bool:
    """Start the imports of the processes that will measure cells in the background, and the compilation of loops.

    Returns
    -------
    bool
        Whether the loops were compiled before, so that their machine code is only loaded.
    """
    _fork_server(definitions)
    # Starting the tracker, which the server needs, would undo the mask.
    resource_tracker.ensure_running()
    # Ctrl-C reaches the whole group, and would end the server's imports with a traceback. The server inherits the mask.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return has_machine_code()


class _Measuring:
    """One process that measures cells; after it, `fault` says what it died of, if it did."""

    def __init__(self, cells: list[Cell], inputs: Inputs, cell_timeout_s: float, stop: threading.Event) -> None:
        self.fault: SomaticError | None = None
        self._n_cells = len(cells)
        self._cell_timeout_s = cell_timeout_s
        self._stop = stop
        context = _fork_server(inputs.definitions)
        self._results, sender = context.Pipe(duplex=False)
        # The fork server keeps the environment that it was started with; credentials may have been set since. What
        # decodes files of strangers has no use for the token of CAVE.
        environment = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}
        arguments = (cells, inputs, environment, sender)
        self._process: BaseProcess = context.Process(target=_measure, args=arguments, daemon=True)
        try:
            self._process.start()
        except (EOFError, OSError) as error:
            self._results.close()
            sender.close()
            raise ProcessEnded(f"no process could be started to measure cells: {typed_line(error)}") from error
        # Only the child may hold the sending end, else its death is not seen.
        sender.close()
        assert self._process.pid is not None
        self._pid = self._process.pid
        crowding.watch(self._pid)

    def __enter__(self) -> "_Measuring":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        crowding.unwatch(self._pid)
        self._results.close()

    def __iter__(self) -> Iterator[CellResult]:
        """Results as they come; ends early when the process dies or hangs, with `fault` set, or has to make room."""
        self._receive(_START_TIMEOUT_S)
        if self.fault:
            # No cell was begun, so none of them is to blame.
            raise ProcessEnded(f"the layers could not be opened: {self.fault}")
        for _ in range(self._n_cells):
            if (result := self._receive(self._cell_timeout_s)) is None:
                return
            yield result

    def _receive(self, timeout_s: float) -> CellResult | None:
        deadline = time.monotonic() + timeout_s
        while not self._results.poll(_LOOK_UP_S):
            if self._stop.is_set():
                raise Stopped("the extraction was stopped")
            if time.monotonic() > deadline:
                self.fault = CellHung(f"took longer than {timeout_s:g} s and was ended")
                return None
            if turns.must_make_room():
                return None
        try:
            message = self._results.recv()
        except (EOFError, OSError):
            # The second when it died while it was sending.
            self._process.join()
            ended = crowding.unwatch(self._pid)
            self.fault = _too_much(ended) if ended else _cause_of_death(self._process.exitcode)
            return None
        if isinstance(message, Exception):
            raise message
        return message


def _too_much(ended: Ended) -> SomaticError:
    had, others, limit = (n / 2**30 for n in (ended.memory_bytes, ended.others_bytes, ended.limit_bytes))
    if others > had:
        return MemoryShort(
            f"memory ran short while it had {had:.1f} GiB, since other programs had {others:.1f} of {limit:.1f} GiB; "
            "run the same command again when they have ended"
        )
    return CellKilled(f"it needs more memory than there is (it had {had:.1f} GiB; {_memory(ended.limit_bytes)})")


def _cause_of_death(exit_code: int | None) -> SomaticError:
    if exit_code == -signal.SIGKILL:
        return CellKilled(f"its process was killed, most likely for lack of memory ({_memory(machine_memory_bytes())})")
    if exit_code == _OUT_OF_MEMORY:
        return CellKilled(f"it needs more memory than there is ({_memory(machine_memory_bytes())})")
    if exit_code in (-signal.SIGTERM, -signal.SIGINT):
        return ProcessEnded("its process was asked to end")
    if exit_code is not None and exit_code < 0:
        return CellKilled(f"its process crashed ({signal.Signals(-exit_code).name})")
    return CellKilled(f"its process ended with exit status {exit_code}")


def _memory(limit_bytes: int) -> str:
    return f"this process may use {limit_bytes / 2**30:.1f} GiB"


def _measure(cells: list[Cell], inputs: Inputs, environment: dict[str, str], results: Connection) -> None:
    os.environ.clear()
    os.environ.update(environment)
    # Ctrl-C reaches the whole group; the parent decides what becomes of this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Where the kernel ends a process for lack of memory, then this one, and not one that others depend on.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # cloud-files prints the name of a file that it cannot decompress; stdout belongs to the parent.
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
    # What is logged of a cell's files comes with its result, else it would be repeated by each process.
    logging.getLogger("somatic.volume.missing").setLevel(logging.ERROR)
    # cloud-volume's progress bars would take a semaphore that stays behind when this process is killed.
    tqdm.tqdm.set_lock(threading.RLock())
    try:
        measure = CellMeasurer(inputs)
        results.send(None)
        for result in measure.all_of(cells):
            results.send(result)
    except MemoryError:
        sys.exit(_OUT_OF_MEMORY)
    except SomaticError as error:
        results.send(error)
    except BrokenPipeError:
        # The parent is gone, and with it whoever wanted the result.
        sys.exit(0)
    except Exception as error:
        results.send(UnexpectedError(f"unexpected {typed_line(error)}"))


def _end_with_parent() -> None:
    """Leave nothing behind when the parent was killed, whatever this process waits for."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _fork_server(definitions: str) -> multiprocessing.context.ForkServerContext:
    """Processes that start with imports loaded and loops compiled, and never from a fork of a process with threads."""
    context = multiprocessing.get_context("forkserver")
    # Else the fork server would import whatever has the name of a library in the working folder.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    # A child imports the parent's main module again; loaded beforehand, that costs nothing.
    main = getattr(sys.modules["__main__"], "__spec__", None)
    ready = f"somatic.workers.ready_{definitions}"
    context.set_forkserver_preload([__name__, ready, *([main.name] if main else [])])
    return context
