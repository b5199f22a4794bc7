"""Tables as Parquet bytes: the same table gives the same bytes."""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from somatic.arrow_files import read_parquet
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


def table_from_parquet(
    data: bytes,
    where: str,
    columns: Sequence[str] | None = None,
    schema: pa.Schema | None = None,
    optional: Sequence[str] = (),
) -> pa.Table:
    """Table of a Parquet file, which a stranger may have written.

    Parameters
    ----------
    data : bytes
        Content of the file.
    where : str
        The file, as it is called in an error.
    columns : sequence of str, optional
        Those that are read and must be there; all when left out.
    schema : pyarrow.Schema, optional
        Columns that are in it come in its types, without nulls where it allows none and without NaN and infinities.
    optional : sequence of str
        Columns that are read besides where the file has them.

    Raises
    ------
    StoreError
        The bytes are no Parquet file, lack a column or hold something else in it.
    """
    try:
        table = read_parquet(data, [*columns, *optional] if columns else None)
    except MemoryError:
        # That of Arrow is an ArrowException as well.
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StoreError(f"{where} is no whole Parquet file ({one_line(error)}); move it away and run again") from error
    names = table.column_names
    if len(set(names)) < len(names):
        raise StoreError(f"{where} has two columns of one name; move it away and run again")
    absent = [name for name in columns or () if name not in names]
    if absent:
        raise StoreError(f"{where} has no column {', '.join(absent)}; move it away and run again")
    return table if schema is None else _conforming(table, schema, where)


def _conforming(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    for number, name in enumerate(table.column_names):
        if name in schema.names:
            field = schema.field(name)
            if table[name].type != field.type:
                try:
                    table = table.set_column(number, name, table[name].cast(field.type))
                except pa.ArrowException as error:
                    kind = table[name].type
                    raise StoreError(
                        f"{where}: the column {name} holds {kind}, not {field.type}; move it away and run again"
                    ) from error
            if fault := _fault_of(table[name], field):
                raise StoreError(f"{where}: the column {name} holds {fault}; move it away and run again")
    return table


def _fault_of(values: pa.ChunkedArray, field: pa.Field) -> str | None:
    if not field.nullable and values.null_count:
        return "a row without a value"
    if pa.types.is_floating(field.type) and pc.all(pc.is_finite(values)).as_py() not in (True, None):
        return "a value that is no finite number"
    return None


def check_once(table: pa.Table, where: str, column: str = "nucleus_id") -> None:
    """Make sure that a table has a row per nucleus.

    Raises
    ------
    StoreError
        It names a nucleus twice, or none; `where` is named.
    """
    if column not in table.column_names:
        raise StoreError(f"{where} has no column {column}; move it away and run again")
    if pc.count_distinct(table[column]).as_py() < table.num_rows:
        raise StoreError(f"{where} names a {column} twice; move it away and run again")


def get_tables(
    store: ResultStore,
    names: Sequence[str],
    columns: Sequence[str] | None = None,
    schema: pa.Schema | None = None,
) -> Iterator[pa.Table]:
    """Tables of many small Parquet files of a store, read by several threads, in the order of `names`.

    `columns` and `schema` are those of `table_from_parquet`.

    Raises
    ------
    StoreError, StoreUnavailable
        A file could not be read, for good or for now.
    """

    def get(name: str) -> pa.Table:
        return table_from_parquet(store.get(name), store.url_of(name), columns, schema)

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
