"""Memory: how much this machine has, and how much measuring one cell at a time needs."""

import os
from pathlib import Path

import numpy as np
import psutil

from somatic.cutout import half_side_vx

_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))

# The interpreter with cloud-volume, trimesh, scipy and zmesh loaded, and the meshes of one cell.
_BASE_BYTES = 600 * 2**20
# Arrays of one byte a voxel that stand at once while a mask is repaired and meshed.
_MASKS = 6
_BYTES_PER_LABEL = 8


def machine_memory_bytes() -> int:
    """Memory that this process may use: the machine's, or its container's when that is less."""
    limits = [psutil.virtual_memory().total]
    for path in _CGROUP_LIMITS:
        if path.exists() and (text := path.read_text().strip()).isdigit():
            limits.append(int(text))
    return min(limits)


def usable_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_memory_bytes(
    radius_nm: float, resolution_nm: np.ndarray, file_shape: tuple[int, int, int], files_per_batch_bytes: int = 0
) -> int:
    """Most memory that a process needs that measures one cell at a time.

    Parameters
    ----------
    radius_nm : float
        Half the side of the cutout.
    resolution_nm : (3,) float
        Size of a voxel of the segmentation.
    file_shape : (3,) int
        Voxels of one file of the segmentation, which is decoded whole.
    files_per_batch_bytes : int
        Bytes of the files that are fetched together.

    Returns
    -------
    int
    """
    box_voxels = int(np.prod(2 * half_side_vx(radius_nm, resolution_nm) + 1))
    return _BASE_BYTES + _MASKS * box_voxels + _BYTES_PER_LABEL * int(np.prod(file_shape)) + files_per_batch_bytes
