"""Asking for the nuclei."""

import pyarrow as pa
from prefect import task
from prefect.cache_policies import NO_CACHE

from somatic.cell import Cell
from somatic.check import check_segmentation
from somatic.extraction import Extraction
from somatic.results.parquet import parquet_bytes
from somatic.tables import Nuclei, Synapses
from tasks.transient import JITTER, RETRIES, RETRY_DELAYS_S, is_transient


@task(
    name="query nuclei",
    task_run_name="nuclei of {title}",
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS_S,
    retry_jitter_factor=JITTER,
    retry_condition_fn=is_transient,
    cache_policy=NO_CACHE,
)
def query_nuclei(title: str, extraction: Extraction) -> Nuclei:  # noqa: ARG001 - names the task run
    """Ask for all nuclei and keep them beside the results, as they came."""
    nuclei = extraction.source.nuclei()
    table = pa.Table.from_pandas(nuclei.frame, preserve_index=False).replace_schema_metadata(None)
    extraction.store.put("nuclei.parquet", parquet_bytes(table))
    return nuclei


@task(
    name="check segmentation",
    task_run_name="segmentation of {title}",
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS_S,
    retry_jitter_factor=JITTER,
    retry_condition_fn=is_transient,
    cache_policy=NO_CACHE,
)
def check_labels(title: str, extraction: Extraction, nuclei: Nuclei) -> int:
    """Stop when the segmentation belongs to another version than the root ids."""
    extraction.check_layers()
    return check_segmentation(nuclei, extraction.segmentation, title, extraction.source.timestamp)


@task(
    name="query synapses",
    task_run_name="synapses of {title} chunks {first} to {last}",
    retries=RETRIES,
    retry_condition_fn=is_transient,
    retry_jitter_factor=JITTER,
    cache_policy=NO_CACHE,
)
def query_synapses(
    title: str,  # noqa: ARG001 - names the task run
    first: int,  # noqa: ARG001
    last: int,  # noqa: ARG001
    extraction: Extraction,
    cells: list[Cell],
) -> Synapses | None:
    """Ask for the synapses of the cells of some chunks."""
    return extraction.synapses_of(cells)
