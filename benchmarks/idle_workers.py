"""Workers that take their time but no processor, for benchmarks of the process that starts them."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from unittest import mock

import psutil

from somatic.cell import Cell
from somatic.errors import MissingSegment, Stopped
from somatic.workers import crowding, isolation
from somatic.workers.measuring import CellResult, Inputs, failed_row
from somatic.workers.memory import machine_memory_bytes, resident_bytes

CELLS_PER_CHUNK = 10
CELL_S = 0.5
INPUTS = Inputs("precomputed://none", 0, 15_000, 1300, "published")
"""Of which nothing is read."""


def pretend(cells: list[Cell], _inputs: Inputs, _environment: dict[str, str], results: Connection) -> None:
    """Stand in for `somatic.workers.isolation._measure`: small cells, each of which takes its time and no processor."""
    threading.Thread(target=isolation._end_with_parent, daemon=True).start()
    results.send(None)
    for cell in cells:
        time.sleep(CELL_S)
        results.send(CellResult(failed_row(cell, 1300, "published", MissingSegment("nothing there"))))


@contextmanager
def each_thread_reads() -> Iterator[None]:
    """The earlier way: each thread that waits for a worker adds up the memory of all workers, 20 times a second."""
    watched: dict[int, psutil.Process] = {}
    lock = threading.Lock()

    def watch(pid: int) -> None:
        with lock:
            watched[pid] = psutil.Process(pid)

    def unwatch(pid: int) -> None:
        with lock:
            watched.pop(pid, None)

    def is_too_much() -> bool:
        with lock:
            processes = [psutil.Process(), *watched.values()]
        return sum(map(resident_bytes, processes)) > machine_memory_bytes()

    with (
        mock.patch.object(crowding, "watch", watch),
        mock.patch.object(crowding, "unwatch", unwatch),
        mock.patch.object(isolation.turns, "must_make_room", is_too_much),
        mock.patch.object(isolation, "_LOOK_UP_S", 0.05),
    ):
        yield


def cores_of_parent(n_workers: int, seconds: float) -> tuple[float, float]:
    """Processor seconds a second of this process while so many workers measure, and cells a second."""
    stop, lock, n_cells = threading.Event(), threading.Lock(), 0

    def measure(number: int) -> None:
        nonlocal n_cells
        cells = [Cell(number * CELLS_PER_CHUNK + n + 1, 1, (0, 0, 0), (4, 4, 40)) for n in range(CELLS_PER_CHUNK)]
        try:
            while True:
                for _ in isolation.extract_cells_apart(cells, INPUTS, stop=stop):
                    with lock:
                        n_cells += 1
        except Stopped:
            return

    with ThreadPoolExecutor(n_workers) as pool, mock.patch.object(isolation, "_measure", pretend):
        running = [pool.submit(measure, number) for number in range(n_workers)]
        # All are at work, and not all at the same cell of their chunk.
        while n_cells < 2 * n_workers:
            time.sleep(0.1)
        began, before, cells_before = time.perf_counter(), time.process_time(), n_cells
        time.sleep(seconds)
        took, used, measured = time.perf_counter() - began, time.process_time() - before, n_cells - cells_before
        stop.set()
        for one in running:
            one.result()
    return used / took, measured / took
