"""Which materialization versions of a dataset want an extraction."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from somatic.cave.datastack import Version, versions
from somatic.dataset import Dataset
from somatic.errors import DatasetError
from somatic.results.runs import Run
from somatic.results.sets import ResultSet

State = Literal["complete", "begun", "new", "passed over"]


@dataclass(frozen=True)
class Standing:
    """A version that can be queried, and what there is of it.

    Attributes
    ----------
    version : Version
    state : str
        "complete": its table is; "begun": an extraction of all nuclei began, and its table is not complete; "new": it
        is newer than the newest complete table; "passed over": older than that, and nobody wanted it whole.
    runs : tuple of str
        Flow runs that began to extract all of it, the latest first.
    """

    version: Version
    state: State
    runs: tuple[str, ...]

    @property
    def wanted(self) -> bool:
        """Whether it is to be extracted."""
        return self.state in ("begun", "new")


def known_versions(dataset: Dataset) -> list[Version]:
    """Versions of a dataset that can be queried now, ascending.

    Raises
    ------
    DatasetError
        Its tables are files.
    CaveError, CaveUnavailable
        CAVE refused, or did not answer.
    """
    check_has_versions(dataset)
    assert dataset.cave is not None
    return versions(dataset.cave)


def check_has_versions(dataset: Dataset) -> None:
    """See that a dataset can have new versions.

    Raises
    ------
    DatasetError
        Its tables are files.
    """
    if dataset.files is not None:
        raise DatasetError(
            f"{dataset.name}: its tables are files, which have one version, {dataset.files.version}; there is nothing "
            "to watch; extract it with: somatic extract"
        )


def newest_complete(sets: Iterable[ResultSet]) -> int | None:
    """The newest version with a complete table; None where there is none."""
    return max((found.version for found in sets if found.complete), default=None)


def standings(known: Iterable[Version], sets: Sequence[ResultSet], runs: Iterable[Run]) -> list[Standing]:
    """Look what there is of each version.

    A version older than the newest complete table is wanted only where an extraction of all its nuclei began: what CAVE
    keeps of former years is not measured because nobody has yet.

    Parameters
    ----------
    known : iterable of Version
        Those that can be queried (`known_versions`).
    sets, runs : sequence of ResultSet, iterable of Run
        What lies at the place for results, of the configurations of the dataset
        (`somatic.storage.places.config_hashes`); the latest run first.

    Returns
    -------
    list of Standing
        The newest version first.
    """
    complete, newest = {found.version for found in sets if found.complete}, newest_complete(sets)
    begun: dict[int, list[str]] = {}
    for run in runs:
        if run.whole:
            begun.setdefault(run.version, []).append(run.id)

    def state_of(number: int) -> State:
        if number in complete:
            return "complete"
        if number in begun:
            return "begun"
        return "new" if newest is None or number > newest else "passed over"

    return [
        Standing(version, state_of(version.number), tuple(begun.get(version.number, [])))
        for version in sorted(known, key=lambda version: version.number, reverse=True)
    ]
