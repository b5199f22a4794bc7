"""Cells that die, hang or break in their process cost nobody else, and every cell has exactly one result.

The deaths are real: the server that the cells read from finds the process that asks and ends it.
"""

import gzip
import multiprocessing.forkserver
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from file_server import Fault, FileServer
from volumes import ellipsoid, put_volume

from somatic.cell import Cell
from somatic.errors import (
    CellHung,
    CellKilled,
    MemoryShort,
    MissingSegment,
    ProcessEnded,
    SegmentationError,
    SegmentationUnavailable,
    Stopped,
    UnexpectedError,
)
from somatic.workers import crowding, isolation, turns
from somatic.workers.isolation import extract_cells_apart
from somatic.workers.measuring import CellResult, Inputs
from somatic.workers.memory import Budget

RESOLUTION = (256.0, 256.0, 200.0)
N_CELLS = 4
SIZE = 32
"""Voxels to a side of a file; each cell has its own."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four spheres in a row, root 1 to 4, each in a file of its own."""
    folder = tmp_path_factory.mktemp("cells")
    labels = np.full((N_CELLS * SIZE, SIZE, SIZE), 99, np.uint64)
    for n in range(N_CELLS):
        labels[n * SIZE : (n + 1) * SIZE][ellipsoid((SIZE,) * 3, RESOLUTION, (2000,) * 3)] = n + 1
    put_volume(folder / "seg", labels, resolution_nm=RESOLUTION, file_shape=(SIZE,) * 3)
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[FileServer]:
    """The spheres over HTTP."""
    with FileServer(folder) as server:
        yield server


def cells() -> list[Cell]:
    """The four cells, nucleus 11 to 14."""
    half = SIZE // 2
    return [Cell(n + 11, n + 1, (n * SIZE + half, half, half), RESOLUTION) for n in range(N_CELLS)]


def inputs(url: str) -> Inputs:
    """What they are measured from."""
    return Inputs(url, mip=0, radius_nm=3000, materialization_version=7, definitions="published")


def file_of(nucleus_id: int) -> str:
    """The file that only this cell reads."""
    first = (nucleus_id - 11) * SIZE
    return f"/{first}-{first + SIZE}_0-{SIZE}_0-{SIZE}"


def by_nucleus(results: Iterator[CellResult]) -> dict[int, CellResult]:
    """Results by nucleus; each cell must have exactly one, and its own."""
    found = list(results)
    assert sorted(result.row["nucleus_id"] for result in found) == [11, 12, 13, 14]
    for result in found:
        assert result.row["soma_id"] == result.row["nucleus_id"] - 10
        assert result.row["materialization_version"] == 7
    return {result.row["nucleus_id"]: result for result in found}


def assert_measured(result: CellResult) -> None:
    """The sphere of 2 um was measured as if it were alone."""
    assert (result.row["status"], result.error) == ("ok", None)
    assert result.row["soma_volume_um"] == pytest.approx(4 / 3 * np.pi * 8, rel=0.2)
    assert result.seconds


def measuring_processes() -> list[psutil.Process]:
    """Processes below this one that measure cells: children of the fork server."""
    fork_server = multiprocessing.forkserver._forkserver._forkserver_pid
    return psutil.Process(fork_server).children() if fork_server else []


def asking(port: int) -> psutil.Process:
    """The process below this one that speaks from a port."""
    for process in psutil.Process().children(recursive=True):
        if any(connection.laddr.port == port for connection in process.net_connections("tcp")):
            return process
    raise AssertionError(f"nobody speaks from port {port}")


def send(signal_number: int) -> Callable[[int], None]:
    """A fault that sends a signal to who asks, and waits until it is gone."""

    def call(port: int) -> None:
        process = asking(port)
        process.send_signal(signal_number)
        process.wait(10)

    return call


def leave_little_memory(port: int) -> None:
    """A fault that forbids who asks to take more than 256 MiB."""
    process = asking(port)
    limit = process.memory_info().vms + 256 * 2**20
    process.rlimit(psutil.RLIMIT_AS, (limit, limit))


def test_cells_that_are_fine(server: FileServer) -> None:
    """One result each, in order, from one process that is gone afterwards."""
    results = list(extract_cells_apart(cells(), inputs(server.url("seg"))))
    assert [result.row["nucleus_id"] for result in results] == [11, 12, 13, 14]
    for result in results:
        assert_measured(result)
    assert measuring_processes() == []


