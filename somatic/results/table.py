"""features.parquet and provenance.parquet: the table of a result set, and what is noted of its rows."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
import pyarrow as pa

from somatic.errors import StoreError
from somatic.features import COLUMNS, SCHEMA, features_versions
from somatic.planning.plan import Plan
from somatic.results.chunks import PROVENANCE_COLUMNS
from somatic.results.collect import COUNTED, Counts, count, failure_frame, of_plan
from somatic.storage.parquet import check_once, parquet_bytes, shaped, table_from_parquet
from somatic.storage.places import FEATURES, PROVENANCE
from somatic.storage.store import ResultStore

_ONE_VERSION = "features_version"
"""Column of provenance.parquet from before soma, nucleus and synapses had versions of their own."""

PROVENANCE_SCHEMA = pa.schema([column.field for column in (*COLUMNS[:2], *PROVENANCE_COLUMNS)])
"""Columns of provenance.parquet: nucleus_id, soma_id, then `PROVENANCE_COLUMNS`."""


@dataclass(frozen=True, eq=False)
class Collected:
    """What `put_tables` wrote.

    Attributes
    ----------
    planned, table : Counts
        Of the nuclei of the plan, and of all rows of features.parquet, which may hold more.
    failures : pandas.DataFrame
        The nuclei of the plan that failed: `nucleus_id`, `soma_id` int64, `reason`, `error_class`, `transient`.
    features : bytes
        Content of features.parquet.
    """

    planned: Counts
    table: Counts
    failures: pd.DataFrame
    features: bytes

    @property
    def sha256(self) -> str:
        """Of features.parquet."""
        return hashlib.sha256(self.features).hexdigest()


class Tables(NamedTuple):
    """The table of a result set, its provenance with the same nuclei in the same order, and the table's SHA-256."""

    features: pa.Table
    provenance: pa.Table
    sha256: str


def put_tables(store: ResultStore, plan: Plan, rows: pa.Table) -> Collected:
    """Write features.parquet and provenance.parquet.

    Parameters
    ----------
    store : ResultStore
        Where the result set lies.
    plan : Plan
        What had to be done.
    rows : pyarrow.Table
        From `somatic.results.collect.gather`.

    Returns
    -------
    Collected
        The bytes of features.parquet depend on the results alone, not on chunks, order or time. Its schema has
        `features_versions` as metadata.

    Raises
    ------
    StoreError, StoreUnavailable
        A file was not written, for good or for now.
    """
    versions = {name: str(version) for name, version in features_versions().items()}
    features = parquet_bytes(shaped(rows, SCHEMA).replace_schema_metadata(versions))
    store.put(PROVENANCE, parquet_bytes(shaped(rows, PROVENANCE_SCHEMA)))
    store.put(FEATURES, features)
    # Not the numbers, which would be another copy of the whole table.
    planned = of_plan(rows.select(COUNTED), plan)
    return Collected(count(planned), count(rows), failure_frame(planned), features)


def load_tables(store: ResultStore, columns: Sequence[str] | None = None) -> Tables:
    """Read features.parquet and provenance.parquet.

    Parameters
    ----------
    store : ResultStore
        Where the result set lies.
    columns : sequence of str, optional
        Those of `PROVENANCE_SCHEMA` that are read, `nucleus_id` among them; all when left out.

    Returns
    -------
    Tables
        Columns of `SCHEMA`, and those of `PROVENANCE_SCHEMA`; null where an older somatic did not write them.

    Raises
    ------
    StoreError, StoreUnavailable
        One could not be read, for good or for now, is damaged, or they have other nuclei.
    """
    data = store.get(FEATURES)
    features = _read(data, store.url_of(FEATURES), SCHEMA, [field.name for field in SCHEMA if not field.nullable])
    schema = pa.schema([PROVENANCE_SCHEMA.field(name) for name in columns or PROVENANCE_SCHEMA.names])
    provenance = _read(store.get(PROVENANCE), store.url_of(PROVENANCE), schema, ["nucleus_id"])
    check_once(features, store.url_of(FEATURES))
    if not features["nucleus_id"].equals(provenance["nucleus_id"]):
        raise StoreError(f"{store.url_of(PROVENANCE)} has other nuclei than {FEATURES} beside it")
    return Tables(features, provenance, hashlib.sha256(data).hexdigest())


def _read(data: bytes, where: str, schema: pa.Schema, needed: Sequence[str]) -> pa.Table:
    others = [name for name in schema.names if name not in needed]
    table = table_from_parquet(data, where, needed, schema, optional=[*others, _ONE_VERSION])
    if _ONE_VERSION in table.column_names:
        for name in features_versions():
            table = table.append_column(name, table[_ONE_VERSION])
    return shaped(table, schema)
