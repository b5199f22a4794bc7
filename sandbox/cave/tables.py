"""What a CAVE server holds: a datastack, its materialized versions, their tables and views."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

import pandas as pd

from sandbox.graph.chunked_graph import ChunkedGraph

Resolution = tuple[float, float, float]

_LONG_AGO = datetime(2020, 9, 28, 22, 42, 9, 229478)


@dataclass(frozen=True, eq=False)
class CaveTable:
    """An annotation table of one materialized version.

    Parameters
    ----------
    frame : DataFrame
        One row an annotation, in the order of the columns of a merged table. `id`, `*_root_id` and
        `*_supervoxel_id` are integers (Int64 where one may be NA), a position is three integer columns
        `<name>_x`, `_y`, `_z` in voxels of `resolution_nm`. `valid` is all True unless there is a column
        of that name; rows that are not valid are never returned.
    resolution_nm : tuple of 3 float
        Size of the voxels of every position of this table.
    schema_type : str
        Name of its schema, such as ``nucleus_detection`` or ``synapse``.
    flat_segmentation_source : str, optional
        Cloudpath of the segmentation whose segment ids are the `id` of this table.
    notice_text : str, optional
        What the owner wants said with every answer; sent as a Warning header.
    reference_table : str, optional
        Table whose `id` the column `target_id` of this one means.
    description : str
    created : datetime
        When the table was made, UTC.
    read_permission : str
        PUBLIC; PRIVATE: for its owner, who nobody is that asks this server; GROUP: for those who share a group with
        the owner, which nobody does. Its metadata can be read all the same.
    """

    frame: pd.DataFrame
    resolution_nm: Resolution
    schema_type: str
    flat_segmentation_source: str | None = None
    notice_text: str | None = None
    reference_table: str | None = None
    description: str = ""
    created: datetime = _LONG_AGO
    read_permission: str = "PUBLIC"


@dataclass(frozen=True, eq=False)
class CaveView:
    """A view of one materialized version: columns of one or several tables, as one table.

    Parameters
    ----------
    frame : DataFrame
        As for `CaveTable`; a missing root is NA.
    resolution_nm : tuple of 3 float
        Size of the voxels of every position.
    notice_text : str, optional
    description : str
    live_compatible : bool
        Whether the view can be asked for a time between versions (this server cannot).
    """

    frame: pd.DataFrame
    resolution_nm: Resolution
    notice_text: str | None = None
    description: str = ""
    live_compatible: bool = True


@dataclass(frozen=True, eq=False)
class MaterializedVersion:
    """The annotations and their root ids, frozen at one moment.

    Parameters
    ----------
    number : int
        The materialization version.
    time_stamp : datetime
        The moment, UTC.
    expires_on : datetime, optional
        From when on it may be dropped; it is served as long as it is valid. None: kept for ever.
    is_merged : bool
        Old versions keep a table's annotations and its root ids in one table; newer ones in two that are
        joined for every query. Such a split table has more columns (`created`, `superceded_id`), another order
        of them, and shows 1 where there is no root.
    valid : bool or str
        As the server reports it; some report the "t" and "f" of their database. False: dropped, or not complete yet. It
        is listed only on request, and cannot be queried.
    status : str, optional
        As the server reports it, such as RUNNING while the version is being made; None: AVAILABLE or EXPIRED.
    tables, views : dict of str
        In the order in which the server lists them.
    """

    number: int
    time_stamp: datetime
    expires_on: datetime | None = None
    is_merged: bool = False
    valid: bool | str = True
    status: str | None = None
    tables: dict[str, CaveTable] = field(default_factory=dict)
    views: dict[str, CaveView] = field(default_factory=dict)

    @property
    def is_valid(self) -> bool:
        """Whether it can be queried."""
        return self.valid in (True, "t")


@dataclass(frozen=True, eq=False)
class Datastack:
    """A segmentation with everything that is annotated on it.

    Parameters
    ----------
    name : str
    aligned_volume : str
        Name of the image volume.
    segmentation_source : str
        Cloudpath of the segmentation. ``{server}`` stands for the address of the server.
    versions : list of MaterializedVersion
        In the order in which the server lists them (a real one does not sort them).
    synapse_table, soma_table : str, optional
        Tables that clients use when none is named.
    parent : str, optional
        Datastack whose versions these are, as minnie65_phase3_v1 is of minnie65_public. It decides how the server
        words that a version is gone.
    image_source, description : str
    viewer_resolution_nm : tuple of 3 float
    graph : ChunkedGraph, optional
        Served under the last part of `segmentation_source`; None: nothing is served of the segmentation.
    """

    name: str
    aligned_volume: str
    segmentation_source: str
    versions: list[MaterializedVersion]
    synapse_table: str | None = None
    soma_table: str | None = None
    parent: str | None = None
    image_source: str = ""
    description: str = ""
    viewer_resolution_nm: Resolution = (4.0, 4.0, 40.0)
    graph: ChunkedGraph | None = None

    def __post_init__(self) -> None:
        numbers = [version.number for version in self.versions]
        if len(set(numbers)) != len(numbers):
            raise ValueError(f"datastack {self.name} has a version twice: {numbers}")

    def version(self, number: int) -> MaterializedVersion | None:
        """Return the version of this number, also an expired one, or None."""
        return next((version for version in self.versions if version.number == number), None)


def info(datastack: Datastack, server_url: str) -> dict:
    """Return the record of a datastack as the info service has it."""
    x_nm, y_nm, z_nm = datastack.viewer_resolution_nm
    return {
        "aligned_volume": aligned_volume_info(datastack),
        "segmentation_source": datastack.segmentation_source.replace("{server}", server_url),
        "skeleton_source": None,
        "analysis_database": None,
        "viewer_site": "https://spelunker.cave-explorer.org/",
        "synapse_table": datastack.synapse_table,
        "soma_table": datastack.soma_table,
        "local_server": server_url,
        "description": datastack.description,
        "viewer_resolution_x": float(x_nm),
        "viewer_resolution_y": float(y_nm),
        "viewer_resolution_z": float(z_nm),
        "proofreading_status_table": None,
        "cell_identification_table": None,
        "proofreading_review_table": None,
    }


def graph_name(datastack: Datastack) -> str:
    """Return the name of the datastack's chunked graph, the last part of its address."""
    return datastack.segmentation_source.rstrip("/").split("/")[-1]


