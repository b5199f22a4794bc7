"""The base of an extraction: an earlier result set, from which rows are taken over where nothing has changed."""

from collections.abc import Collection, Iterable
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa

from somatic.errors import PermanentError, StoreError
from somatic.features import Row
from somatic.results.manifest import load_manifest
from somatic.results.sets import ResultSet
from somatic.results.table import load_tables
from somatic.storage.places import FEATURES, parse_set_name
from somatic.storage.store import ResultStore

Since = int | Literal["auto"] | None
"""From which version rows are taken over: one, the newest that is complete, or none."""

_KNOWN = (
    "nucleus_id",
    "x_vx",
    "y_vx",
    "z_vx",
    "error_class",
    "soma_version",
    "nucleus_version",
    "soma_fingerprint",
    "nucleus_fingerprint",
    "synapse_hash",
)


class Base:
    """Rows of a result set by nucleus, with their provenance; read when they are first asked for.

    Parameters
    ----------
    results : ResultStore
        Results of the dataset, of all versions.
    name : str
        Which of them, `v<version>/<config>`.
    """

    def __init__(self, results: ResultStore, name: str) -> None:
        self.name = name
        self.store = results.below(name)

    @property
    def version(self) -> int:
        """Materialization version."""
        return parse_set_name(self.name)[0]

    def rows(self, nucleus_ids: Collection[int]) -> dict[int, Row]:
        """Rows of some nuclei, those that have none left out: all features, and what provenance.parquet knows of them.

        Raises
        ------
        StoreError, StoreUnavailable
            The table could not be read, for good or for now, or is not that of its manifest.
        """
        ids, table = self._table
        wanted = np.array(sorted(nucleus_ids), dtype=np.int64)
        at = np.searchsorted(ids, wanted).clip(max=max(len(ids) - 1, 0))
        found = at[ids[at] == wanted] if len(ids) else at[:0]
        return {row["nucleus_id"]: row for row in table.take(pa.array(found)).to_pylist()}

    @cached_property
    def _table(self) -> tuple[np.ndarray, pa.Table]:
        table, known, sha256 = load_tables(self.store, _KNOWN)
        if sha256 != load_manifest(self.store, ("sha256", FEATURES))["sha256"][FEATURES]:
            raise StoreError(
                f"{self.store.url_of(FEATURES)} is not the table of its manifest; extract version {self.version} once "
                "more, or take over nothing (since none)"
            )
        for column in _KNOWN[1:]:
            table = table.append_column(column, known[column])
        return table["nucleus_id"].to_numpy(), table.combine_chunks()


def choose_base(sets: Iterable[ResultSet], version: int, config: str, since: Since) -> str | None:
    """Choose the result set from which an extraction takes rows over.

    Parameters
    ----------
    sets : iterable of ResultSet
        Those of the dataset.
    version, config : int, str
        Of the extraction, which is no base of its own.
    since : int, "auto" or None
        "auto": the newest complete one. A version: that one, complete or not. One of the same configuration wins, since
        another one has only nuclei to offer.

    Returns
    -------
    str or None
        Its name, `v<version>/<config>`; None where nothing is to be taken over.

    Raises
    ------
    PermanentError
        There are no results of the version that is asked for.
    """
    if since is None:
        return None
    there = [one for one in sets if (one.version, one.config) != (version, config)]
    fitting = [one for one in there if (one.complete if since == "auto" else one.version == since)]
    if not fitting:
        if since == "auto":
            return None
        known = ", ".join(sorted({str(one.version) for one in there}, key=int)) or "none"
        raise PermanentError(f"no results of version {since} to take rows over from; there are: {known}")
    best = max(fitting, key=lambda one: (one.config == config, one.version, one.config))
    return best.name
