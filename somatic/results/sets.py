"""The result sets of a dataset that lie at a place: one for each materialization version and configuration."""

from dataclasses import dataclass

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
    """

    version: int
    config: str
    complete: bool

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
        An extraction that has not come to a table yet is among them, as not complete.

    Raises
    ------
    StoreError, StoreUnavailable
        A manifest could not be read, for good or for now, or is none.
    """
    found = [ResultSet(*parse_set_name(name), _is_complete(results.below(name))) for name in set_names(results)]
    return sorted(found, key=lambda one: (one.version, one.config))


def _is_complete(store: ResultStore) -> bool:
    if not store.exists(MANIFEST):
        return False
    counts = load_manifest(store, ("counts", "nuclei"), ("counts", "failed_transient"))["counts"]
    # Without the number of nuclei that CAVE gave, nobody knows whether the table has them all.
    return counts["nuclei"] == counts.get("queried") and counts["failed_transient"] == 0
