"""A result set, read for a report."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import trimesh

from somatic.errors import StoreError
from somatic.results.changes import CHANGE_SCHEMA
from somatic.results.flags import find_flags
from somatic.results.manifest import load_manifest
from somatic.results.mesh_layer import MeshLayer
from somatic.results.table import load_tables
from somatic.storage.parquet import table_from_parquet
from somatic.storage.places import CHANGES, FEATURES, MANIFEST, MESHES
from somatic.storage.store import ResultStore

MeshOf = Callable[[int], trimesh.Trimesh | None]
"""The soma mesh of a nucleus, vertices in nm; None where there is none."""


@dataclass(frozen=True, eq=False)
class Results:
    """What a report is made of.

    Attributes
    ----------
    url : str
        Where it lies.
    manifest : mapping
        `somatic.results.manifest.make_manifest`.
    features, provenance : pyarrow.Table
        As they are stored: the same nuclei in the same order.
    changes : pyarrow.Table or None
        Against an earlier version.
    meshes_url : str or None
        Layer of soma meshes.
    """

    url: str
    manifest: Mapping[str, Any]
    features: pa.Table
    provenance: pa.Table
    changes: pa.Table | None = None
    meshes_url: str | None = None

    @cached_property
    def flags(self) -> pa.Table:
        """`somatic.results.flags.find_flags`."""
        return find_flags(self.features)


def read_results(store: ResultStore) -> Results:
    """Read the files of a result set.

    Raises
    ------
    StoreError, StoreUnavailable
        One could not be read, for good or for now, or is not what it must be.
    """
    if not store.exists(MANIFEST):
        raise StoreError(
            f"{store.url} has no {MANIFEST}: it is no folder of results, or nothing was collected there yet; "
            f"the folder that is meant has {FEATURES} in it"
        )
    manifest = load_manifest(store, ("materialization_version",), ("dataset", "name"))
    changes = None
    if manifest.get("changes"):
        where = store.url_of(CHANGES)
        changes = table_from_parquet(store.get(CHANGES), where, CHANGE_SCHEMA.names, CHANGE_SCHEMA)
    features, provenance, _ = load_tables(store)
    meshes = store.url_of(MESHES) if store.exists(f"{MESHES}/info") else None
    return Results(store.url, manifest, features, provenance, changes, meshes)


def stored_meshes(results: Results) -> MeshOf | None:
    """How to get the meshes of a result set; None where it has no layer of them."""
    if results.meshes_url is None:
        return None
    layer = MeshLayer(results.meshes_url)

    def mesh_of(nucleus_id: int) -> trimesh.Trimesh | None:
        try:
            return layer.get(nucleus_id)
        except StoreError:
            # An extraction without meshes may have gone on where one with meshes began.
            return None

    return mesh_of
