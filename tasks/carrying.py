"""Reusing cells of earlier result sets."""

from collections.abc import Callable

import pandas as pd
from prefect import task

from somatic.extracting.carrying import carry
from somatic.extracting.extraction import Extraction
from somatic.results.chunks import put_rows
from somatic.tables import Resolution
from tasks.transient import PATIENTLY


@task(
    name="carry cells",
    task_run_name="{title} cells {first} to {last}",
    **PATIENTLY,
)
def carry_cells(
    title: str,  # noqa: ARG001 - names the task run
    first: int,  # noqa: ARG001
    last: int,  # noqa: ARG001
    extraction: Extraction,
    rows: pd.DataFrame,
    resolution_nm: Resolution,
    run_id: str,
    warn: Callable[[str], None],
) -> int:
    """Reuse the rows of those cells that are as they were, in one file; give how many."""
    return put_rows(extraction.store, carry(extraction, rows, resolution_nm, warn), run_id).num_rows