def test_results_come_one_by_one(server: FileServer) -> None:
    """The first is there while the second waits for its file; leaving the loop ends the process."""
    server.faults[file_of(12)] = Fault(wait=threading.Event())
    results = extract_cells_apart(cells(), inputs(server.url("seg")))
    assert_measured(next(results))
    [process] = measuring_processes()
    if sys.platform.startswith("linux"):
        # It is the first that the kernel ends for lack of memory.
        assert Path(f"/proc/{process.pid}/oom_score_adj").read_text() == "1000\n"
    results.close()
    assert measuring_processes() == []


@pytest.mark.parametrize("victim", [11, 13, 14])
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_cell_that_kills_its_process(server: FileServer, victim: int, signal_number: int) -> None:
    """First, in the middle or last: it alone has failed, for good, and it was tried twice."""
    server.faults[file_of(victim)] = Fault(call=send(signal_number))
    results = by_nucleus(extract_cells_apart(cells(), inputs(server.url("seg"))))
    dead = results.pop(victim)
    assert dead.row["status"] == "failed"
    assert type(dead.error) is CellKilled
    assert dead.row["reason"] == str(dead.error)
    assert ("memory" if signal_number == signal.SIGKILL else "SIGSEGV") in dead.row["reason"]
    assert dead.row["soma_volume_um"] is None
    for result in results.values():
        assert_measured(result)
    assert sum(path.endswith(file_of(victim)) for path in server.asked) == 2


def test_a_process_that_dies_once(server: FileServer) -> None:
    """Somebody else's lack of memory: tried again alone, the cell is measured like the others."""
    server.faults[file_of(12)] = Fault(call=send(signal.SIGKILL), times=1)
    for result in by_nucleus(extract_cells_apart(cells(), inputs(server.url("seg")))).values():
        assert_measured(result)


def test_every_cell_kills_its_process(server: FileServer) -> None:
    """All have failed, none is lost, and it ends."""
    server.faults[f"_0-{SIZE}_0-{SIZE}"] = Fault(call=send(signal.SIGKILL))
    results = by_nucleus(extract_cells_apart(cells(), inputs(server.url("seg"))))
    assert {type(result.error) for result in results.values()} == {CellKilled}


def test_a_process_that_is_asked_to_end(server: FileServer) -> None:
    """SIGTERM says nothing about the cell: it may be tried again."""
    server.faults[file_of(12)] = Fault(call=send(signal.SIGTERM))
    results = by_nucleus(extract_cells_apart(cells(), inputs(server.url("seg"))))
    assert type(results.pop(12).error) is ProcessEnded
    for result in results.values():
        assert_measured(result)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sets the memory limit of another process (Linux)")
def test_a_cell_without_memory(server: FileServer) -> None:
    """Refused memory is a lack of memory like being killed for it, whoever notices first."""
    # The last word of a gzip file says how much there will be: 1.5 GiB.
    large = gzip.compress(b"labels")[:-4] + struct.pack("<I", 3 * 2**29)
    server.faults[file_of(12)] = Fault(call=leave_little_memory, body=large, encoding="gzip")
    results = by_nucleus(extract_cells_apart(cells(), inputs(server.url("seg"))))
    starved = results.pop(12)
    assert type(starved.error) is CellKilled
    assert "more memory than there is" in starved.row["reason"]
    for result in results.values():
        assert_measured(result)


