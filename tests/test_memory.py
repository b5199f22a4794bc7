"""What a worker is said to need, against the peak of a real process that measures a cell."""

import multiprocessing
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil
import pytest
from cloudvolume import CloudVolume
from volumes import put_volume

from somatic.cell import Cell
from somatic.errors import PermanentError
from somatic.workers import memory
from somatic.workers.cgroups import CgroupMemory
from somatic.workers.isolation import warm_up
from somatic.workers.measuring import CellMeasurer, Inputs
from somatic.workers.memory import (
    Budget,
    OwnMemory,
    cell_memory_bytes,
    machine_memory_bytes,
    memory_budgets,
    process_memory_bytes,
    resident_bytes,
    usable_cores,
    worker_memory_bytes,
)

RESOLUTION = (64.0, 64.0, 40.0)


def peak_bytes() -> int:
    """Most memory that this process has held."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def measure_alone(inputs: Inputs, cell: Cell, answer: Connection) -> None:
    """In a process of its own: what it held before and after it measured a cell."""
    # Loaded by the fork server of the product; here an earlier test may have started another one.
    import somatic.workers.ready_corrected  # noqa: F401

    measurer = CellMeasurer(inputs)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    before = peak_bytes()
    result = measurer(cell)
    answer.send((before, peak_bytes(), result.row["status"], result.row["soma_volume_um"]))


def measured(
    url: str, radius_nm: float, centre_vx: tuple[int, int, int], definitions: str = "published"
) -> tuple[int, int]:
    """Bytes that opening the layers took, and that measuring root 1 added to them."""
    warm_up("corrected")
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    inputs = Inputs(url, 0, radius_nm, 0, definitions)
    process = context.Process(target=measure_alone, args=(inputs, Cell(1, 1, centre_vx, RESOLUTION), sender))
    process.start()
    sender.close()
    before, after, status, volume = receiver.recv()
    process.join()
    assert status == "ok"
    assert volume > 0
    return before, after - before


@pytest.fixture(scope="module", autouse=True)
def _only_linux() -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("reads the peak of a process where Linux keeps it")


@pytest.fixture(scope="module", autouse=True)
def _loops_compiled() -> None:
    """What compiling leaves behind in a process is memory that measuring then takes without adding to it."""
    subprocess.run([sys.executable, "-c", "import somatic.workers.ready_corrected"], check=True)


@pytest.mark.parametrize(
    ("radius_nm", "tissue", "encoding"),
    [
        (2500, "full", "raw"),
        (2500, "neuropil", "compressed_segmentation"),
        (4000, "full", "compressed_segmentation"),
        (4000, "neuropil", "raw"),
    ],
)
@pytest.mark.parametrize("definitions", ["published", "corrected"])
def test_a_cell_needs_no_more_than_was_said(
    tmp_path: Path, radius_nm: float, tissue: str, encoding: str, definitions: str
) -> None:
    """A box full of the segment, and one full of neurites of it and others, of two sizes: below it, above a third."""
    shape = tuple(int(2 * radius_nm / r) + 4 for r in RESOLUTION)
    labels = np.ones(shape, np.uint64)
    if tissue == "neuropil":
        # Neurites half a micrometre thick, one in twelve of them the root's.
        across = np.random.default_rng(0).integers(1, 13, [-(-n // 8) for n in shape[:2]])
        across = np.kron(across, np.ones((8, 8), int))[: shape[0], : shape[1]]
        labels = np.repeat(across[:, :, None], shape[2], axis=2).astype(np.uint64)
    file_shape = (64, 64, 32)
    url = put_volume(tmp_path, labels, resolution_nm=RESOLUTION, file_shape=file_shape, encoding=encoding)
    x, y, z = (n // 2 for n in shape)
    base, added = measured(url, radius_nm, (x, y, z), definitions)
    said = cell_memory_bytes(radius_nm, np.array(RESOLUTION), file_shape)
    assert added < said
    # Of neurites that lie apart the corrected definitions keep one.
    assert added > said / 3 or (definitions, tissue) == ("corrected", "neuropil")
    assert base + added < worker_memory_bytes(radius_nm, np.array(RESOLUTION), file_shape)


def test_many_raw_files_are_not_held_at_once(tmp_path: Path) -> None:
    """32 raw files of 16 MiB under a small cell: half of them in memory at once would be more than was said."""
    file_shape, n_files = (256, 256, 32), 8
    labels = np.full(file_shape, 2, np.uint64)
    labels[-20:, -20:, 6:26] = 1
    url = put_volume(tmp_path / "one", labels, resolution_nm=RESOLUTION, file_shape=file_shape)
    (file,) = tmp_path.rglob("0-256_0-256_0-32")
    one = file.read_bytes()
    volume = CloudVolume(url, progress=False)
    volume.info["scales"][0]["size"] = [512, 512, 32 * n_files]
    volume.commit_info()
    for x, y, z in np.ndindex(2, 2, n_files):
        name = f"{x * 256}-{x * 256 + 256}_{y * 256}-{y * 256 + 256}_{z * 32}-{z * 32 + 32}"
        file.with_name(name).write_bytes(one)
    radius_nm = 5000.0
    _, added = measured(url, radius_nm, (256, 256, 128))
    said = cell_memory_bytes(radius_nm, np.array(RESOLUTION), file_shape)
    assert len(one) * 4 * n_files > said
    assert said / 3 < added < said


def test_a_worker_on_minnie65() -> None:
    """15 um at 64 x 64 x 40 nm: less than a GiB, more for a finer mip, less for a coarser one."""
    sizes = [
        worker_memory_bytes(15_000, np.array(r), (256, 256, 32)) / 2**30
        for r in ((128, 128, 40), (64, 64, 40), (32, 32, 40))
    ]
    assert 0.4 < sizes[0] < 0.7 < sizes[1] < 1 < sizes[2] < 2


def test_this_machine() -> None:
    """What there is lies above nothing and not above what the kernel says."""
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    assert 0 < machine_memory_bytes() <= int(total.split()[1]) * 1024
    assert usable_cores() >= 1


def test_what_is_said_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that only a person knows counts, unless there is less."""
    there_is = machine_memory_bytes()
    monkeypatch.setenv("SOMATIC_MEMORY_BYTES", "1073741824")
    assert machine_memory_bytes() == 2**30
    monkeypatch.setenv("SOMATIC_MEMORY_BYTES", str(2**60))
    assert machine_memory_bytes() == there_is


