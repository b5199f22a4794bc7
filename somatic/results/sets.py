"""The result sets of a dataset that lie at a place: one for each materialization version and configuration."""

import json
import re
from dataclasses import dataclass

from somatic.errors import StoreError
from somatic.results.store import ResultStore

_VERSION = re.compile(r"v(\d+)")
_CONFIG = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True)
class ResultSet:
    """The results of one version and configuration.

    Attributes
    ----------
    version : int
        Materialization version.
    config : str
        `somatic.extraction.Extraction.config_hash`.
    url : str
        Where they lie.
    complete : bool
        Whether every nucleus of the version has its row, and none failed for a reason that may pass.
    """

    version: int
    config: str
    url: str
    complete: bool


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
        A manifest could not be read, for good or for now.
    """
    found = []
    for folder in results.names(""):
        if version := _VERSION.fullmatch(folder):
            for config in filter(_CONFIG.fullmatch, results.names(folder)):
                url, complete = results.url_of(f"{folder}/{config}"), _is_complete(results, f"{folder}/{config}")
                found.append(ResultSet(int(version[1]), config, url, complete))
    return sorted(found, key=lambda one: (one.version, one.config))


def _is_complete(results: ResultStore, folder: str) -> bool:
    manifest = f"{folder}/manifest.json"
    if not results.exists(manifest):
        return False
    try:
        counts = json.loads(results.get(manifest))["counts"]
        # Without the number of nuclei that CAVE gave, nobody knows whether the table has them all.
        return counts["nuclei"] == counts.get("queried") and counts["failed_transient"] == 0
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StoreError(
            f"{results.url_of(manifest)} is no manifest of somatic; delete it, and extract this version again, which "
            "measures only what is missing"
        ) from None
