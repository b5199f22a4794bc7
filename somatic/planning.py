"""From the nuclei of a dataset to what is to be measured, and what that will take."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from somatic.estimate import Estimate
from somatic.extraction import Extraction
from somatic.ledger import Ledger
from somatic.plan import Plan, load_plan, make_plan
from somatic.tables import Nuclei


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
class Planned:
    """A plan, what is known to be done, the rows that are missing, and what they will take."""

    plan: Plan
    ledger: Ledger
    missing: pd.DataFrame
    estimate: Estimate

    def chunks(self) -> Iterator[tuple[int, pd.DataFrame]]:
        """Number and missing rows of each chunk in which something is missing."""
        return ((int(number), rows) for number, rows in self.missing.groupby("chunk", sort=True))  # type: ignore[arg-type]


def plan_extraction(
    extraction: Extraction, nuclei: Nuclei, selection: Selection, ledger: Ledger, plan_hash: str | None = None
) -> Planned:
    """Choose nuclei and cut them into chunks, or load the plan that an earlier attempt of this run made."""
    if plan_hash:
        plan = load_plan(extraction.store, plan_hash)
    else:
        plan = make_plan(
            nuclei,
            radius_nm=extraction.radius_nm,
            chunk=selection.chunk,
            limit=selection.limit,
            sample=selection.sample,
            ids=selection.nucleus_ids,
            attempts=ledger.next_attempts(nuclei, retry=selection.retry, force=selection.force),
        )
    missing = ledger.missing(plan.rows)
    return Planned(plan, ledger, missing[missing["chunk"] >= 0], extraction.estimate(plan, missing))
