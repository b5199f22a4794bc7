"""How far an extraction is, read from what it has stored so far, wherever it runs."""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from somatic.errors import PermanentError
from somatic.planning.plan import load_plan
from somatic.results.collect import Counts, count, failure_frame, gather, of_plan, reasons_of
from somatic.results.nuclei import load_nuclei
from somatic.results.runs import Run, load_runs
from somatic.storage.store import ResultStore

_RECENT = timedelta(minutes=15)


@dataclass(frozen=True)
class Status:
    """The nuclei that a run planned, as they are now.

    Attributes
    ----------
    run : Run
    counts : Counts
        What the table would say if it were collected now.
    reasons : dict of str to int
        Why cells failed, the commonest reason first; those that nobody has come to are left out.
    per_minute : float
        Cells stored a minute, in the last quarter of an hour.
    results : str
        URL of the results of its version and configuration.
    """

    run: Run
    counts: Counts
    reasons: dict[str, int]
    per_minute: float
    results: str

    @property
    def left_s(self) -> float | None:
        """Seconds until every cell is measured, at the present rate; None where there is none."""
        if not self.counts.unmeasured or not self.per_minute:
            return None
        return 60 * self.counts.unmeasured / self.per_minute


def read_status(results: ResultStore, version: int | None = None, now: datetime | None = None) -> Status:
    """Look how the latest run of a dataset stands.

    Parameters
    ----------
    results : ResultStore
        Results of the dataset, of all versions.
    version : int, optional
        Only runs of this materialization version.
    now : datetime, optional
        End of the time of which the rate is taken.

    Raises
    ------
    PermanentError
        There is no such run.
    StoreError, StoreUnavailable
        A file could not be read, for good or for now.
    """
    run = next((run for run in load_runs(results) if version in (None, run.version)), None)
    if run is None:
        raise PermanentError(
            f"no extraction{'' if version is None else f' of version {version}'} has begun at {results.url}; "
            "say with --to where its results go, or start one"
        )
    if run.plan is None:
        raise PermanentError(
            f"the extraction {run.id} of version {run.version} has no plan yet: it is still querying the nuclei and "
            "looking for cells to reuse, or it ended before it had one"
        )
    store = run.store(results)
    plan = load_plan(store, run.plan)
    nuclei = load_nuclei(store, plan.resolution_nm)
    # What a row that nobody has measured says of itself is of no interest here.
    gathered = gather(store, plan, nuclei, materialization_version=run.version, definitions="")
    rows = of_plan(gathered, plan)
    measured = rows.filter(pc.is_valid(rows["chunk"]))
    return Status(run, count(rows), reasons_of(failure_frame(measured)), _per_minute(measured, run, now), store.url)


def _per_minute(rows: pa.Table, run: Run, now: datetime | None) -> float:
    now = now or datetime.now(UTC)
    since = max(now - _RECENT, run.started)
    recent = pc.and_(pc.greater(rows["finished"], pa.scalar(since)), pc.invert(rows["transient"]))
    by_status = Counter(rows.filter(recent)["status"].to_pylist())
    minutes = (now - since).total_seconds() / 60
    return (by_status["ok"] + by_status["failed"]) / minutes if minutes > 0 else 0.0
