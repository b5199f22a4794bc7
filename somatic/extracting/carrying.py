"""Reusing whole rows: those cells of which nothing but the synapses may have changed."""

from collections.abc import Callable

import pandas as pd

from somatic.cell import Cell, empty_row, relate
from somatic.extracting.chunk import cells_of
from somatic.extracting.extraction import Extraction
from somatic.extracting.origin import origin_of_soma
from somatic.extracting.reuse import (
    Found,
    find,
    is_certain,
    with_known_parts,
    with_labels,
)
from somatic.features import BOTH_COLUMNS, NUCLEUS_COLUMNS, Row
from somatic.results.chunks import chunk_row
from somatic.tables import Resolution

CELLS_PER_BATCH = 1000
"""Cells that are looked at in one go; their rows go into one file."""
# Neighbours share a query of synapses, whose box is then little larger than theirs.
_CELLS_PER_QUERY = 100
_OF_A_WHOLE_ROW = (*(column.name for column in (*NUCLEUS_COLUMNS, *BOTH_COLUMNS)), "status", "reason")


def carry(
    extraction: Extraction, rows: pd.DataFrame, resolution_nm: Resolution, warn: Callable[[str], None]
) -> list[Row]:
    """Reuse the rows of those cells whose somata and nuclei are provably those of the bases.

    The soma is the same where the root id is, or where its leaves in the cutout are, and all else in its fingerprint;
    the nucleus does not depend on the materialization version. The synapses are queried anew, and counted against the
    stored mesh where they are not those of then.

    Parameters
    ----------
    extraction : Extraction
        With its bases.
    rows : pandas.DataFrame
        Columns of `Plan.rows`, those to be skipped left out; neighbours should follow each other.
    resolution_nm : (3,) float
        Size of a voxel of the centres.
    warn : callable
        As for `Extraction.extract`.

    Returns
    -------
    list of Row
        For `somatic.results.chunks.put_rows`, in the order of `rows`. A cell without a row here is to be measured, or a
        part of it (`Extraction.extract`).

    Raises
    ------
    SomaticError
        CAVE or the store could not be asked, for good or for now.
    """
    found = [one for one in find(extraction, cells_of(rows, resolution_nm)) if _is_known(extraction, one)]
    same = [one for one in with_labels(extraction, found) if one.is_same_soma]
    carried: list[Row] = []
    for start in range(0, len(same), _CELLS_PER_QUERY):
        some = same[start : start + _CELLS_PER_QUERY]
        synapses = extraction.synapses_of([one.cell for one in some])
        cells = with_known_parts(extraction, some, synapses, warn)
        carried += [_row(cell, one, extraction) for cell, one in zip(cells, some, strict=True) if cell.soma]
    return carried


def _is_known(extraction: Extraction, one: Found) -> bool:
    """Whether nothing of a cell is to be measured, if its root id has the labels of then."""
    return one.is_whole or (one.soma is not None and one.nucleus is not None and is_certain(extraction, one))


def _row(cell: Cell, one: Found, extraction: Extraction) -> Row:
    """The row of a cell whose soma is known, and its nucleus or that there is none."""
    soma, before = cell.soma, one.soma
    assert soma
    assert before
    row = empty_row(cell, extraction.version, extraction.dataset.definitions)
    row.update(soma.columns)
    if one.is_whole:
        row.update({name: before[name] for name in _OF_A_WHOLE_ROW})
        error_class, nucleus_version = before["error_class"], before["nucleus_version"]
    else:
        assert cell.nucleus is not None
        row.update(cell.nucleus)
        relate(row)
        error_class, nucleus_version = None, cell.nucleus_version
        if soma.fault:
            row.update(status="failed", reason=str(soma.fault))
            error_class = type(soma.fault).__name__
    has_nucleus = row["nucleus_volume_um"] is not None
    return chunk_row(
        row,
        centre_vx=cell.centre_vx,
        attempt=1,
        error_class=error_class,
        origin={
            "source": "carried",
            "nucleus_source": "reused" if has_nucleus else None,
            "nucleus_version": nucleus_version,
            "nucleus_fingerprint": extraction.nucleus_fingerprint(cell),
            **origin_of_soma(soma),
        },
    )
