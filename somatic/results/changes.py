"""changes.parquet: what is different between two tables of features."""

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from somatic.features import CENTRE_COLUMNS, COLUMNS, MEASURED, SCHEMA, Column
from somatic.results.chunks import CHUNK_SCHEMA
from somatic.results.compare import compare
from somatic.storage.parquet import check_once, parquet_bytes, table_from_parquet
from somatic.storage.places import CHANGES, FEATURES, NUCLEI, PROVENANCE
from somatic.storage.store import ResultStore

DIFFERENCE_COLUMNS = (
    Column("added", pa.bool_(), "", "only the later table has the nucleus", nullable=False),
    Column("gone", pa.bool_(), "", "only the earlier table has the nucleus", nullable=False),
    Column("re_rooted", pa.bool_(), "", "the root id is another", nullable=False),
    Column("moved", pa.bool_(), "", "the centre of the cutout is another", nullable=False),
    Column("recomputed", pa.bool_(), "", "the soma was measured again for the later table", nullable=False),
    Column("changed", pa.bool_(), "", "a feature has another value, or a value in one table only", nullable=False),
)
"""How a nucleus can differ; the last four can be true only of nuclei that both tables have."""

_CENTRE = tuple(column.name for column in CENTRE_COLUMNS)
PAIRS = ("materialization_version", "soma_id", "status", *_CENTRE, *MEASURED)
"""Columns of the table of features that stand here twice, with `_before` and `_after` behind the name."""

CHANGE_WORDS = {
    "nuclei": "of which anything is different",
    "added": "added",
    "gone": "gone",
    "re_rooted": "with another root id",
    "moved": "with another centre",
    "recomputed": "measured again",
    "changed": "with another value of a feature",
}
"""What is said of the nuclei that `count_changes` counts."""

_BY_NAME = {column.name: column for column in COLUMNS}
_BEFORE, _AFTER = "_before", "_after"


def _pair(column: Column) -> tuple[Column, ...]:
    return tuple(
        Column(
            column.name + suffix,
            column.type,
            column.unit,
            f"{column.description}; in the {which} table",
            nullable=column.name != "soma_id",
        )
        for suffix, which in ((_BEFORE, "earlier"), (_AFTER, "later"))
    )


CHANGE_COLUMNS = (
    _BY_NAME["nucleus_id"],
    *DIFFERENCE_COLUMNS,
    *(column for name in PAIRS for column in _pair(_BY_NAME[name])),
)
"""Every column in the order of the file."""

CHANGE_SCHEMA = pa.schema([column.field for column in CHANGE_COLUMNS])


def find_changes(before: pa.Table, after: pa.Table, provenance: pa.Table | None = None) -> pa.Table:
    """Find the nuclei of which anything is different between two tables of features.

    Parameters
    ----------
    before, after : pyarrow.Table
        Columns of `somatic.features.SCHEMA`, each nucleus once, each table of one materialization version. A column
        that is missing counts as null.
    provenance : pyarrow.Table, optional
        Of the later table: `nucleus_id`, `soma_source`. Without it nothing is said to be recomputed.

    Returns
    -------
    pyarrow.Table
        Columns of `CHANGE_COLUMNS`, sorted by nucleus id. A nucleus stands in it when one of the flags is true or its
        status is another. Values are compared exactly; columns that tell of the run and of the other nuclei
        (materialization_version, n_nuclei_in_segment, reason) make no row.
    """
    ids_before, ids_after = _ids(before), _ids(after)
    ids = np.union1d(ids_before, ids_after)
    in_both = np.isin(ids, ids_before) & np.isin(ids, ids_after)
    old, new = _rows_of(before, ids), _rows_of(after, ids)
    version_before, version_after = _version(before), _version(after)

    def differ(*names: str) -> npt.NDArray[np.bool_]:
        return in_both & np.any([_differ(old[name], new[name]) for name in names], axis=0)

    flags = {
        "added": ~np.isin(ids, ids_before),
        "gone": ~np.isin(ids, ids_after),
        "re_rooted": differ("soma_id"),
        "moved": differ(*_CENTRE),
        "recomputed": in_both & np.isin(ids, _measured(provenance)),
        "changed": differ(*MEASURED),
    }
    columns = {"nucleus_id": pa.array(ids), **{name: pa.array(flag) for name, flag in flags.items()}}
    for name in PAIRS:
        columns[name + _BEFORE], columns[name + _AFTER] = old[name], new[name]
    for name in ("soma_id_before", "soma_id_after"):
        columns[name] = columns[name].fill_null(0)
    # True of the whole table, so of a nucleus that it lacks too.
    columns["materialization_version_before"] = pa.array([version_before] * len(ids), pa.int64())
    columns["materialization_version_after"] = pa.array([version_after] * len(ids), pa.int64())
    is_row = np.any([*flags.values(), differ("status")], axis=0)
    table = pa.Table.from_arrays([columns[name] for name in CHANGE_SCHEMA.names], schema=CHANGE_SCHEMA)
    return table.filter(pa.array(is_row)).combine_chunks()


