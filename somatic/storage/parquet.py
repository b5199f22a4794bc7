"""Tables as Parquet bytes: the same table gives the same bytes."""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from somatic.errors import StoreError, one_line
from somatic.storage.store import ResultStore

_ROW_GROUP = 65_536
_FEW = 1_000
_AT_ONCE = 500


def parquet_bytes(table: pa.Table) -> bytes:
    """Parquet file of a table, with settings that depend on nothing but the table.

    Parameters
    ----------
    table : pyarrow.Table
        Its schema metadata is kept; a table from pandas carries versions there, so convert with an explicit schema.

    Raises
    ------
    pyarrow.ArrowInvalid
        A column that must not be null holds a null.
    """
    table.validate(full=True)
    # Gives its bytes without a copy, which an Arrow buffer does not.
    sink = io.BytesIO()
    # In a file of a few rows dictionaries and statistics are the larger part, and cost most of the reading.
    few = table.num_rows < _FEW
    pq.write_table(
        table,
        sink,
        compression="snappy" if few else "zstd",
        use_dictionary=not few,
        write_statistics=not few,
        row_group_size=_ROW_GROUP,
        version="2.6",
    )
    return sink.getvalue()


def table_from_parquet(data: bytes, where: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Table of a Parquet file.

    Raises
    ------
    StoreError
        The bytes are no Parquet file or lack a column; `where` is named.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        table = file.read(columns=list(columns) if columns else None, use_threads=False)
    except MemoryError:
        # That of Arrow is an ArrowException as well.
        raise
    except pa.ArrowException as error:
        raise StoreError(f"{where} is no whole Parquet file ({one_line(error)}); move it away and run again") from error
    absent = [name for name in columns or () if name not in table.column_names]
    if absent:
        raise StoreError(f"{where} has no column {', '.join(absent)}; move it away and run again")
    return table


def get_tables(store: ResultStore, names: Sequence[str], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Tables of many small Parquet files of a store, read by several threads, in the order of `names`.

    Raises
    ------
    StoreError, StoreUnavailable
        A file could not be read, for good or for now.
    """

    def get(name: str) -> pa.Table:
        return table_from_parquet(store.get(name), store.url_of(name), columns)

    with ThreadPoolExecutor(max_workers=16) as pool:
        for start in range(0, len(names), _AT_ONCE):
            yield from pool.map(get, names[start : start + _AT_ONCE])


def shaped(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of a schema, in its order and types; null where the table, as one of an older somatic, has none."""
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)
