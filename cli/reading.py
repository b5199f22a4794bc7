"""Reading a dataset, or a table of features, for a command."""

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    import pyarrow as pa

    from somatic.dataset import Dataset
    from somatic.storage.store import ResultStore


def read_dataset(name_or_path: str) -> "Dataset":
    """The dataset; what a person should know about its file is said on stderr."""
    from somatic.dataset import load_dataset

    dataset = load_dataset(name_or_path)
    for note in dataset.notes:
        typer.echo(f"somatic: note: {note}", err=True)
    return dataset


def open_result_set(results: str) -> "ResultStore":
    """The folder of a table of features, which may be named by the table in it."""
    from somatic.storage.places import FEATURES
    from somatic.storage.store import ResultStore

    return ResultStore(results.rstrip("/").removesuffix(f"/{FEATURES}"))


def read_features(results: str) -> "pa.Table":
    """The table of features of a folder of results.

    Raises
    ------
    StoreError, StoreUnavailable
        It cannot be read, for good or for now, or lacks a column.
    """
    from somatic.features import SCHEMA
    from somatic.storage.parquet import table_from_parquet
    from somatic.storage.places import FEATURES

    store = open_result_set(results)
    return table_from_parquet(store.get(FEATURES), store.url_of(FEATURES), SCHEMA.names, SCHEMA)
