"""Memory: how much this process may use, how much of it is used, and how much measuring one cell at a time needs."""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import psutil

from somatic.cutout import half_side_vx
from somatic.errors import PermanentError
from somatic.volume.files import BATCH_BYTES
from somatic.workers.cgroups import cgroup_memory

_SAID = "SOMATIC_MEMORY_BYTES"
# Kept free below a limit, for what processes take until somebody looks again. A group beyond its limit may be killed as
# a whole; on the machine itself the kernel kills one process, and what others use is not ours to judge.
_RESERVED = 1 / 20
_RESERVED_OF_MACHINE_BYTES = 256 * 2**20

# The interpreter with cloud-volume, trimesh, scipy and numba loaded, a nucleus and its folds, a chunk's synapses;
# on a graph the leaves of its cells too, 1 MB for a cell with 100,000.
_BASE_BYTES = 400 * 2**20
_BYTES_PER_LABEL = 8
# Masks of one bit a voxel that stand at once: while one is repaired, and while the repaired one is meshed.
_MASKS_REPAIRED = 8
_MASKS_MESHED = 3
# What its two triangles take for each face between a voxel of the mask and one outside, measured (200 to 240).
_BYTES_PER_FACE = 260


class Budget(NamedTuple):
    """A limit on memory that this process is under, and how much of it is used.

    Cached files do not count as used. Where several processes share a page it counts once.
    """

    limit_bytes: int
    used_bytes: int
    reserved_bytes: int
    """What is to be kept free."""

    @property
    def free_bytes(self) -> int:
        """What is left above the reserve; below 0 memory is short."""
        return self.limit_bytes - self.reserved_bytes - self.used_bytes


def memory_budgets(own_bytes: Callable[[int], int]) -> Iterator[Budget]:
    """Every limit that this process is under: the machine's, its control groups' and SOMATIC_MEMORY_BYTES.

    Parameters
    ----------
    own_bytes : callable
        Gives what all our processes have, if it is more than a number of bytes, else any number below that. It counts
        for SOMATIC_MEMORY_BYTES; for the other limits everything counts that is under them.

    Yields
    ------
    Budget

    Raises
    ------
    PermanentError
        SOMATIC_MEMORY_BYTES is not a number.
    """
    machine = psutil.virtual_memory()
    reserved = min(int(_RESERVED * machine.total), _RESERVED_OF_MACHINE_BYTES)
    yield Budget(machine.total, machine.total - machine.available, reserved)
    for limit, used in cgroup_memory():
        if limit < machine.total:
            yield Budget(limit, used, int(_RESERVED * limit))
    if said := _said_bytes():
        reserved = int(_RESERVED * said)
        yield Budget(said, own_bytes(said - reserved), reserved)


def _said_bytes() -> int:
    text = os.environ.get(_SAID, "").strip()
    if text and not text.isdecimal():
        raise PermanentError(f"invalid {_SAID} {text!r} (expected a number of bytes, e.g. {8 * 2**30})")
    return int(text or 0)


def machine_memory_bytes() -> int:
    """Memory that this process may use: the least of the limits that it is under."""
    return min(budget.limit_bytes for budget in memory_budgets(lambda _: 0))


def process_memory_bytes(process: psutil.Process) -> int:
    """Memory that a process has, its part of what it shares with others included; 0 when it is gone."""
    try:
        memory = process.memory_full_info()
    except psutil.NoSuchProcess:
        return 0
    except psutil.Error:
        # Not ours to look into.
        return resident_bytes(process)
    # Where the kernel does not share pages out among processes, those of each alone.
    return getattr(memory, "pss", memory.uss)


def resident_bytes(process: psutil.Process) -> int:
    """Memory that a process has, with all that it shares; 0 when it is gone. Read in a hundredth of the time."""
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0


class OwnMemory:
    """Memory of our processes together, with what each of them shares read once, and only when it matters.

    To read what a process shares takes the kernel as long as it takes to walk over all its pages.
    """

    def __init__(self) -> None:
        self._shared: dict[psutil.Process, int] = {}

    def bytes(self, processes: Iterable[psutil.Process], enough: int) -> int:
        """Memory that the processes have; what they share may count several times up to a sum of `enough`."""
        resident = {process: resident_bytes(process) for process in processes}
        self._shared = {process: self._shared[process] for process in resident if process in self._shared}
        if self._own_of(resident) > enough:
            for process, has in resident.items():
                if process not in self._shared:
                    self._shared[process] = max(0, has - process_memory_bytes(process))
        return self._own_of(resident)

    def _own_of(self, resident: dict[psutil.Process, int]) -> int:
        return sum(max(0, has - self._shared.get(process, 0)) for process, has in resident.items())


def usable_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_memory_bytes(radius_nm: float, resolution_nm: np.ndarray, file_shape: tuple[int, int, int]) -> int:
    """Most memory that a process needs that measures one cell at a time.

    Parameters
    ----------
    radius_nm : float
        Half the side of the cutout.
    resolution_nm : (3,) float
        Size of a voxel of the segmentation.
    file_shape : (3,) int
        Voxels of one file of the segmentation, which is decoded whole.

    Returns
    -------
    int

    Notes
    -----
    What a cell needs depends on its surface, which nobody knows before. Counted is one as large as the faces of the
    cutout together, in voxels; a neuron's soma with its dendrites has a third of that.
    """
    return _BASE_BYTES + cell_memory_bytes(radius_nm, resolution_nm, file_shape)


def cell_memory_bytes(radius_nm: float, resolution_nm: np.ndarray, file_shape: tuple[int, int, int]) -> int:
    """What measuring one cell adds to a process: the largest of reading, repairing and meshing its mask."""
    box = 2 * half_side_vx(radius_nm, resolution_nm) + 1
    n_voxels = int(np.prod(box))
    n_faces = 2 * int(box[0] * box[1] + box[1] * box[2] + box[0] * box[2])
    file_bytes = _BYTES_PER_LABEL * int(np.prod(file_shape))
    n_files = -(-box // np.asarray(file_shape)) + 1
    layer_bytes = file_bytes * int(n_files[0] * n_files[1])
    batch_bytes = min(max(BATCH_BYTES, layer_bytes), file_bytes * int(np.prod(n_files)))
    mask_bytes = n_voxels // 8
    # Beside the files that are fetched together, copies of one while it is received and decoded.
    reading = mask_bytes + batch_bytes + 3 * file_bytes
    repairing = _MASKS_REPAIRED * mask_bytes
    meshing = _MASKS_MESHED * mask_bytes + _BYTES_PER_FACE * n_faces
    return max(reading, repairing, meshing)
