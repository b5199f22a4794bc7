"""What a worker is said to need, against the peak of a real process that measures a cell."""

import multiprocessing
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil
import pytest
from cloudvolume import CloudVolume
from volumes import put_volume

from somatic.cell import Cell
from somatic.workers import memory
from somatic.workers.isolation import warm_up
from somatic.workers.measuring import CellMeasurer, Inputs
from somatic.workers.memory import (
    cell_memory_bytes,
    machine_memory_bytes,
    usable_cores,
    used_memory_bytes,
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


@pytest.mark.parametrize(
    ("limit", "use", "cache"),
    [
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ],
)
def test_a_container(limit: str, use: str, cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its limit is what there is; what counts is all that is in it, but not the files that the kernel could drop."""
    for name, text in ((limit, "1000000\n"), (use, "700000\n"), ("memory.stat", f"anon 1\n{cache} 200000\n")):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "_CGROUPS", [(tmp_path, limit, use, cache)])
    assert machine_memory_bytes() == 1_000_000
    assert used_memory_bytes([]) == 500_000


@pytest.mark.parametrize("text", ["max", "9223372036854771712"])
def test_a_container_without_a_limit(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is the limit, and what counts is what these processes have."""
    (tmp_path / "memory.max").write_text(text)
    monkeypatch.setattr(memory, "_CGROUPS", [(tmp_path, "memory.max", "memory.current", "inactive_file")])
    assert machine_memory_bytes() > 2**30
    assert used_memory_bytes([]) == 0
    assert used_memory_bytes([psutil.Process()]) > 2**20
