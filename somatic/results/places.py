"""Where the results of a dataset lie, and by which configuration."""

from typing import get_args

from somatic.dataset import Dataset, SegmentationKind
from somatic.features import FEATURES_VERSION
from somatic.results.store import ResultStore, config_hash

DEFAULT_RESULTS = "somatic-results"
MESHES = "meshes"
"""Folder of the soma meshes beside a table."""


def configuration(dataset: Dataset, kind: SegmentationKind) -> dict[str, str | int | float]:
    """What changes numbers on purpose, for a dataset that is read from a segmentation of this kind."""
    return {
        "definitions": dataset.definitions,
        "mip": dataset.mip,
        "cutout_radius_um": dataset.cutout_radius_um,
        "features_version": FEATURES_VERSION,
        "segmentation_kind": kind,
    }


def config_hashes(dataset: Dataset) -> set[str]:
    """`Extraction.config_hash` of a dataset for whatever kind of segmentation one of its versions may have."""
    return {config_hash(**configuration(dataset, kind)) for kind in get_args(SegmentationKind)}  # type: ignore[arg-type]


def open_results(dataset: Dataset, results: str | None = None) -> ResultStore:
    """Results of a dataset, of all versions and configurations, below a place as `Extraction.open` takes it."""
    return ResultStore(f"{(results or dataset.results or DEFAULT_RESULTS).rstrip('/')}/{dataset.name}")
