"""Taking rows over from the base of an extraction: those cells whose numbers are provably the same."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pandas as pd

from somatic.cell import Cell, empty_row, put_synapses
from somatic.definitions import definitions_called
from somatic.errors import DegenerateMesh, MissingNucleusMesh, MissingSegment, OpenNucleusMesh, StoreError
from somatic.extracting.chunk import cells_of
from somatic.extracting.extraction import Extraction
from somatic.extracting.fingerprints import synapse_hash
from somatic.features import MEASURED, SYNAPSE_COLUMNS, Row
from somatic.results.base import Base
from somatic.results.chunks import chunk_row
from somatic.results.mesh_layer import MeshLayer
from somatic.storage.places import MESHES
from somatic.synapses import synapse_columns, synapses_in_cutout
from somatic.tables import Resolution, Synapses

CELLS_PER_BATCH = 1000
"""Cells that are looked at in one go; their rows go into one file."""
# Neighbours share a query of synapses, whose box is then little larger than theirs.
_CELLS_PER_QUERY = 100
_FILES_AT_ONCE = 16
_LASTING = {kind.__name__ for kind in (MissingSegment, MissingNucleusMesh, OpenNucleusMesh, DegenerateMesh)}
"""Failures that hang on nothing but what the fingerprints hold."""
_TAKEN = tuple(name for name in MEASURED if name not in {column.name for column in SYNAPSE_COLUMNS})


@dataclass(frozen=True)
class _Same:
    """A cell whose soma and nucleus are as they were, and its row of then."""

    cell: Cell
    row: Row


def carry(extraction: Extraction, rows: pd.DataFrame, resolution_nm: Resolution) -> list[Row]:
    """Take over the rows of those cells whose numbers are provably the same as in the base.

    The soma is the same where the root id is, or where its leaves in the cutout are, and all else in its fingerprint;
    the nucleus is never another one. The synapses are asked for anew, and counted against the stored mesh where they
    are not those of then.

    Parameters
    ----------
    extraction : Extraction
        With its base.
    rows : pandas.DataFrame
        Columns of `Plan.rows`, those to be skipped left out; neighbours should follow each other.
    resolution_nm : (3,) float
        Size of a voxel of the centres.

    Returns
    -------
    list of Row
        For `somatic.results.chunks.put_rows`, in the order of `rows`. A cell without a row here is to be measured.

    Raises
    ------
    SomaticError
        CAVE or the store could not be asked, for good or for now.
    """
    cells, base = cells_of(rows, resolution_nm), extraction.base
    assert base is not None
    before = base.rows([cell.nucleus_id for cell in cells])
    candidates = [
        _Same(cell, before[cell.nucleus_id])
        for cell in cells
        if cell.nucleus_id in before and _may_be_carried(cell, before[cell.nucleus_id], extraction)
    ]
    same = _with_the_same_soma(candidates, extraction)
    carried: dict[int, Row] = {}
    for start in range(0, len(same), _CELLS_PER_QUERY):
        for row in _with_their_synapses(same[start : start + _CELLS_PER_QUERY], extraction, base):
            carried[row["nucleus_id"]] = row
    return [carried[cell.nucleus_id] for cell in cells if cell.nucleus_id in carried]


def count_candidates(extraction: Extraction, rows: pd.DataFrame, resolution_nm: Resolution) -> tuple[int, int]:
    """How many of some rows of a plan `carry` may take over: with the root id of then, and with another one."""
    assert extraction.base is not None
    cells = cells_of(rows, resolution_nm)
    before = extraction.base.rows([cell.nucleus_id for cell in cells])
    known = [(cell, before[cell.nucleus_id]) for cell in cells if cell.nucleus_id in before]
    candidates = [(cell, row) for cell, row in known if _may_be_carried(cell, row, extraction)]
    unchanged = sum(cell.root_id == row["soma_id"] for cell, row in candidates)
    return unchanged, len(candidates) - unchanged if extraction.on_graph else 0


def _may_be_carried(cell: Cell, row: Row, extraction: Extraction) -> bool:
    """Whether everything but the labels of the root id is as it was."""
    if row["status"] != "ok" and not (row["error_class"] in _LASTING and row["soma_id"] == cell.root_id):
        return False
    place = (row["soma_fingerprint"] or "").partition("-")[0]
    nucleus = extraction.nucleus_fingerprint(cell)
    return place == extraction.place_fingerprint(cell) and row["nucleus_fingerprint"] == nucleus


def _with_the_same_soma(candidates: list[_Same], extraction: Extraction) -> list[_Same]:
    """Those whose root id has the same labels in the cutout; on a graph this asks for the leaves of changed roots."""
    unchanged = [one for one in candidates if one.cell.root_id == one.row["soma_id"]]
    if not extraction.on_graph:
        return unchanged
    valid = extraction.valid_roots([one.cell for one in unchanged])
    kept = {one.cell.nucleus_id for one, is_valid in zip(unchanged, valid, strict=True) if is_valid}
    changed = [one for one in candidates if one.cell.root_id != one.row["soma_id"]]
    for cell, one in zip(extraction.with_leaves([one.cell for one in changed]), changed, strict=True):
        if extraction.soma_fingerprint(cell) == one.row["soma_fingerprint"]:
            kept.add(cell.nucleus_id)
    return [one for one in candidates if one.cell.nucleus_id in kept]


def _with_their_synapses(same: list[_Same], extraction: Extraction, base: Base) -> Iterator[Row]:
    """Rows of cells with the synapses of the present version; a cell whose mesh is needed and gone is left out."""
    synapses = extraction.synapses_of([one.cell for one in same])
    meshes = MeshLayer(base.store.url_of(MESHES))
    own = MeshLayer(extraction.store.url_of(MESHES)) if extraction.with_meshes else None

    def take(one: _Same) -> Row | None:
        try:
            row = _taken_over(one, synapses, extraction, meshes)
            if own and row["soma_area_um"] is not None:
                meshes.copy(one.cell.nucleus_id, own)
        except StoreError:
            return None
        return row

    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        yield from (row for row in pool.map(take, same) if row is not None)


def _taken_over(one: _Same, synapses: Synapses | None, extraction: Extraction, meshes: MeshLayer) -> Row:
    cell, before = one.cell, one.row
    row = empty_row(cell, extraction.version, extraction.dataset.definitions)
    row.update({name: before[name] for name in (*_TAKEN, "status", "reason")})
    found = None
    if synapses is not None and row["soma_area_um"] is not None:
        in_cutout = synapses_in_cutout(synapses, cell.root_id, cell.centre_nm, extraction.radius_nm)
        found = synapse_hash(in_cutout)
        columns = {column.name: before[column.name] for column in SYNAPSE_COLUMNS}
        if found != before["synapse_hash"]:
            steps = definitions_called(extraction.dataset.definitions)
            columns = synapse_columns(in_cutout, steps.on_soma(in_cutout, meshes.get(cell.nucleus_id)))
        put_synapses(row, columns)
    return chunk_row(
        row,
        centre_vx=cell.centre_vx,
        attempt=1,
        error_class=before["error_class"],
        origin={
            "source": "carried",
            "soma_version": before["soma_version"],
            "nucleus_version": before["nucleus_version"],
            "soma_fingerprint": before["soma_fingerprint"],
            "nucleus_fingerprint": before["nucleus_fingerprint"],
            "synapse_hash": found,
        },
    )
