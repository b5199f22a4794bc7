"""Earlier result sets whose rows an extraction reuses where nothing has changed."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tenacity

from somatic.errors import PermanentError, StoreError, StoreUnavailable
from somatic.features import CORRECTED_ONLY, NUCLEUS_COLUMNS, SOMA_COLUMNS, Column, Row
from somatic.results.manifest import load_manifest
from somatic.results.sets import ResultSet
from somatic.results.table import load_tables
from somatic.storage.places import FEATURES, config_hash, parse_set_name
from somatic.storage.store import ResultStore

Since = int | Literal["auto"] | None
"""The materialization version whose results are reused; "auto": whatever saves most; None: nothing is reused."""

PATIENCE_S = 60.0
"""A result set that cannot be read for now is tried again for so long: what it holds took longer to measure."""

PROVENANCE_READ = (
    "nucleus_id",
    "error_class",
    "soma_version",
    "nucleus_version",
    "soma_fingerprint",
    "nucleus_fingerprint",
    "synapse_hash",
    "nucleus_voxels_hash",
    "synapse_features_version",
)
"""Columns of provenance.parquet that rows of a base have."""

_SOMA_SETTINGS = ("definitions", "mip", "cutout_radius_um", "segmentation_kind", "soma_features_version")
_NUCLEUS_SETTINGS = ("definitions", "nucleus_features_version")
_NULL_IF_NOTHING_IS_FOLDED = {"avg_fold_depth_nm"}
"""The other columns of a soma or nucleus that was measured are null only where a measure was no number."""


class Base:
    """Rows of a result set by nucleus, with their provenance.

    Parameters
    ----------
    results : ResultStore
        Results of the dataset, of all versions.
    name : str
        Which of them, `v<version>/<config>`.
    """

    def __init__(self, results: ResultStore, name: str) -> None:
        self.name = name
        self.version = parse_set_name(name)[0]
        """Materialization version."""
        self.store = results.below(name)
        self.lacks_meshes = False
        """Whether a soma mesh was found to be missing or damaged."""
        self._ids = np.empty(0, dtype=np.int64)
        self._table = pa.table({})

    def load(self) -> "Base":
        """Read it into memory, before the first look at its rows.

        Raises
        ------
        StoreError, StoreUnavailable
            The table could not be read, for good, or for now and for `PATIENCE_S`; or is not that of its manifest.
        """
        patiently = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(StoreUnavailable),
            stop=tenacity.stop_after_delay(PATIENCE_S),
            wait=tenacity.wait_random_exponential(1, max=15),
            reraise=True,
        )
        patiently(self._load)
        return self

    def _load(self) -> None:
        stated = load_manifest(self.store, ("sha256", FEATURES))["sha256"][FEATURES]
        table, known, sha256 = load_tables(self.store, PROVENANCE_READ)
        if sha256 != stated:
            raise StoreError(
                f"{self.store.url_of(FEATURES)} is not the table of its manifest; run the extraction of version "
                f"{self.version} again, which measures only what is missing"
            )
        for name in PROVENANCE_READ[1:]:
            table = table.append_column(name, known[name])
        table = table.append_column("has_soma", _all_there(table, SOMA_COLUMNS))
        table = table.append_column("has_nucleus", _all_there(table, NUCLEUS_COLUMNS))
        self._ids, self._table = table["nucleus_id"].to_numpy(), table.combine_chunks()

    def rows(self, nucleus_ids: Collection[int], columns: Sequence[str] | None = None) -> dict[int, Row]:
        """Rows of some nuclei, those that have none left out.

        Parameters
        ----------
        nucleus_ids : collection of int
        columns : sequence of str, optional
            All of `somatic.features.COLUMNS` and `PROVENANCE_READ` when left out, and two more: `has_soma` and
            `has_nucleus`, whether each measure of the soma or the nucleus is there that these always have.
        """
        ids, table = self._ids, self._table.select(columns) if columns else self._table
        wanted = np.array(sorted(nucleus_ids), dtype=np.int64)
        at = np.searchsorted(ids, wanted).clip(max=max(len(ids) - 1, 0))
        found = at[ids[at] == wanted] if len(ids) else at[:0]
        return dict(zip(ids[found].tolist(), table.take(pa.array(found)).to_pylist(), strict=True))


def _all_there(table: pa.Table, columns: Iterable[Column]) -> pa.ChunkedArray:
    nullable = CORRECTED_ONLY | _NULL_IF_NOTHING_IS_FOLDED
    there = pa.chunked_array([np.ones(table.num_rows, dtype=bool)])
    for column in columns:
        if column.name not in nullable:
            there = pc.and_(there, pc.is_valid(table[column.name]))
    return there


def choose_bases(
    sets: Iterable[ResultSet],
    version: int,
    settings: Mapping[str, Any],
    since: Since,
    warn: Callable[[str], None],
) -> tuple[str, ...]:
    """Choose the result sets that an extraction reuses: one for its somata, and another one for its nuclei if need be.

    Parameters
    ----------
    sets : iterable of ResultSet
        Those of the dataset.
    version, settings : int, mapping
        Of the extraction (`somatic.storage.places.configuration`), which does not reuse itself.
    since : int, "auto" or None
        "auto": of the complete ones those that have somata or nuclei of the same settings. A version: of that one,
        complete or not. The same materialization version comes first, since all its somata hold, then one that has the
        nuclei too, then the newest.
    warn : callable
        Called with a line for each result set that may have something to reuse and cannot be read.

    Returns
    -------
    tuple of str
        Their names, `v<version>/<config>`, that of the somata first; empty where nothing is to be reused.

    Raises
    ------
    PermanentError
        There are no results of the version that is asked for.
    """
    if since is None:
        return ()
    there = [one for one in sets if (one.version, one.config) != (version, config_hash(settings))]
    considered = [one for one in there if since in ("auto", one.version)]
    if not considered and since != "auto":
        known = ", ".join(map(str, sorted({one.version for one in there}))) or "none"
        raise PermanentError(f"no results of version {since} to reuse; there are results of these versions: {known}")
    for one in considered:
        if one.fault:
            warn(not_reused(one.name, one.fault))
    usable = [one for one in considered if not one.fault and (one.complete or since != "auto")]

    def same(one: ResultSet, names: Iterable[str]) -> bool:
        return all(name in one.settings and one.settings[name] == settings[name] for name in names)

    def rank(one: ResultSet) -> tuple[bool, bool, int, str]:
        return one.version == version, same(one, _NUCLEUS_SETTINGS), one.version, one.config

    of_somata = max((one for one in usable if same(one, _SOMA_SETTINGS)), key=rank, default=None)
    of_nuclei = max((one for one in usable if same(one, _NUCLEUS_SETTINGS)), key=rank, default=None)
    if of_somata and same(of_somata, _NUCLEUS_SETTINGS):
        of_nuclei = None
    if since != "auto" and usable and not of_somata and not of_nuclei:
        warn(f"nothing of version {since} is reused: its results have other settings, or no table yet")
    return tuple(one.name for one in (of_somata, of_nuclei) if one)


def not_reused(name: str, error: StoreError | StoreUnavailable) -> str:
    """Say that a result set cannot be reused, and why."""
    return f"{name} is not reused, and what it has is measured again: {error}"
