"""Queries of the tables and views of one materialization version: metadata, columns, counts and rows."""

import math
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from somatic.cave.datastack import CaveDatastack, Kind
from somatic.cave.errors import CaveNotFound
from somatic.cave.id_pages import all_rows
from somatic.errors import DatasetError
from somatic.tables import Resolution, no_such_column, position_columns

if TYPE_CHECKING:
    from somatic.cave.client import Client


class VersionQueries:
    """Answers of one materialization version about its tables and views. May be used by several threads.

    Parameters
    ----------
    datastack : CaveDatastack
    client : Client
        Connected to it.
    version : int
        Materialization version.
    """

    def __init__(self, datastack: CaveDatastack, client: "Client", version: int):
        self._datastack = datastack
        self._client = client
        self._version = version
        # caveclient's own caches of metadata are not made for threads.
        self._lock = threading.RLock()
        self._known_metadata: dict[tuple[Kind, str], dict[str, Any]] = {}
        self._known_columns: dict[tuple[Kind, str, bool], list[str]] = {}

    def where(self, kind: Kind, name: str) -> str:
        """What a table or view is called in an error."""
        return f"{kind} {name} of {self._client.datastack_name}, version {self._version}"

    def rows(
        self,
        kind: Kind,
        name: str,
        columns: list[str] | None = None,
        *,
        merged: bool = False,
        resolution_nm: Resolution | None = None,
        **filters: Any,
    ) -> pd.DataFrame:
        """All rows that pass some filters, in no particular order, however many queries that takes.

        Parameters
        ----------
        kind, name : str
        columns : list of str, optional
            All when left out.
        merged : bool
            Whether a reference table comes joined with the table that it refers to, whose columns get the suffix
            `_ref` where both tables have them. Its rows without a counterpart are missing then.
        resolution_nm : (3,) float, optional
            Voxels in which positions come; those of the table when left out.
        **filters
            As caveclient takes them, but none on `id`.

        Raises
        ------
        CaveError, CaveUnavailable
            As for `CaveTables`.
        """
        options = filters | {"select_columns": columns}
        if resolution_nm is not None:
            options["desired_resolution"] = list(resolution_nm)
        return all_rows(partial(self._query, kind, name, merged, options), self.where(kind, name))

    def count(self, kind: Kind, name: str) -> int:
        """Rows that a table or view has."""
        frame, _ = self._query(kind, name, False, {"get_counts": True})
        return int(frame["count"].iloc[0])

    def columns(
        self, kind: Kind, name: str, *, merged: bool = False, resolution_nm: Resolution | None = None
    ) -> list[str]:
        """Columns of a table or view, as `rows` gives them; requested once.

        A filter on a column that does not exist would give an error that says nothing.
        """
        with self._lock:
            key = (kind, name, merged)
            if key not in self._known_columns:
                self.metadata(kind, name)  # tells an unknown name from other failures
                options: dict[str, Any] = {"limit": 1}
                if resolution_nm is not None:
                    options["desired_resolution"] = list(resolution_nm)
                frame, _ = self._query(kind, name, merged, options)
                self._known_columns[key] = list(frame.columns)
            return self._known_columns[key]

    def check_columns(self, columns: list[str], needed: list[str], where: str) -> None:
        """Check that some columns, or the three parts of a position, are there.

        Raises
        ------
        DatasetError
            One is missing; says which columns there are.
        """
        for column in needed:
            if column not in columns and not position_columns(columns, column):
                raise no_such_column(column, columns, where)

    def reference_table(self, kind: Kind, name: str) -> str | None:
        """Name of the table that a reference table refers to; None for any other table, and for views."""
        return self.metadata(kind, name).get("reference_table") or None

    def resolution_nm(self, kind: Kind, name: str) -> Resolution:
        """Size of a voxel of the positions of a table or view.

        Raises
        ------
        DatasetError
            CAVE has none for it, so that no query of positions works.
        """
        metadata = self.metadata(kind, name)
        sizes = metadata.get("voxel_resolution") or [metadata.get(f"voxel_resolution_{axis}") for axis in "xyz"]
        if len(sizes) != 3 or not all(isinstance(size, int | float) and 0 < size < math.inf for size in sizes):
            raise DatasetError(
                f"{self.where(kind, name)}: CAVE has no voxel resolution for it, but {sizes}; have the owners of the "
                "datastack set it"
            )
        x_nm, y_nm, z_nm = map(float, sizes)
        return x_nm, y_nm, z_nm

    def metadata(self, kind: Kind, name: str) -> dict[str, Any]:
        """What CAVE says about a table or view; requested once.

        Raises
        ------
        CaveError
            No such table or view; says the nearest names. Or the version is gone.
        """
        with self._lock:
            if (kind, name) not in self._known_metadata:
                self._known_metadata[kind, name] = self._query_metadata(kind, name)
            return self._known_metadata[kind, name]

    def _query_metadata(self, kind: Kind, name: str) -> dict[str, Any]:
        materialize = self._client.materialize

        def ask() -> dict[str, Any]:
            if kind == "view":
                return materialize.get_view_metadata(name, materialization_version=self._version, log_warning=False)
            return materialize.get_table_metadata(name, version=self._version, log_warning=False)

        try:
            return self._datastack.ask(self.where(kind, name), ask)
        except CaveNotFound as error:
            self._datastack.check_there(self._version)
            raise CaveNotFound(self._datastack.no_such_table(kind, name, self._version) or str(error)) from None

    def _query(
        self, kind: Kind, name: str, merged: bool, options: dict[str, Any], filters: dict[str, Any] | None = None
    ) -> tuple[pd.DataFrame, bool]:
        """Rows, and whether the server left some out."""
        materialize = self._client.materialize
        options = options | (filters or {})
        options |= {"materialization_version": self._version, "split_positions": True}
        options |= {"metadata": False}  # else each query is two requests

        def ask() -> tuple[pd.DataFrame, bool]:
            if kind == "view":
                frame = materialize.query_view(name, **options)
            else:
                frame = materialize.query_table(name, merge_reference=merged, log_warning=False, **options)
            return frame, self._client.truncated

        try:
            return self._datastack.ask(self.where(kind, name), ask, give_up_s=self._client.patience.query_give_up_s)
        except CaveNotFound:
            # That a version is gone since it was opened is one of the things that CAVE words so.
            self._datastack.check_there(self._version)
            raise
