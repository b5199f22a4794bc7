"""The flow `extract`: one dataset, one version, from the query to the table."""

import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.flows import Flow
from prefect.runtime import flow_run
from prefect.states import State

from flows.carrying import carry_over
from flows.deployed import job_memory_bytes
from flows.fanout import cancel_children, run_shards_as, run_shards_here
from flows.listening import Summary, present_listener
from somatic.cave.counting import requests_sent
from somatic.dataset import load_dataset
from somatic.errors import IncompleteExtraction
from somatic.extracting.estimate import estimate_extraction
from somatic.extracting.extraction import Extraction
from somatic.extracting.shards import CHUNKS_PER_SHARD, Selection
from somatic.nucleus_ids import read_nucleus_ids
from somatic.planning.plan import with_nothing_done
from somatic.results.base import choose_bases
from somatic.results.collect import reasons_of
from somatic.results.runs import Run, load_run
from somatic.results.sets import result_sets
from somatic.storage.places import FEATURES, open_results
from somatic.storage.store import ResultStore
from somatic.workers.choice import choose_workers
from somatic.workers.isolation import CELL_TIMEOUT_S, warm_up
from somatic.workers.memory import machine_memory_bytes, usable_cores
from tasks.cave import check_layers, query_nuclei
from tasks.chunking import plan_chunks
from tasks.costs import noted_requests
from tasks.limits import share_rate_limit
from tasks.results import collect_features
from tasks.stale import close_stale_task_runs
from tasks.transient import RETRY_DELAY_S


def _run_name() -> str:
    parameters = flow_run.parameters
    return f"{Path(parameters['dataset']).stem} {parameters.get('version') or 'default version'}"