def test_a_limit_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, with what is expected in its place."""
    monkeypatch.setenv("SOMATIC_MEMORY_BYTES", "8G")
    with pytest.raises(PermanentError, match=r"invalid SOMATIC_MEMORY_BYTES '8G' \(expected a number of bytes"):
        machine_memory_bytes()


def test_every_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's, each control group's and the one of the environment, each with its own use and a reserve."""
    groups = [CgroupMemory(2**63, 5), CgroupMemory(1_000_000, 400_000), CgroupMemory(2_000_000, 1_999_000)]
    monkeypatch.setattr(memory, "cgroup_memory", lambda: iter(groups))
    monkeypatch.setenv("SOMATIC_MEMORY_BYTES", "3000000")
    machine, *others = memory_budgets(lambda enough: enough + 50_000)
    assert machine.limit_bytes == psutil.virtual_memory().total
    assert 0 < machine.used_bytes < machine.limit_bytes
    assert others == [
        Budget(1_000_000, 400_000, 50_000),
        Budget(2_000_000, 1_999_000, 100_000),
        Budget(3_000_000, 2_900_000, 150_000),
    ]
    assert [budget.free_bytes for budget in others] == [550_000, -99_000, -50_000]
    assert machine_memory_bytes() == 1_000_000


def hold(answer: Connection, own_bytes: int) -> None:
    """In a process of its own: have some memory until told to end."""
    held = np.ones(own_bytes, np.uint8)
    answer.send(held.size)
    answer.recv()


@pytest.fixture
def workers() -> Iterator[list[psutil.Process]]:
    """Four processes that share what their fork server loaded; each has nothing of its own, the last one 200 MiB."""
    warm_up("corrected")
    context = multiprocessing.get_context("forkserver")
    started = []
    for own_bytes in (0, 0, 0, 200 * 2**20):
        here, there = context.Pipe()
        process = context.Process(target=hold, args=(there, own_bytes))
        process.start()
        assert here.recv() == own_bytes
        started.append((here, process))
    yield [psutil.Process(process.pid) for _, process in started]
    for here, process in started:
        here.send(None)
        process.join()


def test_shared_memory_counts_once(workers: list[psutil.Process]) -> None:
    """An idle worker is as large as its fork server by what is resident, and nearly nothing by what it has."""
    fork_server = workers[0].parent()
    assert fork_server
    family = [fork_server, *workers]
    loaded = process_memory_bytes(fork_server) + sum(map(process_memory_bytes, workers[:3]))
    assert process_memory_bytes(workers[3]) > 200 * 2**20
    assert process_memory_bytes(workers[0]) < resident_bytes(workers[0]) / 2
    # All that the fork server has loaded, and not much more.
    assert loaded < 1.5 * resident_bytes(fork_server)
    own = OwnMemory()
    resident = sum(map(resident_bytes, family))
    assert own.bytes(family, enough=2 * resident) == pytest.approx(resident, rel=0.02)
    exact = sum(map(process_memory_bytes, family))
    assert own.bytes(family, enough=exact) == pytest.approx(exact, rel=0.05)
    assert exact < resident - 2 * resident_bytes(workers[0]) * 0.8


def test_a_process_that_is_gone_or_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first has nothing; of one that may not be looked into it is what is resident."""
    process = psutil.Process()

    def refuse(_: psutil.Process) -> None:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil.Process, "memory_full_info", refuse)
    assert process_memory_bytes(process) == pytest.approx(process.memory_info().rss, rel=0.02)
    monkeypatch.undo()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    process = psutil.Process(gone.pid)
    gone.wait()
    assert process_memory_bytes(process) == resident_bytes(process) == 0
