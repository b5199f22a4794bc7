"""Measuring the cells of a chunk."""

import random
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from prefect import Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE, CacheKeyFnPolicy
from prefect.context import TaskRunContext
from prefect.runtime import task_run
from prefect.settings import PREFECT_DEFAULT_RESULT_STORAGE_BLOCK

from somatic.errors import CellHung, IncompleteExtraction, Stopped
from somatic.extracting.extraction import Extraction
from somatic.features import Row
from somatic.progress import Progress
from somatic.results.chunks import chunk_key, put_rows
from somatic.results.ledger import Ledger
from somatic.tables import Resolution, Synapses
from tasks.transient import JITTER, RETRIES, is_transient


@dataclass(frozen=True, eq=False)
class ShardRun:
    """What the chunks of a shard have in common.

    Attributes
    ----------
    extraction : Extraction
    resolution_nm : (3,) float
        `Plan.resolution_nm`.
    ledger : Ledger
        What is done.
    progress : Progress
        Counts the cells.
    run_id : str
        The flow run of the extraction.
    cell_timeout_s, retry_delay_s : float
        Longest time for one cell; wait before a chunk is tried again, which doubles each time.
    file_cache : str or None
        Folder where files of the segmentation are kept, if there is one.
    stop : threading.Event
        Set to end soon.
    warnings : list of str
        Lines that the user has to be told; chunks add to it.
    """

    extraction: Extraction
    resolution_nm: Resolution
    ledger: Ledger
    progress: Progress
    run_id: str
    cell_timeout_s: float
    retry_delay_s: float
    file_cache: str | None
    stop: threading.Event = field(default_factory=threading.Event)
    warnings: list[str] = field(default_factory=list)


@task(
    name="extract chunk",
    task_run_name="{title} chunk {number}",
    retries=RETRIES,
    retry_condition_fn=is_transient,
    cache_policy=NO_CACHE,
)
def extract_chunk(
    title: str, number: int, rows: pd.DataFrame, synapses: Synapses | None, shard: ShardRun
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
        `shard.stop` was set.
    """
    trial = task_run.run_count or 1
    if trial > 1:
        _pause(shard.retry_delay_s * 2 ** (trial - 2) * random.uniform(1 - JITTER, 1 + JITTER), shard.stop)
    missing = shard.ledger.missing(rows)
    measured: list[Row] = []
    try:
        for row in shard.extraction.extract(
            missing,
            shard.resolution_nm,
            synapses=synapses,
            cell_timeout_s=shard.cell_timeout_s,
            memory_bytes=shard.ledger.memory_bytes,
            file_cache=shard.file_cache,
            stop=shard.stop,
            on_warning=shard.warnings.append,
        ):
            measured.append(row)
            shard.progress.add(row)
    finally:
        try:
            shard.ledger.add(put_rows(shard.extraction.store, measured, shard.run_id, trial))
        except BaseException:
            shard.progress.take_back(measured)
            raise
    again = [row for row in measured if row["transient"]]
    if again:
        all_hung = all(row["error_class"] == CellHung.__name__ for row in again)
        raise (CellHung if all_hung else IncompleteExtraction)(
            f"{len(again)} of {len(missing)} cells of {title} chunk {number} failed for now; "
            f"nucleus {again[0]['nucleus_id']}: {again[0]['reason']}"
        )
    return {"chunk": number, **Counter(row["status"] for row in measured)}


def with_receipt(chunk_task: Task[..., dict[str, Any]]) -> Task[..., dict[str, Any]]:
    """Have Prefect keep what the task returns, where its settings name a place for results.

    People and Prefect's UI read these receipts. Nothing of ours does: the chunk files decide what is done, so that a
    receipt, which may outlive its chunk file, is always written and never taken in place of the work.
    """
    if not PREFECT_DEFAULT_RESULT_STORAGE_BLOCK.value():
        return chunk_task
    return chunk_task.with_options(
        persist_result=True,
        # Prefect's own default would be a pickle.
        result_serializer="json",
        cache_policy=CacheKeyFnPolicy(cache_key_fn=_receipt_key),
        refresh_cache=True,
    )


def _receipt_key(_context: TaskRunContext, parameters: dict[str, Any]) -> str:
    extraction = parameters["shard"].extraction
    key = chunk_key(parameters["rows"].to_dict("records"))
    return f"{extraction.dataset.name}-v{extraction.version}-{extraction.config_hash}-{key}"


def _pause(seconds: float, stop: threading.Event) -> None:
    """Wait before another trial. Prefect's own wait cannot be cut short, and Ctrl-C would take as long."""
    get_run_logger().info("trying again in %.0f s", seconds)
    if stop.wait(seconds):
        raise Stopped("the extraction was stopped")
