"""Taking cells over from an earlier version."""

import pandas as pd
from prefect import task
from prefect.cache_policies import NO_CACHE

from somatic.carrying import carry
from somatic.extraction import Extraction
from somatic.results.chunks import put_rows
from somatic.tables import Resolution
from tasks.transient import JITTER, RETRIES, RETRY_DELAYS_S, is_transient


@task(
    name="carry cells",
    task_run_name="{title} cells {first} to {last}",
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS_S,
    retry_jitter_factor=JITTER,
    retry_condition_fn=is_transient,
    cache_policy=NO_CACHE,
)
def carry_cells(
    title: str,  # noqa: ARG001 - names the task run
    first: int,  # noqa: ARG001
    last: int,  # noqa: ARG001
    extraction: Extraction,
    rows: pd.DataFrame,
    resolution_nm: Resolution,
    run_id: str,
) -> int:
    """Take over the rows of those cells that are as they were, into one file; give how many."""
    return put_rows(extraction.store, carry(extraction, rows, resolution_nm), run_id).num_rows
