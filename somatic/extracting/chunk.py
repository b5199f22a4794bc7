"""The cells of a chunk: from the rows of a plan, and to the rows of a chunk file."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from somatic.cell import Cell
from somatic.errors import CellKilled, SomaticError, TransientError
from somatic.features import Row
from somatic.planning.plan import POSITION
from somatic.results.chunks import chunk_row
from somatic.workers.measuring import CellResult, failed_row


def cells_of(rows: pd.DataFrame, resolution_nm: tuple[float, float, float]) -> list[Cell]:
    """Cells of some rows of a plan, in their order."""
    columns = ("nucleus_id", "soma_id", "n_nuclei_in_segment", *POSITION)
    return [
        Cell(nucleus_id, root_id, (x, y, z), resolution_nm, n_nuclei)
        for nucleus_id, root_id, n_nuclei, x, y, z in zip(*(rows[name].tolist() for name in columns), strict=True)
    ]


def unmeasured_rows(
    rows: pd.DataFrame,
    resolution_nm: tuple[float, float, float],
    error: SomaticError,
    version: int,
    definitions: str,
) -> Iterator[Row]:
    """Rows of cells that could not be measured for a fault that is not theirs; they count as failed for now."""
    for cell, attempt in zip(cells_of(rows, resolution_nm), rows["attempt"].tolist(), strict=True):
        result = CellResult(failed_row(cell, version, definitions, error), {}, error)
        yield noted_row(result, cell, attempt) | {"transient": True}


def noted_row(
    result: CellResult,
    cell: Cell,
    attempt: int,
    memory_bytes: int | None = None,
    origin: dict[str, Any] | None = None,
) -> Row:
    """The row of a measured cell with what is noted beside it; `origin` as for `chunk_row`."""
    return chunk_row(
        result.row,
        centre_vx=cell.centre_vx,
        attempt=attempt,
        seconds=result.seconds,
        error_class=type(result.error).__name__ if result.error else None,
        transient=isinstance(result.error, TransientError),
        memory_bytes=memory_bytes if isinstance(result.error, CellKilled) else None,
        segmentation_files=result.segmentation_files,
        segmentation_bytes=result.segmentation_bytes,
        origin=origin,
    )
