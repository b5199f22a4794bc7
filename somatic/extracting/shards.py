"""From the nuclei of a dataset to what is to be measured, and what that will take."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from somatic.extracting.estimate import SYNAPSE_CELLS, Estimate, estimate_extraction
from somatic.extracting.extraction import Extraction
from somatic.extracting.reusable import find_reusable
from somatic.planning.plan import Plan, load_plan, make_plan
from somatic.results.ledger import Ledger
from somatic.storage.store import ResultStore
from somatic.tables import Nuclei, Resolution

CHUNKS_PER_SHARD = 20


@dataclass(frozen=True)
class Selection:
    """Which nuclei are asked for, and which of those that are done are measured again."""

    limit: int | None = None
    sample: int | None = None
    nucleus_ids: Collection[int] | None = None
    chunk: int = 10
    retry: Literal["failed"] | Collection[int] = ()
    force: bool = False


@dataclass(frozen=True, eq=False)
class Shard:
    """A range of the chunks of a plan, and which of its rows are missing.

    Attributes
    ----------
    start, stop : int
        Numbers of its first chunk and of the one after its last.
    missing : pandas.DataFrame
        Columns of `Plan.rows`.
    resolution_nm : (3,) float
        `Plan.resolution_nm`.
    ledger : Ledger
        What is done; it need not know more than what concerns these rows.
    """

    start: int
    stop: int
    missing: pd.DataFrame
    resolution_nm: Resolution
    ledger: Ledger

    def batches(self, cells: int = SYNAPSE_CELLS) -> Iterator[list[tuple[int, pd.DataFrame]]]:
        """Chunks in which something is missing, number and rows, in batches of at least so many cells but the last."""
        batch: list[tuple[int, pd.DataFrame]] = []
        for number, rows in _by_number(self.missing, self.missing["chunk"]):
            batch.append((number, rows))
            if sum(len(rows) for _, rows in batch) >= cells:
                yield batch
                batch = []
        if batch:
            yield batch


@dataclass(frozen=True, eq=False)
class Planned:
    """A plan, what is known to be done, the rows that are missing, and what they will take."""

    plan: Plan
    ledger: Ledger
    missing: pd.DataFrame
    estimate: Estimate
    chunks_per_shard: int

    def shards(self) -> list[Shard]:
        """Those in which something is missing, out of ranges that depend on the plan alone."""
        size, plan = self.chunks_per_shard, self.plan
        return [
            Shard(number * size, min((number + 1) * size, plan.n_chunks), rows, plan.resolution_nm, self.ledger)
            for number, rows in _by_number(self.missing, self.missing["chunk"] // size)
        ]


def plan_extraction(
    extraction: Extraction,
    nuclei: Nuclei,
    selection: Selection,
    ledger: Ledger,
    *,
    chunks_per_shard: int = CHUNKS_PER_SHARD,
    plan_hash: str | None = None,
) -> Planned:
    """Choose nuclei and cut them into chunks, or load the plan that an earlier attempt of this run made."""
    plan = load_plan(extraction.store, plan_hash) if plan_hash else _make_plan(extraction, nuclei, selection, ledger)
    missing = ledger.missing(plan.rows)
    to_measure = missing[missing["chunk"] >= 0]
    reusable = find_reusable(extraction, to_measure, plan.resolution_nm)
    estimate = estimate_extraction(extraction, plan, missing, chunks_per_shard, reusable)
    return Planned(plan, ledger, to_measure, estimate, chunks_per_shard)


def choose_rows(extraction: Extraction, nuclei: Nuclei, selection: Selection, ledger: Ledger) -> pd.DataFrame:
    """Rows of the plan that `plan_extraction` would make now, those that are done or skipped left out."""
    rows = _make_plan(extraction, nuclei, selection, ledger).rows
    return rows[rows["chunk"] >= 0]


def _make_plan(extraction: Extraction, nuclei: Nuclei, selection: Selection, ledger: Ledger) -> Plan:
    return make_plan(
        nuclei,
        radius_nm=extraction.radius_nm,
        chunk=selection.chunk,
        limit=selection.limit,
        sample=selection.sample,
        ids=selection.nucleus_ids,
        attempts=ledger.next_attempts(nuclei, retry=selection.retry, force=selection.force),
        is_done=ledger.is_done,
    )


def snapshot_name(run_id: str) -> str:
    """Name of the file in which a run tells its shards what was done before it."""
    return f"snapshots/{run_id}.parquet"


def open_shard(
    store: ResultStore, plan_hash: str, start: int, stop: int, run_id: str, memory_bytes: int, *, again: bool
) -> Shard:
    """Read what a shard of another process's plan has to do.

    Parameters
    ----------
    store : ResultStore
        `Extraction.store`.
    plan_hash : str
        Of a plan that lies there.
    start, stop : int
        Range of its chunks.
    run_id : str
        The run that made the plan and wrote a snapshot of what was done then.
    memory_bytes : int
        Memory there is for one cell.
    again : bool
        Whether this shard ran before, so that some of its cells may be done since the snapshot.

    Raises
    ------
    StoreError, StoreUnavailable
        Plan, snapshot or a chunk file could not be read, for good or for now.
    """
    plan = load_plan(store, plan_hash)
    ledger = Ledger.load_snapshot(store, snapshot_name(run_id), memory_bytes)
    if again:
        ledger.read_new(store)
    rows = plan.rows[plan.rows["chunk"].between(start, stop, inclusive="left")]
    return Shard(start, stop, ledger.missing(rows), plan.resolution_nm, ledger)


def _by_number(rows: pd.DataFrame, numbers: pd.Series) -> Iterator[tuple[int, pd.DataFrame]]:
    """Rows in groups, by ascending number."""
    for number, group in rows.groupby(numbers.to_numpy(), sort=True):
        yield int(number), group  # type: ignore[call-overload]
