"""Files of measured rows: what they hold, how they are named, how they are written."""

import hashlib
import operator
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from somatic.features import COLUMNS, Column, Row, features_versions
from somatic.software import code_version
from somatic.storage.parquet import parquet_bytes
from somatic.storage.places import ATTEMPTS, CHUNKS
from somatic.storage.store import ResultStore

STAGES = ("nucleus", "folds", "read", "mask", "mesh", "synapses", "store")
"""Stages of a cell (`somatic.cell.Measured.stage`) whose seconds are noted, in the order they run."""

PROVENANCE_COLUMNS = (
    Column("source", pa.string(), "", "computed; carried where everything is reused; null when nothing was measured"),
    Column("soma_source", pa.string(), "", "measured for this table, or reused from an earlier one; null for none"),
    Column("nucleus_source", pa.string(), "", "the same of the nucleus"),
    Column("synapse_source", pa.string(), "", "the same of the synapses"),
    Column("x_vx", pa.int64(), "voxel", "centre of the cutout in voxels of the nucleus table, x"),
    Column("y_vx", pa.int64(), "voxel", "centre of the cutout in voxels of the nucleus table, y"),
    Column("z_vx", pa.int64(), "voxel", "centre of the cutout in voxels of the nucleus table, z"),
    Column("attempt", pa.int64(), "1", "number of the attempt; the highest wins", nullable=False),
    Column("chunk", pa.string(), "", "name of the file that the row lies in"),
    Column("error_class", pa.string(), "", "type of the error; null for none"),
    Column("transient", pa.bool_(), "", "whether the error may be gone when tried again", nullable=False),
    Column("memory_bytes", pa.int64(), "byte", "memory that the run planned for it when error_class is CellKilled"),
    Column("seconds", pa.float64(), "s", "time for the cell, without what it shares with its chunk"),
    *(Column(f"seconds_{stage}", pa.float64(), "s", f"time for the stage {stage}") for stage in STAGES),
    Column("segmentation_files", pa.int64(), "1", "files of the segmentation that were fetched for it"),
    Column("segmentation_bytes", pa.int64(), "byte", "their bytes as they travelled"),
    Column("run", pa.string(), "", "flow run of the extraction that wrote the row"),
    Column("finished", pa.timestamp("us", tz="UTC"), "", "when the row was written"),
    Column("soma_version", pa.int64(), "", "materialization version at which the soma was measured; null for none"),
    Column("nucleus_version", pa.int64(), "", "the same of the nucleus"),
    Column("soma_fingerprint", pa.string(), "", "hash of all that the soma's numbers but its synapses depend on"),
    Column("nucleus_fingerprint", pa.string(), "", "hash of all that the nucleus's numbers depend on"),
    Column("synapse_hash", pa.string(), "", "hash of ids, positions, sizes and voxel size of synapses in the cutout"),
    Column("nucleus_voxels_hash", pa.string(), "", "hash of the nucleus that the soma's numbers depend on; or none"),
    Column("soma_features_version", pa.int64(), "", "SOMA_VERSION of somatic", nullable=False),
    Column("nucleus_features_version", pa.int64(), "", "NUCLEUS_VERSION of somatic", nullable=False),
    Column("synapse_features_version", pa.int64(), "", "SYNAPSE_VERSION of somatic", nullable=False),
    Column("code_version", pa.string(), "", "version of somatic, with the commit in a checkout", nullable=False),
)
"""What is noted of a row beside its features; none of it is in features.parquet."""

CHUNK_SCHEMA = pa.schema([column.field.remove_metadata() for column in (*COLUMNS, *PROVENANCE_COLUMNS)])
"""Columns of a chunk file; units and meanings stand in features.parquet and provenance.parquet."""

IDENTITY = ("nucleus_id", "soma_id", "x_vx", "y_vx", "z_vx")
"""What makes two rows rows of the same cell."""


