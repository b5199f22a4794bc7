"""Nuclei, synapses and versions of a CAVE datastack."""

import threading
from datetime import datetime
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from somatic.cave.calls import Patience, RateLimiter
from somatic.cave.datastack import CaveDatastack, Kind, Version, versions
from somatic.cave.errors import CaveNotFound
from somatic.cave.id_pages import all_rows
from somatic.dataset import CaveSource
from somatic.errors import CaveError, DatasetError
from somatic.tables import (
    Nuclei,
    Resolution,
    Synapses,
    no_such_column,
    nuclei_from_raw,
    position_columns,
    synapses_from_raw,
)

__all__ = ["CaveTables", "Version", "versions"]

ROOTS_PER_QUERY = 100
"""Roots whose synapses are asked for at once: CAVE limits queries a minute, not roots a query."""


class CaveTables:
    """Nuclei and synapses of one materialization version. May be used by several threads.

    It holds the token: open it where it is needed, it can be neither pickled nor sent.

    Parameters
    ----------
    cave : CaveSource
        Server, datastack, and the names of the tables.
    version : int or "latest"
        Materialization version; "latest" is the newest that has not expired.
    patience : Patience, optional
        Time-outs and retries.
    limiter : RateLimiter, optional
        Default: the one that this process shares for the server.

    Raises
    ------
    CaveTokenError
        No token, one that CAVE does not know, or one without the permission.
    CaveError
        No such datastack, no such version, or one that has expired; says which there are.
    CaveUnavailable
        The server did not answer.
    """

    def __init__(
        self,
        cave: CaveSource,
        version: int | Literal["latest"] = "latest",
        patience: Patience | None = None,
        limiter: RateLimiter | None = None,
    ):
        from somatic.cave.client import connect

        self._cave = cave
        self._client = connect(cave, patience, limiter)
        self._datastack = CaveDatastack(cave, self._client)
        self._version = self._datastack.resolve(version)
        # caveclient's own caches of metadata are not made for threads.
        self._lock = threading.RLock()
        self._known_metadata: dict[tuple[Kind, str], dict[str, Any]] = {}
        self._known_columns: dict[tuple[Kind, str], list[str]] = {}

    def __repr__(self) -> str:
        return f"CaveTables({self._cave.datastack}, version {self.version}, {self._cave.server})"

    @property
    def version(self) -> int:
        """Materialization version."""
        return self._version.number

    @property
    def timestamp(self) -> datetime:
        """The moment of the version's root ids, UTC."""
        return self._version.timestamp

    @property
    def segmentation_source(self) -> str | None:
        """Cloudpath of the datastack's segmentation, None where it names none."""
        return self._client.info.get_datastack_info().get("segmentation_source") or None

    @property
    def nucleus_segmentation(self) -> str | None:
        """Cloudpath of the layer whose segment ids are the nucleus ids: of the dataset, else of CAVE's table.

        Views do not name one.
        """
        if self._cave.nucleus_segmentation is not None or self._cave.nuclei.table is None:
            return self._cave.nucleus_segmentation
        metadata = self._metadata("table", self._cave.nuclei.table)
        source = metadata.get("flat_segmentation_source")
        if not source and metadata.get("reference_table"):
            source = self._metadata("table", metadata["reference_table"]).get("flat_segmentation_source")
        return source or None

    @property
    def synapse_resolution_nm(self) -> Resolution | None:
        """Size of a voxel of the synapse table's positions; None when the dataset has no synapses."""
        return self._resolution_nm("table", self._cave.synapses) if self._cave.synapses else None

    def nuclei(self) -> Nuclei:
        """All nuclei; those without a root too, with root id 0.

        Raises
        ------
        DatasetError
            The table is empty, lacks a column (says which it has), or names a nucleus twice.
        CaveError
            No such table or view (says the nearest names), no permission, or the counts differ.
        CaveUnavailable
            The server did not answer.
        """
        name, position = self._cave.nuclei.name, self._cave.nuclei.position
        kind: Kind = "view" if self._cave.nuclei.view else "table"
        where = self._where(kind, name)
        columns = ["id", "pt_root_id", position]
        self._check_columns(kind, name, columns)
        options: dict[str, Any] = {"select_columns": columns}
        reference = self._reference_table(kind, name)
        if reference:
            # A joined table has its columns from two tables; which has which is not known beforehand.
            options = {"desired_resolution": list(self._resolution_nm("table", reference))}
        resolution_nm = self._resolution_nm("table", reference) if reference else self._resolution_nm(kind, name)

        raw = all_rows(partial(self._query, kind, name, options), where)
        if not reference:
            self._check_count(kind, name, len(raw))
        return nuclei_from_raw(raw, position_column=position, resolution_nm=resolution_nm, where=where)

    def synapses(self, root_ids: npt.ArrayLike, lower_nm: npt.ArrayLike, upper_nm: npt.ArrayLike) -> Synapses | None:
        """Synapses onto any of the roots, in a box; those of a root onto itself left out.

        Parameters
        ----------
        root_ids : (n,) int64
            Postsynaptic roots; 0 and 1 mean none and are passed over.
        lower_nm, upper_nm : (3,) float
            Box for post_pt_position (ctr_pt_position where the table has no other), inclusive. It is widened to
            whole voxels of the synapse table, and by one more.

        Returns
        -------
        Synapses or None
            None when the dataset has no synapse table.

        Raises
        ------
        DatasetError
            The table lacks a column; says which it has.
        CaveError
            No such table, or no permission.
        CaveUnavailable
            The server did not answer.
        """
        name = self._cave.synapses
        if name is None:
            return None
        roots, where = _roots(root_ids), self._where("table", name)
        columns = ["id", "pre_pt_root_id", "post_pt_root_id", "ctr_pt_position"]
        self._check_columns("table", name, columns)
        in_box = "ctr_pt_position"
        if position_columns(self._columns("table", name), "post_pt_position"):
            in_box = "post_pt_position"
            columns.append(in_box)
        if "size" in self._columns("table", name):
            columns.append("size")
        resolution_nm = self._resolution_nm("table", name)
        box_vx = _voxel_box(lower_nm, upper_nm, resolution_nm)

        pages = []
        for start in range(0, len(roots), ROOTS_PER_QUERY):
            options = {
                "select_columns": columns,
                "filter_in_dict": {"post_pt_root_id": roots[start : start + ROOTS_PER_QUERY]},
                "filter_spatial_dict": {in_box: box_vx},
            }
            pages.append(all_rows(partial(self._query, "table", name, options), where))
        raw = pd.concat(pages, ignore_index=True) if pages else pd.DataFrame(columns=columns, dtype="int64")
        return synapses_from_raw(raw, resolution_nm=resolution_nm, where=where)

    def _query(
        self, kind: Kind, name: str, options: dict[str, Any], filters: dict[str, Any] | None = None
    ) -> tuple[pd.DataFrame, bool]:
        """Rows, and whether the server left some out."""
        materialize = self._client.materialize
        options = options | (filters or {})
        options |= {"materialization_version": self.version, "split_positions": True}
        options |= {"metadata": False}  # else each query is two requests

        def ask() -> tuple[pd.DataFrame, bool]:
            if kind == "view":
                frame = materialize.query_view(name, **options)
            else:
                joined = self._reference_table(kind, name) is not None
                frame = materialize.query_table(name, merge_reference=joined, log_warning=False, **options)
            return frame, self._client.truncated

        try:
            return self._datastack.ask(self._where(kind, name), ask, give_up_s=self._client.patience.query_give_up_s)
        except CaveNotFound:
            # A version that has expired since it was opened is one of the things that CAVE words so.
            self._datastack.check_there(self.version)
            raise

    def _check_columns(self, kind: Kind, name: str, needed: list[str]) -> None:
        columns, where = self._columns(kind, name), self._where(kind, name)
        for column in needed:
            if column not in columns and not position_columns(columns, column):
                raise no_such_column(column, columns, where)

    def _columns(self, kind: Kind, name: str) -> list[str]:
        """Columns of a table, asked for once: a filter on one that is missing gives an error that says nothing."""
        with self._lock:
            if (kind, name) not in self._known_columns:
                self._metadata(kind, name)  # tells an unknown name from other failures
                frame, _ = self._query(kind, name, {"limit": 1})
                self._known_columns[kind, name] = list(frame.columns)
            return self._known_columns[kind, name]

    def _check_count(self, kind: Kind, name: str, n_rows: int) -> None:
        frame, _ = self._query(kind, name, {"get_counts": True})
        counted = int(frame["count"].iloc[0])
        if counted != n_rows:
            raise CaveError(
                f"{self._where(kind, name)}: {n_rows} rows came, but the server counts {counted}; "
                "rows without an id, or a server that does not filter as it should"
            )

    def _reference_table(self, kind: Kind, name: str) -> str | None:
        return self._metadata(kind, name).get("reference_table") or None

    def _resolution_nm(self, kind: Kind, name: str) -> Resolution:
        metadata = self._metadata(kind, name)
        sizes = metadata.get("voxel_resolution") or [metadata.get(f"voxel_resolution_{axis}") for axis in "xyz"]
        if not all(isinstance(size, int | float) and size > 0 for size in sizes):
            raise DatasetError(
                f"{self._where(kind, name)}: CAVE gives no voxel resolution for it, but {sizes}; "
                "ask the owners of the datastack to set it"
            )
        x_nm, y_nm, z_nm = map(float, sizes)
        return x_nm, y_nm, z_nm

    def _metadata(self, kind: Kind, name: str) -> dict[str, Any]:
        with self._lock:
            if (kind, name) not in self._known_metadata:
                self._known_metadata[kind, name] = self._ask_metadata(kind, name)
            return self._known_metadata[kind, name]

    def _ask_metadata(self, kind: Kind, name: str) -> dict[str, Any]:
        materialize = self._client.materialize

        def ask() -> dict[str, Any]:
            if kind == "view":
                return materialize.get_view_metadata(name, materialization_version=self.version, log_warning=False)
            return materialize.get_table_metadata(name, version=self.version, log_warning=False)

        try:
            return self._datastack.ask(self._where(kind, name), ask)
        except CaveNotFound as error:
            raise CaveError(self._datastack.no_such_table(kind, name, self.version) or str(error)) from None

    def _where(self, kind: Kind, name: str) -> str:
        return f"{kind} {name} of {self._cave.datastack}, version {self.version}"


def _roots(root_ids: npt.ArrayLike) -> list[int]:
    """Root ids as Python integers, each once, ascending, without 0 and 1."""
    ids = np.asarray(root_ids)
    if ids.size and ids.dtype.kind not in "iu":
        # CAVE answers a root id that is a string with wrong rows, and a float has lost digits.
        raise TypeError(f"root ids must be integers, got an array of {ids.dtype}")
    return [int(root) for root in np.unique(ids) if root > 1]


def _voxel_box(lower_nm: npt.ArrayLike, upper_nm: npt.ArrayLike, resolution_nm: Resolution) -> list[list[int]]:
    """Box in whole voxels, rounded outwards and widened by one, so that it is never flat, which CAVE refuses."""
    lower, upper = np.asarray(lower_nm, dtype=np.float64), np.asarray(upper_nm, dtype=np.float64)
    if lower.shape != (3,) or upper.shape != (3,) or not (lower <= upper).all():
        raise ValueError(f"not a box in nm: {lower.tolist()} to {upper.tolist()}")
    first, last = np.floor(lower / resolution_nm) - 1, np.ceil(upper / resolution_nm) + 1
    return [[int(voxel) for voxel in first], [int(voxel) for voxel in last]]
