"""Memory: how much this machine has, and how much measuring one cell at a time needs."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import psutil

from somatic.cutout import half_side_vx
from somatic.volume.files import BATCH_BYTES

# What a container is told of itself, by newer kernels and older ones: its limit, its use, and what of that is cache.
_CGROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
_SAID = "SOMATIC_MEMORY_BYTES"

# The interpreter with cloud-volume, trimesh, scipy and numba loaded, a nucleus and its folds, a chunk's synapses;
# on a graph the leaves of its cells too, 1 MB for a cell with 100,000.
_BASE_BYTES = 400 * 2**20
_BYTES_PER_LABEL = 8
# Masks of one bit a voxel that stand at once: while one is repaired, and while the repaired one is meshed.
_MASKS_REPAIRED = 8
_MASKS_MESHED = 3
# What its two triangles take for each face between a voxel of the mask and one outside, measured (200 to 240).
_BYTES_PER_FACE = 260


def machine_memory_bytes() -> int:
    """Memory that this process may use: the machine's, its container's or SOMATIC_MEMORY_BYTES, whichever is least."""
    limits = [psutil.virtual_memory().total, int(os.environ.get(_SAID) or sys.maxsize)]
    return min(limits + [limit_bytes for limit_bytes, _ in _containers()])


def used_memory_bytes(processes: Iterable[psutil.Process]) -> int:
    """Memory that is taken of `machine_memory_bytes`: by this container, or where there is none by these processes."""
    for _, read_use in _containers():
        return read_use()
    return sum(map(process_memory_bytes, processes))


def process_memory_bytes(process: psutil.Process) -> int:
    """Memory that a process has; 0 when it is gone."""
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0


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


def _containers() -> Iterator[tuple[int, Callable[[], int]]]:
    """Limit of the container that this process is in, if it has one, and a way to read what it uses."""
    for folder, limit, use, cache in _CGROUPS:
        if not (folder / limit).exists():
            continue
        text = (folder / limit).read_text().strip()
        # Without a limit it is a word, or more than any machine has.
        if text.isdigit() and int(text) < psutil.virtual_memory().total:
            yield int(text), partial(_read_use, folder / use, folder / "memory.stat", cache)


def _read_use(use: Path, stat: Path, cache: str) -> int:
    """Without what the kernel takes back when it is short, as Kubernetes counts too."""
    noted = dict(line.split() for line in stat.read_text().splitlines())
    return int(use.read_text()) - int(noted[cache])
