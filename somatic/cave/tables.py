"""Nuclei, synapses and versions of a CAVE datastack."""

from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from somatic.cave.calls import Patience, RateLimiter
from somatic.cave.datastack import CaveDatastack, Version, versions
from somatic.cave.nuclei import read_nuclei
from somatic.cave.queries import VersionQueries
from somatic.dataset import CaveSource
from somatic.errors import DatasetError
from somatic.tables import Nuclei, Resolution, Synapses, synapse_points, synapses_from_raw

__all__ = ["CaveTables", "Version", "versions"]

ROOTS_PER_QUERY = 100
"""Roots whose synapses are requested at once: CAVE limits queries per minute, not roots per query."""


class CaveTables:
    """Nuclei and synapses of one materialization version. May be used by several threads.

    It holds the token: open it where it is needed, it can be neither pickled nor sent.

    Parameters
    ----------
    cave : CaveSource
        Server, datastack, and the names of the tables.
    version : int or "latest"
        Materialization version; "latest" is the newest that can be queried.
    patience : Patience, optional
        Time-outs and retries.
    limiter : RateLimiter, optional
        Default: the one that this process shares for the server.

    Attributes
    ----------
    notes : list of str
        What a person should know about the version and its tables, a line each.

    Raises
    ------
    CaveTokenError
        No token, one that CAVE does not know, one without the permission, or one that must not be sent there.
    CaveError
        No such datastack, no such version, or one that has expired; says which there are.
    VersionNotReady
        CAVE is still making this version.
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
        datastack = CaveDatastack(cave, self._client)
        self._version = datastack.resolve(version)
        self._queries = VersionQueries(datastack, self._client, self.version)
        self.notes = [note] if (note := self._version.expiry_note(cave.datastack, datetime.now(UTC))) else []

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
        """Cloudpath of the layer whose segment ids are the nucleus ids: of the dataset, else of CAVE's nucleus table.

        Views do not name one.
        """
        if self._cave.nucleus_segmentation is not None:
            return self._cave.nucleus_segmentation.url
        if self._cave.nuclei.table is None:
            return None
        # Of a reference table the nuclei are the rows that it refers to, whatever layer it names itself.
        table = self._cave.nuclei.table
        table = self._queries.reference_table("table", table) or table
        return self._queries.metadata("table", table).get("flat_segmentation_source") or None

    @property
    def synapse_resolution_nm(self) -> Resolution | None:
        """Size of a voxel of the synapse table's positions; None when the dataset has no synapses."""
        return self._queries.resolution_nm("table", self._cave.synapses) if self._cave.synapses else None

    def nuclei(self) -> Nuclei:
        """All nuclei; those without a root too, with root id 0. Adds to `notes` what a person should know about them.

        Raises
        ------
        DatasetError, CaveError, CaveUnavailable
            As for `somatic.cave.nuclei.read_nuclei`.
        """
        nuclei, note = read_nuclei(self._queries, self._cave.nuclei)
        if note and note not in self.notes:
            self.notes.append(note)
        return nuclei

    def synapses(self, root_ids: npt.ArrayLike, lower_nm: npt.ArrayLike, upper_nm: npt.ArrayLike) -> Synapses | None:
        """Synapses onto any of the roots, in a box; those of a root onto itself left out.

        Parameters
        ----------
        root_ids : (n,) int64
            Postsynaptic roots; 0 and 1 mean none and are skipped.
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
            The table lacks a column (says which it has), has no resolution, or only refers to synapses.
        CaveError
            No such table, or no permission.
        CaveUnavailable
            The server did not answer.
        """
        name, queries = self._cave.synapses, self._queries
        if name is None:
            return None
        roots, where = _roots(root_ids), queries.where("table", name)
        resolution_nm = queries.resolution_nm("table", name)
        known, columns = queries.columns("table", name), ["id", "pre_pt_root_id", "post_pt_root_id"]
        try:
            queries.check_columns(known, columns, where)
            points = synapse_points(known, where)
        except DatasetError as error:
            if referred := queries.reference_table("table", name):
                raise DatasetError(
                    f'{error}: it only refers to {referred}; write synapses = "{referred}", if that is a synapse table'
                ) from None
            raise
        columns += [*points, *(["size"] if "size" in known else [])]
        box_vx = _voxel_box(lower_nm, upper_nm, resolution_nm)

        pages = []
        for start in range(0, len(roots), ROOTS_PER_QUERY):
            filters: dict[str, Any] = {
                "filter_in_dict": {"post_pt_root_id": roots[start : start + ROOTS_PER_QUERY]},
                "filter_spatial_dict": {points[0]: box_vx},
            }
            pages.append(queries.rows("table", name, columns, **filters))
        raw = pd.concat(pages, ignore_index=True) if pages else pd.DataFrame(columns=columns, dtype="int64")
        return synapses_from_raw(raw, resolution_nm=resolution_nm, where=where)


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
