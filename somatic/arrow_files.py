"""Reading Parquet and Arrow files that a stranger may have written.

Arrow allocates columns as long as a file says they are, and trusts an Arrow file that its offsets lie in it. So what a
file says is compared with its length before a column is read, and what was read is looked through.
"""

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

import psutil
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

MOST_ROWS_PER_BYTE = 16
"""Rows with an id of their own take more room than this in any file."""
_MOST_COLUMNS = 10_000
_MOST_TIMES = 256


def read_parquet(source: bytes | IO[bytes], columns: Sequence[str] | None = None) -> pa.Table:
    """Read some columns of a Parquet file, those that it has; all when left out.

    Raises
    ------
    pyarrow.ArrowInvalid
        The file is damaged, or claims more rows than its length allows.
    """
    file, n_bytes = _file_and_length(source)
    parquet = pq.ParquetFile(file)
    _check_columns(parquet.schema_arrow, columns)
    # Looking at its columns here would end this process where their statistics are wrong; reading them does not.
    groups = (parquet.metadata.row_group(number).num_rows for number in range(parquet.num_row_groups))
    for n_rows in (parquet.metadata.num_rows, *groups):
        _check_rows(n_rows, n_bytes)
    return _without_pandas(parquet.read(columns=None if columns is None else list(columns), use_threads=False))


def read_arrow(source: bytes | IO[bytes], columns: Sequence[str] | None = None) -> pa.Table:
    """The same of a Feather (Arrow IPC) file.

    Raises
    ------
    pyarrow.ArrowInvalid
        As `read_parquet`; also of version 1 of Feather.
    """
    file, n_bytes = _file_and_length(source)
    reader = pa.ipc.open_file(file)
    _check_columns(reader.schema, columns)
    # This reads the headers of the record batches and no column.
    _check_rows(pa.dataset.IpcFileFormat().make_fragment(file).count_rows(), n_bytes)
    options = pa.ipc.IpcReadOptions(use_threads=False)
    if columns is not None:
        wanted = [number for number, name in enumerate(reader.schema.names) if name in columns]
        options = pa.ipc.IpcReadOptions(included_fields=wanted, use_threads=False)
    with _claims_refused(n_bytes):
        table = pa.ipc.open_file(file, options=options).read_all()
    # Lengths and offsets are those of the file.
    table.validate(full=True)
    return _without_pandas(table)


def column_names(source: IO[bytes], *, parquet: bool) -> list[str]:
    """Names of the columns of a Parquet or a Feather file.

    Raises
    ------
    pyarrow.ArrowInvalid
        The file is damaged.
    """
    schema = pq.read_schema(source) if parquet else pa.ipc.open_file(source).schema
    return schema.names


def _file_and_length(source: bytes | IO[bytes]) -> tuple[pa.NativeFile, int]:
    if isinstance(source, bytes):
        return pa.BufferReader(source), len(source)
    n_bytes = source.seek(0, os.SEEK_END)
    source.seek(0, io.SEEK_SET)
    return pa.PythonFile(source, mode="r"), n_bytes


def _check_columns(schema: pa.Schema, columns: Sequence[str] | None) -> None:
    if len(schema) > _MOST_COLUMNS:
        raise pa.ArrowInvalid(f"it has {len(schema)} columns")
    for field in schema:
        if (columns is None or field.name in columns) and isinstance(field.type, pa.BaseExtensionType):
            raise pa.ArrowInvalid(f"its column {field.name} holds values of the extension type {field.type}")


def _check_rows(n_rows: int, n_bytes: int) -> None:
    if not 0 <= n_rows <= MOST_ROWS_PER_BYTE * n_bytes:
        raise pa.ArrowInvalid(f"it claims {n_rows} rows in {n_bytes} bytes")


@contextmanager
def _claims_refused(n_bytes: int) -> Iterator[None]:
    """Have a lack of memory that no file of this length can cause be a fault of the file."""
    try:
        yield
    except MemoryError as error:
        if psutil.virtual_memory().available < _MOST_TIMES * n_bytes:
            raise
        raise pa.ArrowInvalid(f"its columns claim more memory than {n_bytes} bytes can take") from error


def _without_pandas(table: pa.Table) -> pa.Table:
    """Without what pandas noted, which it would parse and obey."""
    metadata = table.schema.metadata or {}
    return table.replace_schema_metadata({key: value for key, value in metadata.items() if key != b"pandas"} or None)