def chunk_row(
    row: Mapping[str, Any],
    *,
    centre_vx: Sequence[int],
    attempt: int,
    seconds: Mapping[str, float] | None = None,
    error_class: str | None = None,
    transient: bool = False,
    memory_bytes: int | None = None,
    segmentation_files: int | None = None,
    segmentation_bytes: int | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Row:
    """A row of features with what is noted beside it.

    Parameters
    ----------
    row : mapping
        Columns of `somatic.features.COLUMNS`, with status and reason.
    centre_vx : (3,) int
        Centre of the cutout in voxels of the nucleus table.
    attempt : int
        As planned.
    seconds : mapping of str to float, optional
        Time by stage (`STAGES`; others count into the sum only).
    error_class : str, optional
        Name of the error's class; `CellKilled` makes `memory_bytes` count.
    transient : bool
        The row says nothing final; it is kept out of the chunk files.
    memory_bytes : int, optional
        Memory there was, for a cell that was killed.
    segmentation_files, segmentation_bytes : int, optional
        What was read for the cell.
    origin : mapping, optional
        Versions and hashes among `PROVENANCE_COLUMNS`; also the source where it is not "computed".
    """
    noted: Row = dict(zip(("x_vx", "y_vx", "z_vx"), map(operator.index, centre_vx), strict=True))
    noted["source"] = "computed"
    noted["attempt"] = attempt
    noted["error_class"] = error_class
    noted["transient"] = transient
    noted["memory_bytes"] = memory_bytes
    noted["segmentation_files"] = segmentation_files
    noted["segmentation_bytes"] = segmentation_bytes
    if seconds is not None:
        noted["seconds"] = sum(seconds.values())
        noted.update({f"seconds_{stage}": seconds.get(stage) for stage in STAGES})
    return {**row, **noted, **(origin or {})}


def put_rows(store: ResultStore, rows: Iterable[Row], run_id: str, trial: int = 1) -> pa.Table:
    """Write the rows of a chunk: what is final into a chunk file, what may be tried again into `attempts/`.

    Parameters
    ----------
    rows : iterable of Row
        From `chunk_row` or `skipped_rows`.
    run_id : str
        Name of the run, part of a path.
    trial : int
        Counts the trials of this chunk within the run.

    Returns
    -------
    pyarrow.Table
        The final rows, columns of `CHUNK_SCHEMA`, for `Ledger.add`.

    Raises
    ------
    StoreError, StoreUnavailable
        The rows were not written, for good or for now.
    """
    final: list[Row] = []
    transient: list[Row] = []
    for row in rows:
        (transient if row["transient"] else final).append(row)
    done = _table(final, run_id)
    if final:
        # A chunk file is never written over: one of this name holds the same cells at the same attempt.
        store.put_new(f"{CHUNKS}/{done['chunk'][0]}.parquet", parquet_bytes(done))
    if transient:
        tried = _table(transient, run_id)
        store.put(f"{ATTEMPTS}/{run_id}/{tried['chunk'][0]}-{trial}.parquet", parquet_bytes(tried))
    return done


def chunk_key(rows: Iterable[Row]) -> str:
    """Name of the file of these rows: a hash of nucleus, root id, centre and attempt of each, in any order.

    Raises
    ------
    TypeError
        An id is no integer.
    """
    columns = (*IDENTITY, "attempt")
    cells = sorted(",".join("" if row.get(n) is None else str(operator.index(row[n])) for n in columns) for row in rows)
    return hashlib.sha256("\n".join(cells).encode()).hexdigest()[:16]


def _table(rows: list[Row], run_id: str) -> pa.Table:
    shared = {
        "chunk": chunk_key(rows),
        "run": run_id,
        "finished": datetime.now(UTC),
        **features_versions(),
        "code_version": code_version(),
    }
    ordered = sorted(rows, key=operator.itemgetter("nucleus_id"))
    return pa.Table.from_pylist([{**row, **shared} for row in ordered], schema=CHUNK_SCHEMA)
