"""What an extraction will take, said before it runs."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from somatic.extracting.extraction import Extraction
from somatic.extracting.reusable import Reusable, ReusableParts
from somatic.planning.plan import POSITION, Plan
from somatic.workers.memory import worker_memory_bytes

SYNAPSE_CELLS = 50
"""The synapses of about so many cells are asked for at once."""

BYTES_PER_VOXEL = 0.25
"""Rough size of a voxel of dense neuropil in compressed_segmentation as it travels, gzipped.

Blocks of 8 x 8 x 8 voxels at 64 x 64 x 40 nm hold some 4 to 8 labels: 2 to 3 bits a voxel and a table, 0.4 to 0.5 bytes
before gzip, which about halves it. Sparse or small volumes need a tenth of it.
"""

# Versions, metadata of both tables and their columns, and the first page of nuclei with its count.
_CAVE_REQUESTS = 12
# The info of the graph, and the roots at the centres of some nuclei.
_GRAPH_REQUESTS = 2


@dataclass(frozen=True)
class LayerSize:
    """One mip of a segmentation, as far as its size matters.

    All are (3,) along x, y, z: `resolution_nm` float, the others int in voxels of this mip.
    """

    resolution_nm: tuple[float, float, float]
    offset_vx: tuple[int, int, int]
    size_vx: tuple[int, int, int]
    file_vx: tuple[int, int, int]


@dataclass(frozen=True)
class Estimate:
    """What is planned, what is done, and what the rest will take."""

    cells: int
    skipped: int
    done: int
    missing: int
    chunks: int
    """Chunks in which something is missing."""
    shards: int
    cave_requests: int
    segmentation_bytes: int
    worker_memory_bytes: int
    reusable: ReusableParts | None = None
    """What of the missing cells earlier result sets have; None where there are none to reuse."""


def estimate_extraction(
    extraction: Extraction,
    plan: Plan,
    missing: pd.DataFrame,
    chunks_per_shard: int,
    reusable: Reusable | None = None,
) -> Estimate:
    """Count what an extraction will take; the parameters are those of `make_estimate`."""
    segmentation, cave = extraction.segmentation, extraction.dataset.cave
    resolution_nm, file_vx = segmentation.resolution_nm, _triple(segmentation.file_shape)
    on_graph = int(extraction.on_graph)
    return make_estimate(
        plan,
        missing,
        reusable=reusable,
        layer=LayerSize(
            resolution_nm=_triple(resolution_nm),
            offset_vx=_triple(segmentation.bounds.lower_vx),
            size_vx=segmentation.bounds.shape,
            file_vx=file_vx,
        ),
        radius_nm=extraction.radius_nm,
        worker_memory_bytes=memory_of_worker(extraction),
        chunks_per_shard=chunks_per_shard,
        cave_requests=(_CAVE_REQUESTS if cave else 0) + _GRAPH_REQUESTS * on_graph,
        cells_per_request=SYNAPSE_CELLS if cave and cave.synapses else None,
        requests_per_cell=on_graph,
        requests_per_chunk=on_graph,
    )


def memory_of_worker(extraction: Extraction) -> int:
    """Most memory that a process needs that measures the cells of an extraction one at a time.

    Raises
    ------
    SomaticError
        The segmentation cannot be opened.
    """
    segmentation = extraction.segmentation
    return worker_memory_bytes(extraction.radius_nm, segmentation.resolution_nm, _triple(segmentation.file_shape))


def make_estimate(
    plan: Plan,
    missing: pd.DataFrame,
    *,
    layer: LayerSize,
    radius_nm: float,
    worker_memory_bytes: int,
    chunks_per_shard: int,
    reusable: Reusable | None = None,
    cave_requests: int = 0,
    cells_per_request: int | None = None,
    requests_per_cell: int = 0,
    requests_per_chunk: int = 0,
    bytes_per_voxel: float = BYTES_PER_VOXEL,
) -> Estimate:
    """Count what a plan will take.

    Parameters
    ----------
    plan : Plan
        All of it.
    missing : pandas.DataFrame
        Rows of the plan that are still to be measured (`Ledger.missing`).
    layer : LayerSize
        The segmentation at the mip that is read.
    radius_nm : float
        Half the side of a cutout.
    worker_memory_bytes : int
        What a worker needs; passed on.
    chunks_per_shard : int
        Consecutive chunks of the whole plan that run as one job.
    reusable : Reusable, optional
        Of the cells of `missing`; None where there is nothing to reuse.
    cave_requests : int
        Requests that the extraction needs in any case.
    cells_per_request : int, optional
        So many cells at least share a query of synapses, as far as a shard has them; None when there is none.
    requests_per_cell, requests_per_chunk : int
        To the graph of the segmentation, where it is one.
    bytes_per_voxel : float
        Of the segmentation's files as they travel.

    Returns
    -------
    Estimate
        `segmentation_bytes` is an upper bound as far as `bytes_per_voxel` is right: a file that several cells need
        counts for each of them.
    """
    n_skipped = int(plan.rows["status_reason"].notna().sum())
    cells = missing[missing["chunk"] >= 0]
    chunks = cells["chunk"].unique()
    to_read = cells[~reusable.somata] if reusable else cells
    centres_nm = to_read[list(POSITION)].to_numpy(dtype=np.float64) * np.asarray(plan.resolution_nm)
    voxels = int(voxels_to_read(centres_nm, radius_nm, layer).sum())
    n_cells = len(plan.rows) - n_skipped
    of_shards = (cells["chunk"] // chunks_per_shard).value_counts()
    n_queries = int(np.ceil(of_shards / cells_per_request).sum()) if cells_per_request else 0
    return Estimate(
        cells=n_cells,
        skipped=n_skipped,
        done=n_cells - len(cells),
        missing=len(cells),
        chunks=len(chunks),
        shards=len(of_shards),
        cave_requests=cave_requests + n_queries + requests_per_cell * len(to_read) + requests_per_chunk * len(chunks),
        segmentation_bytes=round(voxels * bytes_per_voxel),
        worker_memory_bytes=worker_memory_bytes,
        reusable=reusable.counts() if reusable else None,
    )


def voxels_to_read(centres_nm: npt.NDArray[np.float64], radius_nm: float, layer: LayerSize) -> npt.NDArray[np.int64]:
    """Voxels of all files that the cutout of each cell touches.

    Parameters
    ----------
    centres_nm : (n, 3) float64
        Centres of the cutouts.
    radius_nm : float
        Half the side of a cutout.
    layer : LayerSize
        The segmentation at the mip that is read; its files start at the offset of the volume.

    Returns
    -------
    (n,) int64
        0 for a cutout outside the volume.
    """
    resolution_nm, offset_vx, size_vx, file_vx = map(
        np.asarray, (layer.resolution_nm, layer.offset_vx, layer.size_vx, layer.file_vx)
    )
    lower = np.floor((centres_nm - radius_nm) / resolution_nm).astype(np.int64) - offset_vx
    upper = np.ceil((centres_nm + radius_nm) / resolution_nm).astype(np.int64) - offset_vx
    lower, upper = np.clip(lower, 0, size_vx), np.clip(upper, 0, size_vx)
    start = lower // file_vx * file_vx
    stop = np.minimum(-(-upper // file_vx) * file_vx, size_vx)
    sides = np.where(upper > lower, stop - start, 0)
    return sides.prod(axis=1)


def _triple(values: np.ndarray) -> tuple:
    x, y, z = values.tolist()
    return x, y, z
