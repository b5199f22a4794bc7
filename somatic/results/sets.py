"""The result sets of a dataset that lie at a place: one for each materialization version and configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from somatic.errors import StoreError, StoreUnavailable
from somatic.features import features_versions
from somatic.results.manifest import load_manifest
from somatic.storage.places import MANIFEST, parse_set_name, set_name, set_names
from somatic.storage.store import ResultStore


@dataclass(frozen=True)
class ResultSet:
    """The results of one version and configuration.

    Attributes
    ----------
    version : int
        Materialization version.
    config : str
        `somatic.extracting.extraction.Extraction.config_hash`.
    complete : bool
        Whether every nucleus of the version has its row, and none failed for a reason that may pass.
    settings : mapping
        What `config` is a hash of (`somatic.storage.places.configuration`), as its manifest says; empty without one.
    fault : StoreError or StoreUnavailable or None
        Why its manifest could not be read, where it has one; it counts as not complete then.
    """

    version: int
    config: str
    complete: bool
    settings: Mapping[str, Any] = field(default_factory=dict)
    fault: StoreError | StoreUnavailable | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """By which it is found among the results of its dataset."""
        return set_name(self.version, self.config)


def result_sets(results: ResultStore) -> list[ResultSet]:
    """Find the results of a dataset, by ascending version.

    Parameters
    ----------
    results : ResultStore
        Results of the dataset, of all versions.

    Returns
    -------
    list of ResultSet
        An extraction that has not come to a table yet is among them, as not complete; so is one whose manifest cannot
        be read.

    Raises
    ------
    StoreError, StoreUnavailable
        The place could not be read, for good or for now.
    """
    return sorted((_read(results, name) for name in set_names(results)), key=lambda one: (one.version, one.config))


def _read(results: ResultStore, name: str) -> ResultSet:
    (version, config), store = parse_set_name(name), results.below(name)
    try:
        if not store.exists(MANIFEST):
            return ResultSet(version, config, complete=False)
        manifest = load_manifest(store, ("counts", "nuclei"), ("counts", "failed_transient"))
    except (StoreError, StoreUnavailable) as error:
        return ResultSet(version, config, complete=False, fault=error)
    counts = manifest["counts"]
    # Without the number of nuclei that CAVE gave, nobody knows whether the table has them all.
    complete = counts["nuclei"] == counts.get("queried") and counts["failed_transient"] == 0
    return ResultSet(version, config, complete, _settings(manifest.get("config")))


def _settings(noted: object) -> dict[str, Any]:
    if not isinstance(noted, dict):
        return {}
    # From before soma, nucleus and synapses had versions of their own.
    one_version = dict.fromkeys(features_versions(), noted.get("features_version"))
    return {**one_version, **noted}
