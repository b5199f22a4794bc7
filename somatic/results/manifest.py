"""manifest.json: what a table of features was made from, by which code, and how it came out."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from somatic.errors import StoreError
from somatic.features import features_versions
from somatic.results.manifest_types import ManifestTypes
from somatic.software import code_version, library_versions
from somatic.storage.json_object import LARGEST_BYTES, object_from_json
from somatic.storage.places import MANIFEST
from somatic.storage.store import ResultStore


def make_manifest(
    *,
    dataset: Mapping[str, Any],
    materialization_version: int,
    materialization_timestamp: datetime | None,
    config: Mapping[str, Any],
    config_hash: str,
    layers: Mapping[str, Any],
    plan_hash: str,
    counts: Mapping[str, int],
    files: Mapping[str, bytes],
    started: datetime,
    finished: datetime,
    cost: Mapping[str, Any],
    changes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that is needed to know where a table of features comes from.

    Parameters
    ----------
    dataset : mapping
        The dataset file as read and checked, never its raw text: an old JSON file may hold keys of a cloud account.
    materialization_version, materialization_timestamp : int, datetime or None
        CAVE's; the version of the files and None for a dataset of files.
    config : mapping
        What `config_hash` was made of.
    config_hash, plan_hash : str
        Names of the configuration and of the plan.
    layers : mapping
        `segmentation` and `nuclei`, the URLs that were read, and `resolution_nm`, size of a voxel of the positions.
    counts : mapping of str to int
        Cells by status.
    files : mapping of str to bytes
        Name and content of the derived files; their SHA-256 is noted.
    started, finished : datetime
        Of the run, with a time zone.
    cost : mapping
        What the run cost (`somatic.extracting.cost.Cost.as_dict`).
    changes : mapping, optional
        The base that the table was compared with, and how many nuclei differ in what.
    """
    return {
        "dataset": dict(dataset),
        "materialization_version": materialization_version,
        "materialization_timestamp": _utc(materialization_timestamp),
        "config": dict(config),
        "config_hash": config_hash,
        "layers": dict(layers),
        **features_versions(),
        "plan": plan_hash,
        "counts": dict(counts),
        "cost": dict(cost),
        "changes": dict(changes) if changes is not None else None,
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        "code_version": code_version(),
        "libraries": library_versions(),
        "started": _utc(started),
        "finished": _utc(finished),
    }


def put_manifest(store: ResultStore, manifest: Mapping[str, Any]) -> None:
    """Write manifest.json.

    Raises
    ------
    StoreError, StoreUnavailable
        It was not written, for good or for now.
    """
    text = json.dumps(manifest, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    store.put(MANIFEST, f"{text}\n".encode())


def load_manifest(store: ResultStore, *needed: Sequence[str]) -> dict[str, Any]:
    """Read manifest.json.

    Parameters
    ----------
    store : ResultStore
        Where a result set lies.
    needed : sequence of str
        What must be in it, each as the keys that lead there.

    Raises
    ------
    StoreError, StoreUnavailable
        It could not be read, for good or for now, or is no manifest.
    """
    where = store.url_of(MANIFEST)
    what = "manifest of somatic; delete it, and extract this version again, which measures only what is missing"
    manifest = object_from_json(store.get(MANIFEST, largest_bytes=LARGEST_BYTES), where, what, *needed)
    try:
        ManifestTypes.model_validate(manifest)
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"]))
        raise StoreError(f"{where} is no {what} ({key} is of another kind)") from None
    return manifest


def _utc(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat() if moment else None