def put_changes(store: ResultStore, base: ResultStore) -> pa.Table:
    """Write changes.parquet of a set of results against an earlier one, and give its table.

    A nucleus that a table lacks although its version has it was not asked for there: it is neither added nor gone, and
    has no row.

    Parameters
    ----------
    store, base : ResultStore
        Where the results of the later and of the earlier version lie.

    Raises
    ------
    StoreError, StoreUnavailable
        A table could not be read, or the file not written, for good or for now.
    """
    before, after = _get(base, FEATURES), _get(store, FEATURES)
    not_asked = pa.array(np.union1d(_not_asked(base, before), _not_asked(store, after)), pa.int64())
    before, after = (table.filter(pc.invert(pc.is_in(table["nucleus_id"], not_asked))) for table in (before, after))
    changes = find_changes(before, after, _get(store, PROVENANCE, "nucleus_id", "soma_source"))
    store.put(CHANGES, parquet_bytes(changes))
    return changes


def count_changes(changes: pa.Table) -> dict[str, int]:
    """How many nuclei are in a table of changes, and of how many each flag is true."""
    flags = {column.name: pc.sum(changes[column.name]).as_py() or 0 for column in DIFFERENCE_COLUMNS}
    return {"nuclei": changes.num_rows, **flags}


def compare_features(changes: pa.Table) -> pd.DataFrame:
    """How far each feature moved, and on which cells most, relative to the earlier value.

    Returns
    -------
    pandas.DataFrame
        `somatic.results.compare.Comparison.features` of those nuclei of a table of changes that both tables have.
    """
    in_both = changes.filter(pc.invert(pc.or_(changes["added"], changes["gone"])))
    after, before = (
        in_both.select(["nucleus_id", *(name + suffix for name in MEASURED)])
        .rename_columns(["nucleus_id", *MEASURED])
        .to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
        for suffix in (_AFTER, _BEFORE)
    )
    return compare(after, before).features


def _get(store: ResultStore, name: str, *columns: str) -> pa.Table:
    table = table_from_parquet(store.get(name), store.url_of(name), columns, CHUNK_SCHEMA)
    check_once(table, store.url_of(name))
    return table


def _not_asked(store: ResultStore, table: pa.Table) -> npt.NDArray[np.int64]:
    """Nuclei of a version that its table lacks."""
    return np.setdiff1d(_get(store, NUCLEI, "nucleus_id")["nucleus_id"].to_numpy(), _ids(table))


def _ids(table: pa.Table) -> npt.NDArray[np.int64]:
    return table["nucleus_id"].to_numpy()


def _rows_of(table: pa.Table, ids: npt.NDArray[np.int64]) -> pa.Table:
    """Rows of these nuclei, in this order; all null for one that the table does not have."""
    whole = pa.concat_tables([table, SCHEMA.empty_table()], promote_options="default").combine_chunks()
    row = pd.Index(_ids(whole)).get_indexer(pd.Index(ids))
    return whole.take(pa.array(row, mask=row < 0))


def _version(table: pa.Table) -> int | None:
    known = table.num_rows and "materialization_version" in table.column_names
    return table["materialization_version"][0].as_py() if known else None


def _measured(provenance: pa.Table | None) -> npt.NDArray[np.int64]:
    """Nuclei whose soma was measured for a table."""
    if provenance is None:
        return np.empty(0, dtype=np.int64)
    return _ids(provenance.filter(pc.fill_null(pc.equal(provenance["soma_source"], "measured"), False)))


def _differ(old: pa.ChunkedArray, new: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Where two columns have another value, or just one of them has a value."""
    one_sided = pc.xor(pc.is_null(old), pc.is_null(new))
    return pc.coalesce(pc.not_equal(old, new), one_sided).to_numpy(zero_copy_only=False)
