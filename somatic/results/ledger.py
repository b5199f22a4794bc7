"""What is done: the rows of all chunk files, and nothing else, decide."""

import threading
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from somatic.errors import CellKilled
from somatic.planning.plan import NULL, check_known
from somatic.results.chunks import CHUNK_SCHEMA, IDENTITY
from somatic.storage.parquet import get_tables, parquet_bytes, table_from_parquet
from somatic.storage.places import CHUNKS
from somatic.storage.store import ResultStore
from somatic.tables import Nuclei

_MORE_MEMORY = 1.25
"""A cell that was killed is tried again where there is more than so many times the memory."""

_AT_ONCE = 10_000

_COLUMNS = (*IDENTITY, "attempt", "status", "error_class", "memory_bytes")
_SNAPSHOT_SCHEMA = pa.schema([CHUNK_SCHEMA.field(name) for name in (*_COLUMNS, "chunk")])

_Identity = tuple[int, int, int, int, int]


class _Done(NamedTuple):
    attempt: int
    ok: bool
    killed_bytes: int
    """Memory there was when the cell was killed, 0 when it was not."""
    status: str
    error_class: str | None
    chunk: str


class Ledger:
    """Which cells are done, and at which attempt.

    A cell is a nucleus with its root id and its centre: another version of the nucleus table makes other cells.

    Parameters
    ----------
    memory_bytes : int, optional
        Memory there is for one cell. A cell that was killed where there was much less is not done then; without it,
        a killed cell is done.
    """

    def __init__(self, memory_bytes: int | None = None) -> None:
        self.memory_bytes = memory_bytes
        self._done: dict[_Identity, _Done] = {}
        self._read: set[str] = set()
        self._lock = threading.Lock()

    @classmethod
    def load(cls, store: ResultStore, memory_bytes: int | None = None) -> "Ledger":
        """Read the chunk files of a store.

        Raises
        ------
        StoreError, StoreUnavailable
            A file could not be read, for good or for now.
        """
        ledger = cls(memory_bytes)
        ledger.read_new(store)
        return ledger

    @classmethod
    def load_snapshot(cls, store: ResultStore, name: str, memory_bytes: int | None = None) -> "Ledger":
        """Read what `put_snapshot` wrote: one file in place of thousands.

        Raises
        ------
        StoreError, StoreUnavailable
            The file could not be read, for good or for now.
        """
        ledger = cls(memory_bytes)
        schema = _SNAPSHOT_SCHEMA
        ledger.add(table_from_parquet(store.get(name), store.url_of(name), schema.names, schema))
        return ledger

    def put_snapshot(self, store: ResultStore, name: str) -> None:
        """Write what is known to be done into one file, for `load_snapshot` in other processes.

        Raises
        ------
        StoreError, StoreUnavailable
            It was not written, for good or for now.
        """
        with self._lock:
            done = list(self._done.items())
        rows = [
            {
                **{name: None if value == NULL else value for name, value in zip(IDENTITY, cell, strict=True)},
                "attempt": was.attempt,
                "status": was.status,
                "error_class": was.error_class,
                "memory_bytes": was.killed_bytes or None,
                "chunk": was.chunk,
            }
            for cell, was in done
        ]
        store.put(name, parquet_bytes(pa.Table.from_pylist(rows, schema=_SNAPSHOT_SCHEMA)))

    def read_new(self, store: ResultStore) -> int:
        """Read the chunk files that are not known yet; give how many there were.

        Raises
        ------
        StoreError, StoreUnavailable
            A file could not be read, for good or for now.
        """
        names = [name for name in chunk_names(store) if name not in self._read]
        for table in get_tables(store, names, _SNAPSHOT_SCHEMA.names, _SNAPSHOT_SCHEMA):
            self.add(table)
        return len(names)

    def add(self, rows: pa.Table) -> None:
        """Note final rows (`put_rows` returns them); may be called from several threads."""
        with self._lock:
            # In pieces: the values of all rows of a large dataset as Python's objects would be the peak of a process.
            for some in rows.select(_SNAPSHOT_SCHEMA.names).to_batches(_AT_ONCE):
                self._add(some)

    def _add(self, rows: pa.RecordBatch) -> None:
        columns = [_values(column) for column in rows.columns]
        for *identity, attempt, status, error_class, memory_bytes, chunk in zip(*columns, strict=True):
            cell = _cell(identity)
            killed = error_class == CellKilled.__name__
            new = _Done(attempt, status == "ok", (memory_bytes or 0) if killed else 0, status, error_class, chunk)
            self._read.add(_file_name(chunk))
            # The highest attempt wins, and of two equal ones that which is ok.
            if cell not in self._done or new[:3] > self._done[cell][:3]:
                self._done[cell] = new

    def is_done(self, rows: pd.DataFrame) -> npt.NDArray[np.bool_]:
        """Which rows of a plan need nothing any more.

        Parameters
        ----------
        rows : pandas.DataFrame
            Columns of `Plan.rows`.

        Returns
        -------
        (n,) bool
        """
        found = self._found(rows, "soma_id")
        planned = rows["attempt"].tolist()
        return np.array(
            [done is not None and self._counts(done, attempt) for done, attempt in zip(found, planned, strict=True)],
            dtype=bool,
        )

    def count(self, rows: pd.DataFrame) -> Counter[str]:
        """How many rows of a plan need nothing any more, by status."""
        found = zip(self._found(rows, "soma_id"), rows["attempt"].tolist(), strict=True)
        return Counter(done.status for done, attempt in found if done and self._counts(done, attempt))

    def missing(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows of a plan that are still to be measured.

        Their attempt is as planned, or one more than the last for a killed cell that now has more memory.
        """
        missing = rows[~self.is_done(rows)].copy()
        last = [done.attempt if done else 0 for done in self._found(missing, "soma_id")]
        planned = missing["attempt"].to_numpy()
        killed = np.array(last, dtype=np.int64) >= planned
        missing["attempt"] = np.where(killed, np.array(last, dtype=np.int64) + 1, planned)
        return missing

    def next_attempts(
        self, nuclei: Nuclei, *, retry: Literal["failed"] | Collection[int] = (), force: bool = False
    ) -> dict[int, int]:
        """Numbers of attempts for `make_plan` that make it measure again what is done.

        Parameters
        ----------
        nuclei : Nuclei
            All nuclei of the dataset at this version.
        retry : "failed" or collection of int
            The cells whose last attempt failed for a permanent reason, or these nuclei.
        force : bool
            Everything.

        Returns
        -------
        dict of int to int
            Nucleus id to attempt, without the nuclei that were never measured.

        Raises
        ------
        PermanentError
            An id is not in the table.
        """
        if retry != "failed":
            check_known(nuclei, retry)
        wanted = set() if retry == "failed" else set(retry)
        return {
            nucleus_id: done.attempt + 1
            for nucleus_id, done in zip(
                nuclei.frame["nucleus_id"].tolist(), self._found(nuclei.frame, "root_id"), strict=True
            )
            if done and (force or nucleus_id in wanted or (retry == "failed" and done.status == "failed"))
        }

    def _counts(self, done: _Done, planned_attempt: int) -> bool:
        if done.attempt < planned_attempt:
            return False
        more = self.memory_bytes is not None and self.memory_bytes > _MORE_MEMORY * done.killed_bytes
        return not (done.killed_bytes and more)

    def _found(self, frame: pd.DataFrame, root_column: str) -> Iterator[_Done | None]:
        columns = [frame[root_column if name == "soma_id" else name].tolist() for name in IDENTITY]
        return (self._done.get(_cell(identity)) for identity in zip(*columns, strict=True))


def chunk_names(store: ResultStore) -> list[str]:
    """Names of all chunk files of a store, sorted.

    Raises
    ------
    StoreError, StoreUnavailable
        The place could not be read, for good or for now.
    """
    return [_file_name(name.removesuffix(".parquet")) for name in store.names(CHUNKS) if name.endswith(".parquet")]


def _values(column: pa.Array) -> list[Any]:
    # pandas makes one string of equal ones: a status stands in thousands of rows, the name of a file in ten.
    return column.to_pandas().tolist() if pa.types.is_string(column.type) else column.to_pylist()


def _file_name(chunk: str) -> str:
    return f"{CHUNKS}/{chunk}.parquet"


def _cell(identity: Sequence[int | None]) -> _Identity:
    nucleus_id, root_id, *centre_vx = identity
    x, y, z = (NULL if c is None or c is pd.NA else c for c in centre_vx)
    return (nucleus_id, root_id, x, y, z)  # type: ignore[return-value]