def _cancel_shards(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:  # noqa: ARG001 - Prefect names them
    with get_client(sync_client=True) as client:
        cancel_children(client, flow_run.id)


# Prefect stores what a flow failed with, whatever persist_result says; as JSON, since its default is a pickle.
@flow(
    name="extract",
    flow_run_name=_run_name,
    persist_result=False,
    result_serializer="json",
    on_cancellation=[_cancel_shards],
)
def extract(
    dataset: str,
    version: int | Literal["latest"] | None = None,
    limit: int | None = None,
    sample: int | None = None,
    nuclei: str | None = None,
    to: str | None = None,
    workers: int | None = None,
    chunk: int = 10,
    retry: Literal["failed"] | list[int] | None = None,
    force: bool = False,
    since: int | Literal["auto"] | None = "auto",
    meshes: bool = True,
    cell_timeout_s: float = CELL_TIMEOUT_S,
    retry_delay_s: float = RETRY_DELAY_S,
    shard_deployment: str | None = None,
    chunks_per_shard: int | None = None,
) -> Summary:
    """Measure the somata and nuclei of a dataset at one materialization version.

    Args:
        dataset: Name of a dataset that comes with somatic, or path of a dataset file.
        version: Materialization version, or latest; the dataset's own default when left out.
        limit: Only the first so many nuclei by id.
        sample: Only so many nuclei, spread over the dataset.
        nuclei: A file with the ids of the nuclei to measure: a text with one id a line, or a table with a column
            nucleus_id or id.
        to: Where results go, a folder or any fsspec URL; else where the dataset says, else ./somatic-results.
        workers: Chunks of a shard measured at the same time, each in a process of its own; as many as cores and free
            memory allow when left out.
        chunk: Cells in a chunk.
        retry: Measure again those that failed for good ("failed"), or these nuclei. Without the limit, sample or nuclei
            of before all that is missing is measured too.
        force: Measure again what is done too.
        since: Version whose results are reused where they are provably the same; auto chooses the complete results that
            save most, null measures every cell.
        meshes: Store soma meshes.
        cell_timeout_s: Longest time for one cell.
        retry_delay_s: First wait before a chunk that failed for now is tried again; it doubles each time.
        shard_deployment: Deployment of extract-shard that the shards run as, such as extract-shard/minnie65; when left
            out they run here, one after the other.
        chunks_per_shard: Chunks in a shard; 20, or more where that is too few for so many workers, when left out.

    Returns
    -------
        What it came to. In the style above Prefect reads it for the form of its UI.
    """
    started, sent_before = datetime.now(UTC), requests_sent()
    log, listener, run_id = get_run_logger(), present_listener(), str(flow_run.id)
    share_rate_limit()

    listener.on_step("connecting")
    described = load_dataset(dataset)
    for note in described.notes:
        log.warning(note)
    results = open_results(described, to)
    results.check_writable()
    run = _first_attempt(results, run_id)
    extraction = Extraction.open(described, run.version if run else version, to, with_meshes=meshes)
    if run:
        run.check_config(extraction.config_hash)
    if extraction.token_note:
        log.info(extraction.token_note)
        listener.on_remark(extraction.token_note)
    notes = extraction.source.notes
    _warn(*notes)
    n_warned = len(notes)
    title = extraction.title
    _rename_run(title)
    if run is None:
        size = chunks_per_shard or _chunks_per_shard(None if shard_deployment else workers or usable_cores())
        sets = [] if force else result_sets(results)
        bases = choose_bases(sets, extraction.version, extraction.config, None if force else since, _warn)
        whole = limit is None and sample is None and nuclei is None
        memory_bytes = _memory_for_a_cell(shard_deployment)
        run = Run(run_id, extraction.version, extraction.config_hash, None, size, started, bases, whole, memory_bytes)
        run.put(results)
    if run.bases:
        listener.on_step("reading earlier results")
        extraction = extraction.reusing(run.bases, _warn)
        # Its shards need not try what cannot be read.
        run = replace(run, bases=tuple(base.name for base in extraction.bases))
        run.put(results)
    if not shard_deployment:
        warm_up(extraction.dataset.definitions)

    listener.on_step("asking for the nuclei")
    found = query_nuclei(title, extraction)
    _warn(*notes[n_warned:])
    listener.on_step("checking the segmentation")
    check_layers(title, extraction, found)

    selection = Selection(limit, sample, read_nucleus_ids(nuclei) if nuclei else None, chunk, retry or (), force)
    if run.bases and not run.plan:
        with noted_requests(extraction.store, run_id, sent_before):
            carry_over(extraction, found, selection, run_id, listener, _warn)

    listener.on_step("planning")
    planned = plan_chunks(title, extraction, found, selection, run)
    plan, estimate = planned.plan, planned.estimate
    if not run.plan:
        replace(run, plan=plan.hash, whole=len(plan.rows) == len(found.frame)).put(results)
    log.info(
        "%s: %d cells to measure in %d chunks, %d done already", title, estimate.missing, estimate.chunks, estimate.done
    )
    here = None if shard_deployment else choose_workers(estimate.worker_memory_bytes, workers)
    if here:
        log.info("%s: workers: %s", title, here.in_words())
        if warning := here.warning():
            log.warning(warning)
    listener.on_estimate(extraction, estimate, here)

    shard_parameters = {
        "dataset": dataset,
        "version": extraction.version,
        "plan": plan.hash,
        "run": run_id,
        "to": to,
        "workers": here.count if here else workers,
        "meshes": meshes,
        "cell_timeout_s": cell_timeout_s,
        "retry_delay_s": retry_delay_s,
    }
    with noted_requests(extraction.store, run_id, sent_before):
        if shard_deployment:
            fault = run_shards_as(shard_deployment, extraction, planned, shard_parameters, listener.on_progress)
        else:
            fault = run_shards_here(extraction, planned, shard_parameters, listener.on_progress)

    listener.on_step("collecting the table")
    everything = estimate_extraction(extraction, plan, with_nothing_done(plan, chunk), run.chunks_per_shard)
    collected, cost = collect_features(title, extraction, plan, found, run, everything, fault, _warn)
    store, seconds = extraction.store, (datetime.now(UTC) - started).total_seconds()
    reasons = reasons_of(collected.failures)
    summary = Summary(title, collected.planned, reasons, store.url, store.url_of(FEATURES), seconds, cost)
    listener.on_summary(summary)
    if fault:
        raise fault
    if not collected.planned.complete:
        reason = collected.failures.loc[collected.failures["transient"], "reason"].mode()[0]
        raise IncompleteExtraction(
            f"{title}: {collected.planned.transient} of {collected.planned.total} nuclei failed for now ({reason}); "
            "run the same command again, which measures only these"
        )
    return summary


def _warn(*notes: str) -> None:
    """Tell what a person should know about the tables, and about what cannot be read."""
    for note in notes:
        get_run_logger().warning(note)
        present_listener().on_remark(note)


def _chunks_per_shard(workers: int | None) -> int:
    """Enough that the workers of this machine seldom wait for the last chunk of a shard; on a cluster, one job's."""
    return CHUNKS_PER_SHARD * max(1, math.ceil((workers or 1) / 4))


def _memory_for_a_cell(shard_deployment: str | None) -> int | None:
    """What a cell has that is measured alone, here or in a job of a shard; None where a job does not say."""
    if shard_deployment is None:
        return machine_memory_bytes()
    with get_client(sync_client=True) as client:
        return job_memory_bytes(client, shard_deployment)


def _first_attempt(results: ResultStore, run_id: str) -> Run | None:
    """What this flow run fixed before, when it is a retry: a newer version must not change what it does."""
    if (flow_run.run_count or 1) == 1:
        return None
    with get_client(sync_client=True) as client:
        close_stale_task_runs(client, flow_run.id)
    return load_run(results, run_id)


def _rename_run(name: str) -> None:
    """Show the version that "latest" came to."""
    with get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, name=name)