def test_a_cell_that_would_fill_the_memory(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before memory is full, and a container killed with all that is in it, the one that fills it is ended, alone."""
    there_is = psutil.Process().memory_info().rss + 2**30
    monkeypatch.setenv("SOMATIC_MEMORY_BYTES", str(there_is))
    # A view, since a failure would print the bytes themselves.
    server.faults[file_of(12)] = Fault(body=memoryview(bytes(2 * 2**30)), encoding="identity")
    results = by_nucleus(extract_cells_apart(cells(), inputs(server.url("seg"))))
    greedy = results.pop(12)
    assert type(greedy.error) is CellKilled
    said = rf"it needs more memory than there is \(it had \d\.\d GiB; this process may use {there_is / 2**30:.1f} GiB\)"
    assert re.fullmatch(said, greedy.row["reason"])
    for result in results.values():
        assert_measured(result)
    assert measuring_processes() == []


def in_a_thread(pool: ThreadPoolExecutor, server: FileServer, some: list[Cell]) -> "Future[list[CellResult]]":
    """Measure cells as another chunk of the shard."""
    return pool.submit(lambda: list(extract_cells_apart(some, inputs(server.url("seg")))))


def until(true: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def n_asked(server: FileServer, nucleus_id: int) -> int:
    """How often the file of a cell was asked for."""
    return sum(path.endswith(file_of(nucleus_id)) for path in server.asked)


def test_a_suspect_has_the_machine_to_itself(server: FileServer) -> None:
    """Before it is tried again the others end after their cell; they go on afterwards, and no cell is lost."""
    beside: list[int] = []

    def kill_then_look(port: int) -> None:
        if n_asked(server, 11) == 1:
            send(signal.SIGKILL)(port)
        else:
            beside.append(len(measuring_processes()))

    # Of the other chunk, the second of three cells is being measured when the suspect wants the machine.
    server.faults[file_of(13)] = Fault(call=lambda _: until(turns.should_make_room), times=1)
    server.faults[file_of(11)] = Fault(call=kill_then_look)
    with ThreadPoolExecutor(2) as pool:
        others = in_a_thread(pool, server, cells()[1:])
        until(lambda: n_asked(server, 13) == 1)
        suspect = in_a_thread(pool, server, cells()[:1])
        results = by_nucleus(iter([*suspect.result(), *others.result()]))
    for result in results.values():
        assert_measured(result)
    assert beside == [1]
    assert [n_asked(server, nucleus_id) for nucleus_id in (11, 12, 13, 14)] == [2, 1, 1, 1]


def test_a_suspect_does_not_wait_for_a_cell_that_hangs(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell that takes long meanwhile is ended, and measured again afterwards."""
    monkeypatch.setattr(turns, "_PATIENCE_S", 0.1)
    server.faults[file_of(13)] = Fault(wait=threading.Event(), times=1)
    server.faults[file_of(11)] = Fault(call=send(signal.SIGKILL), times=1)
    with ThreadPoolExecutor(2) as pool:
        others = in_a_thread(pool, server, cells()[1:])
        until(lambda: n_asked(server, 13) == 1)
        suspect = in_a_thread(pool, server, cells()[:1])
        results = by_nucleus(iter([*suspect.result(), *others.result()]))
    for result in results.values():
        assert_measured(result)
    assert [n_asked(server, nucleus_id) for nucleus_id in (11, 12, 13, 14)] == [2, 1, 2, 1]


def test_memory_that_other_programs_have(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell that was ended for it has failed for now, since it may be measured when they have ended."""

    def look(_: Callable[[int], int]) -> Iterator[Budget]:
        yield Budget(2**40, 2**40 if n_asked(server, 12) else 2**30, 1)

    def until_it_is_gone(port: int) -> None:
        asking(port).wait(60)

    monkeypatch.setattr(crowding, "memory_budgets", look)
    server.faults[file_of(12)] = Fault(call=until_it_is_gone)
    (result,) = extract_cells_apart(cells()[1:2], inputs(server.url("seg")))
    assert type(result.error) is MemoryShort
    assert result.row["status"] == "failed"
    assert "other programs had 102" in result.row["reason"]


def test_a_cell_that_hangs(server: FileServer) -> None:
    """After its time it is ended, tried once more alone, and has failed for now; the others are measured."""
    server.faults[file_of(13)] = Fault(wait=threading.Event())
    start = time.monotonic()
    results = by_nucleus(extract_cells_apart(cells(), inputs(server.url("seg")), cell_timeout_s=2))
    hung = results.pop(13)
    assert 4 < time.monotonic() - start < 30
    assert type(hung.error) is CellHung
    assert "2 s" in hung.row["reason"]
    for result in results.values():
        assert_measured(result)
    assert measuring_processes() == []


def test_cells_that_fail_by_themselves(server: FileServer, folder: Path) -> None:
    """A root without voxels fails for good, a file that is broken for now; neither ends the process."""
    server.faults[file_of(12)] = Fault(body=b"broken")
    some = cells()
    some[0] = Cell(11, 12345, some[0].centre_vx, RESOLUTION)
    results = list(extract_cells_apart(some, inputs(server.url("seg"))))
    assert [type(result.error) for result in results] == [
        MissingSegment,
        SegmentationUnavailable,
        type(None),
        type(None),
    ]
    assert [result.row["status"] for result in results] == ["failed", "failed", "ok", "ok"]
    assert str(folder) not in str([result.row for result in results])


def test_layers_that_cannot_be_opened(folder: Path) -> None:
    """That is no cell's fault, and raised."""
    with pytest.raises(SegmentationError, match="no Precomputed layer"):
        list(extract_cells_apart(cells(), inputs(f"precomputed://file://{folder}/nothing")))
    assert measuring_processes() == []


def test_a_fault_of_somatic_before_the_first_cell(server: FileServer) -> None:
    """It is told as such, and not as a process that ended, which would be tried again."""
    wrong = replace(inputs(server.url("seg")), nuclei_url=5)  # type: ignore[arg-type]
    with pytest.raises(UnexpectedError, match="unexpected [A-Za-z]+Error: "):
        list(extract_cells_apart(cells(), wrong))
    assert measuring_processes() == []


@pytest.mark.parametrize("fault", ["killed", "hung"])
def test_a_process_that_ends_before_the_first_cell(
    server: FileServer, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No cell is blamed when the process dies or hangs over opening the layers: that may pass."""
    if fault == "killed":
        server.faults["/info"] = Fault(call=send(signal.SIGKILL))
    else:
        monkeypatch.setattr(isolation, "_START_TIMEOUT_S", 1.0)
        server.faults["/info"] = Fault(wait=threading.Event())
    with pytest.raises(ProcessEnded, match="could not be opened"):
        list(extract_cells_apart(cells(), inputs(server.url("seg"))))
    assert measuring_processes() == []


def test_stop(server: FileServer) -> None:
    """Another thread can end it while a cell waits, and soon."""
    server.faults[file_of(12)] = Fault(wait=threading.Event())
    stop = threading.Event()
    results = extract_cells_apart(cells(), inputs(server.url("seg")), stop=stop)
    assert_measured(next(results))
    stop.set()
    start = time.monotonic()
    with pytest.raises(Stopped):
        next(results)
    assert time.monotonic() - start < 5
    assert measuring_processes() == []


def test_the_environment_of_today(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was set since the first extraction, credentials or as here a proxy, holds for the next one."""
    list(extract_cells_apart(cells()[:1], inputs(server.url("seg"))))
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url().removeprefix("precomputed://"))
    list(extract_cells_apart(cells()[:1], inputs("precomputed://http://nowhere.invalid/seg")))
    assert "http://nowhere.invalid/seg/info" in server.asked


def test_no_cells(server: FileServer) -> None:
    """Nothing to do is nothing done."""
    assert list(extract_cells_apart([], inputs(server.url("seg")))) == []
    assert server.asked == []


PROGRAM = """
import sys
from somatic.cell import Cell
from somatic.workers.isolation import extract_cells_apart
from somatic.workers.measuring import Inputs

if __name__ == "__main__":
    inputs = Inputs(sys.argv[1], 0, 3000, 7, "published")
    cells = [Cell(n + 11, n + 1, (n * 32 + 16, 16, 16), (256.0, 256.0, 200.0)) for n in range(4)]
    for result in extract_cells_apart(cells, inputs):
        print(result.row["nucleus_id"], flush=True)
"""


def test_a_parent_that_is_ended(server: FileServer, tmp_path: Path) -> None:
    """Ctrl-C ends a program and its process at once; killed, it takes its process with it; nothing is left behind."""
    server.faults[file_of(12)] = Fault(wait=threading.Event())
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), server.url("seg")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    parents = {
        number: subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, start_new_session=True, text=True
        )
        for number in (signal.SIGINT, signal.SIGKILL)
    }
    for number, parent in parents.items():
        assert parent.stdout is not None
        assert parent.stdout.readline() == "11\n"
        family = [psutil.Process(parent.pid), *psutil.Process(parent.pid).children(recursive=True)]
        assert len(family) >= 3
        if number == signal.SIGINT:
            # As a terminal does: to the whole group.
            os.killpg(parent.pid, number)
        else:
            parent.send_signal(number)
        _, alive = psutil.wait_procs(family, timeout=10)
        assert alive == []
        parent.communicate()


def test_a_fork_server_that_does_not_start(folder: Path, tmp_path: Path) -> None:
    """Where no process can be started to measure cells, that is one transient error, and no cell is blamed."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif 'forkserver' in ' '.join(sys.orig_argv):\n    raise SystemExit(1)\n"
    )
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])}
    command = [sys.executable, str(program), f"precomputed://file://{folder}/seg"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ran.stdout == ""
    said = "somatic.errors.ProcessEnded: no process could be started to measure cells: "
    assert ran.stderr.splitlines()[-1].startswith(said), ran.stderr
