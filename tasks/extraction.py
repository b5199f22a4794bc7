"""Measuring the cells of a chunk."""

import random
import threading
from collections import Counter
from typing import Any

import pandas as pd
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import task_run

from somatic.chunks import put_rows
from somatic.errors import CellHung, IncompleteExtraction, SomaticError, Stopped
from somatic.extraction import Extraction
from somatic.features import Row
from somatic.ledger import Ledger
from somatic.progress import Progress
from tasks.transient import JITTER, RETRIES, is_transient


@task(
    name="extract chunk",
    task_run_name="{title} chunk {number}",
    retries=RETRIES,
    retry_condition_fn=is_transient,
    cache_policy=NO_CACHE,
)
def extract_chunk(
    title: str,
    number: int,
    rows: pd.DataFrame,
    extraction: Extraction,
    resolution_nm: tuple[float, float, float],
    ledger: Ledger,
    progress: Progress,
    run_id: str,
    cell_timeout_s: float,
    retry_delay_s: float,
    stop: threading.Event,
) -> dict[str, Any]:
    """Measure the cells of a chunk that are not done and store their rows in one file.

    Returns
    -------
    dict
        A receipt: counts of the cells measured now, by status.

    Raises
    ------
    TransientError
        Some cells failed for a transient reason; the others are stored, and a retry measures only what is missing.
    PermanentError
        Nothing can be measured or stored as things are.
    Stopped
        `stop` was set.
    """
    trial = task_run.run_count or 1
    if trial > 1:
        _pause(retry_delay_s * 2 ** (trial - 2) * random.uniform(1 - JITTER, 1 + JITTER), stop)
    missing = ledger.missing(rows)
    measured: list[Row] = []
    try:
        for row in extraction.extract(
            missing, resolution_nm, cell_timeout_s=cell_timeout_s, memory_bytes=ledger.memory_bytes, stop=stop
        ):
            measured.append(row)
            progress.add(row)
    finally:
        try:
            ledger.add(put_rows(extraction.store, measured, run_id, trial))
        except SomaticError:
            progress.take_back(measured)
            raise
    again = [row for row in measured if row["transient"]]
    if again:
        all_hung = all(row["error_class"] == CellHung.__name__ for row in again)
        raise (CellHung if all_hung else IncompleteExtraction)(
            f"{len(again)} of {len(missing)} cells of {title} chunk {number} failed for now; "
            f"nucleus {again[0]['nucleus_id']}: {again[0]['reason']}"
        )
    return {"chunk": number, **Counter(row["status"] for row in measured)}


def _pause(seconds: float, stop: threading.Event) -> None:
    """Wait before another trial. Prefect's own wait cannot be cut short, and Ctrl-C would take as long."""
    get_run_logger().info("trying again in %.0f s", seconds)
    if stop.wait(seconds):
        raise Stopped("the extraction was stopped")
