"""Where the results of a dataset lie, and by which names."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import get_args

from somatic.dataset import Dataset, SegmentationKind
from somatic.errors import PermanentError
from somatic.features import features_versions
from somatic.storage.store import ResultStore

DEFAULT_RESULTS = "somatic-results"

FEATURES = "features.parquet"
PROVENANCE = "provenance.parquet"
FLAGS = "flags.parquet"
CHANGES = "changes.parquet"
NUCLEI = "nuclei.parquet"
MANIFEST = "manifest.json"
MESHES = "meshes"
"""Folder of the soma meshes."""
CHUNKS = "chunks"
ATTEMPTS = "attempts"

_VERSION = re.compile(r"v\d+")
_SET = re.compile(r"v(\d+)/([0-9a-f]{8})")


def configuration(dataset: Dataset, kind: SegmentationKind) -> dict[str, str | int | float]:
    """What changes numbers on purpose, for a dataset that is read from a segmentation of this kind.

    A flat copy is downsampled, so its voxels differ from those of the graph.
    """
    return {
        "definitions": dataset.definitions,
        "mip": dataset.mip,
        "cutout_radius_um": dataset.cutout_radius_um,
        **features_versions(),
        "segmentation_kind": kind,
    }


def config_hash(parts: Mapping[str, str | int | float]) -> str:
    """Short name of a `configuration`, 8 hexadecimal digits."""
    return hashlib.sha256(json.dumps(dict(parts), sort_keys=True).encode()).hexdigest()[:8]


def config_hashes(dataset: Dataset) -> set[str]:
    """`config_hash` of a dataset for whatever kind of segmentation one of its versions may have."""
    return {config_hash(configuration(dataset, kind)) for kind in get_args(SegmentationKind)}


def open_results(dataset: Dataset, results: str | None = None) -> ResultStore:
    """Results of a dataset, of all versions and configurations, below a place as `Extraction.open` takes it."""
    return ResultStore(results or dataset.results or DEFAULT_RESULTS).below(dataset.name)


def set_name(version: int, config: str) -> str:
    """Name of the result set of a materialization version and a configuration (`config_hash`)."""
    return f"v{version}/{config}"


def parse_set_name(name: str) -> tuple[int, str]:
    """Materialization version and configuration of a result set.

    Raises
    ------
    PermanentError
        It is no name of one.
    """
    found = _SET.fullmatch(name)
    if found is None:
        raise PermanentError(f"{name!r} is no name of a result set; expected v<version>/<configuration>")
    return int(found[1]), found[2]


def set_names(results: ResultStore) -> list[str]:
    """Names of the result sets of a dataset that lie at a place.

    Raises
    ------
    StoreError, StoreUnavailable
        The place could not be read, for good or for now.
    """
    versions = filter(_VERSION.fullmatch, results.names(""))
    names = (f"{version}/{config}" for version in versions for config in results.names(version))
    return list(filter(_SET.fullmatch, names))
