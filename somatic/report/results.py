"""A result set, read for a report."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import trimesh

from somatic.errors import StoreError
from somatic.features import SCHEMA
from somatic.results.flags import find_flags
from somatic.results.mesh_layer import MeshLayer
from somatic.results.parquet import table_from_parquet
from somatic.results.places import MESHES
from somatic.results.store import ResultStore

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
    meshes : str or None
        URL of the layer of soma meshes.
    """

    url: str
    manifest: Mapping[str, Any]
    features: pa.Table
    provenance: pa.Table
    changes: pa.Table | None = None
    meshes: str | None = None

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

    def get(name: str) -> pa.Table:
        return table_from_parquet(store.get(name), store.url_of(name))

    if not store.exists("manifest.json"):
        raise StoreError(
            f"{store.url} has no manifest.json: it is no folder of results, or nothing was collected there yet; "
            "the folder that is meant has features.parquet in it"
        )
    try:
        manifest = json.loads(store.get("manifest.json"))
        changes = get("changes.parquet") if manifest.get("changes") else None
        _ = manifest["materialization_version"], manifest["dataset"]["name"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{store.url_of('manifest.json')} is no manifest of somatic; extract {store.url} again"
        ) from error
    features, provenance = get("features.parquet"), get("provenance.parquet")
    if absent := [name for name in SCHEMA.names if name not in features.column_names]:
        raise StoreError(f"{store.url_of('features.parquet')} has no column {absent[0]}; extract this version again")
    if not features["nucleus_id"].equals(provenance["nucleus_id"]):
        raise StoreError(f"{store.url_of('provenance.parquet')} has other nuclei than features.parquet beside it")
    meshes = store.url_of(MESHES) if store.exists(f"{MESHES}/info") else None
    return Results(store.url, manifest, features, provenance, changes, meshes)


def stored_meshes(results: Results) -> MeshOf | None:
    """How to get the meshes of a result set; None where it has no layer of them."""
    if results.meshes is None:
        return None
    layer = MeshLayer(results.meshes)

    def mesh_of(nucleus_id: int) -> trimesh.Trimesh | None:
        try:
            return layer.get(nucleus_id)
        except StoreError:
            # An extraction without meshes may have gone on where one with meshes began.
            return None

    return mesh_of