def aligned_volume_info(datastack: Datastack) -> dict:
    """Return the record of the image volume."""
    return {
        "id": 1,
        "name": datastack.aligned_volume,
        "display_name": datastack.aligned_volume,
        "description": datastack.description,
        "image_source": datastack.image_source,
    }


def version_metadata(datastack: Datastack, version: MaterializedVersion) -> dict:
    """Return the record of a materialized version."""
    return {
        "is_merged": version.is_merged,
        "datastack": datastack.name,
        "id": [known.number for known in datastack.versions].index(version.number) + 1,
        "valid": version.valid,
        "version": version.number,
        "time_stamp": _iso(version.time_stamp),
        "status": version.status or ("AVAILABLE" if version.is_valid else "EXPIRED"),
        "expires_on": None if version.expires_on is None else _iso(version.expires_on),
    }


def table_metadata(datastack: Datastack, version: MaterializedVersion, name: str) -> dict:
    """Return the record of a table; one that has no supervoxels has no word on the segmentation."""
    table = version.tables[name]
    x_nm, y_nm, z_nm = table.resolution_nm
    known = [(v.number, t) for v in datastack.versions for t in v.tables]
    record = {
        "schema": table.schema_type,
        "id": known.index((version.number, name)) + 1,
        "aligned_volume": datastack.aligned_volume,
        "valid": True,
        "table_name": name,
        "created": _iso(table.created),
        "schema_type": table.schema_type,
        "user_id": "1",
        "description": table.description,
        "notice_text": table.notice_text,
        "reference_table": table.reference_table,
        "flat_segmentation_source": table.flat_segmentation_source,
        "voxel_resolution_x": float(x_nm),
        "voxel_resolution_y": float(y_nm),
        "voxel_resolution_z": float(z_nm),
        "write_permission": "PRIVATE",
        "read_permission": table.read_permission,
        "last_modified": _iso(table.created),
    }
    if any(column.endswith("supervoxel_id") for column in table.frame.columns):
        record |= {"segmentation_source": None, "pcg_table_name": graph_name(datastack), "last_updated": None}
    return record


def view_metadata(datastack: Datastack, version: MaterializedVersion, name: str) -> dict:
    """Return the record of a view."""
    view = version.views[name]
    x_nm, y_nm, z_nm = view.resolution_nm
    return {
        "notice_text": view.notice_text,
        "voxel_resolution_y": float(y_nm),
        "datastack_name": datastack.parent or datastack.name,
        "table_name": name,
        "live_compatible": view.live_compatible,
        "voxel_resolution_z": float(z_nm),
        "voxel_resolution_x": float(x_nm),
        "description": view.description,
        "id": list(version.views).index(name) + 1,
    }


def _iso(moment: datetime) -> str:
    """Return UTC without a zone and with microseconds: caveclient parses no other form."""
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return moment.isoformat(timespec="microseconds")
