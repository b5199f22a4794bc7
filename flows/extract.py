"""The flow `extract`: one dataset, one version, from the query to the table."""

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.futures import PrefectFuture, as_completed
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from somatic.collect import Counts
from somatic.dataset import load_dataset
from somatic.errors import IncompleteExtraction, TransientError
from somatic.estimate import Estimate
from somatic.extraction import Extraction
from somatic.isolation import CELL_TIMEOUT_S, warm_up
from somatic.memory import machine_memory_bytes, usable_cores
from somatic.nucleus_ids import read_nucleus_ids
from somatic.planning import Planned, Selection
from somatic.progress import Progress
from somatic.store import ResultStore
from tasks.cave import check_labels, query_nuclei
from tasks.chunking import plan_chunks
from tasks.extraction import extract_chunk
from tasks.results import ProgressArtifact, collect_features, reasons_of
from tasks.transient import RETRY_DELAY_S

_UPDATE_EVERY_S = 5.0
# So many chunks in a row that failed for now, while no cell was measured: the next will fail too.
_FUTILE_CHUNKS = 5


@dataclass(frozen=True)
class Summary:
    """What an extraction came to: counts of the nuclei that were planned, and where the results lie."""

    title: str
    counts: Counts
    reasons: dict[str, int]
    """Why cells failed, and how many did, the commonest reason first."""
    results: str
    table: str
    seconds: float


@dataclass(frozen=True)
class Watcher:
    """Who watches an extraction in this process; each is called when there is news."""

    on_step: Callable[[str], None] = lambda _step: None
    on_estimate: Callable[[Extraction, Estimate], None] = lambda _extraction, _estimate: None
    on_progress: Callable[[Progress], None] = lambda _progress: None
    on_summary: Callable[[Summary], None] = lambda _summary: None


_NOBODY = Watcher()
_watcher: ContextVar[Watcher] = ContextVar("watcher", default=_NOBODY)  # noqa: B039 - it is frozen


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Have a watcher told of what the extractions inside do."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def _run_name() -> str:
    parameters = flow_run.parameters
    return f"{Path(parameters['dataset']).stem} {parameters.get('version') or 'default version'}"


# Prefect stores what a flow failed with, whatever persist_result says; as JSON, since its default is a pickle.
@flow(name="extract", flow_run_name=_run_name, persist_result=False, result_serializer="json")
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
    meshes: bool = True,
    cell_timeout_s: float = CELL_TIMEOUT_S,
    retry_delay_s: float = RETRY_DELAY_S,
) -> Summary:
    """Measure the somata and nuclei of a dataset at one materialization version.

    Args:
        dataset: Name of a dataset that comes with somatic, or path of a dataset file.
        version: Materialization version, or latest; the dataset's own default when left out.
        limit: Only the first so many nuclei by id.
        sample: Only so many nuclei, spread over the dataset.
        nuclei: A file with the ids of the nuclei to measure.
        to: Where results go, a folder or any fsspec URL; else where the dataset says, else ./somatic-results.
        workers: Chunks measured at the same time, each in a process of its own; one a processor core when left out.
        chunk: Cells in a chunk.
        retry: Measure again the cells that failed for good ("failed"), or these nuclei.
        force: Measure everything again.
        meshes: Store soma meshes.
        cell_timeout_s: Longest time for one cell.
        retry_delay_s: First wait before a chunk that failed for now is tried again; it doubles each time.

    Returns
    -------
        What it came to. In the style above Prefect reads it for the form of its UI.
    """
    started = datetime.now(UTC)
    log, watcher, run_id = get_run_logger(), _watcher.get(), str(flow_run.id)

    watcher.on_step("connecting")
    described = load_dataset(dataset)
    for note in described.notes:
        log.warning(note)
    results = ResultStore(f"{(to or described.results or 'somatic-results').rstrip('/')}/{described.name}")
    results.check_writable()
    fixed = _fixed_by_first_attempt(results, run_id)
    extraction = Extraction.open(described, fixed.get("version", version), to, with_meshes=meshes)
    title = extraction.title
    _rename_run(title)
    warm_up()

    watcher.on_step("asking for the nuclei")
    found = query_nuclei(title, extraction)
    watcher.on_step("checking the segmentation")
    check_labels(title, extraction, found)

    watcher.on_step("planning")
    workers = workers or usable_cores()
    memory_bytes = machine_memory_bytes() // workers
    selection = Selection(limit, sample, read_nucleus_ids(nuclei) if nuclei else None, chunk, retry or (), force)
    planned = plan_chunks(title, extraction, found, selection, run_id, memory_bytes, fixed.get("plan"))
    results.put(_record(run_id), json.dumps({"version": extraction.version, "plan": planned.plan.hash}).encode())
    estimate = planned.estimate
    log.info(
        "%s: %d cells to measure in %d chunks, %d done already", title, estimate.missing, estimate.chunks, estimate.done
    )
    watcher.on_estimate(extraction, estimate)

    fault = _measure(extraction, planned, run_id, workers, cell_timeout_s, retry_delay_s, watcher)
    watcher.on_step("collecting the table")
    collected = collect_features(title, extraction, planned.plan, found, started, memory_bytes)
    store, seconds = extraction.store, (datetime.now(UTC) - started).total_seconds()
    reasons = reasons_of(collected.failures)
    summary = Summary(title, collected.planned, reasons, store.url, store.url_of("features.parquet"), seconds)
    watcher.on_summary(summary)
    if fault:
        raise fault
    if not collected.planned.complete:
        reason = collected.failures.loc[collected.failures["transient"], "reason"].mode()[0]
        raise IncompleteExtraction(
            f"{title}: {collected.planned.transient} of {collected.planned.total} nuclei failed for now ({reason}); "
            "run the same command again, which measures only these"
        )
    return summary


def _measure(
    extraction: Extraction,
    planned: Planned,
    run_id: str,
    workers: int,
    cell_timeout_s: float,
    retry_delay_s: float,
    watcher: Watcher,
) -> Exception | None:
    """Measure all chunks in which something is missing; give the error that makes going on useless, if there is one."""
    progress = Progress(len(planned.missing), watcher.on_progress)
    artifact = ProgressArtifact(extraction.title, progress, _UPDATE_EVERY_S)
    stop = threading.Event()
    waiting = planned.chunks()
    running: set[PrefectFuture] = set()
    fault: Exception | None = None
    n_futile = n_done = 0
    runner: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=workers)
    with runner:
        try:
            while True:
                # A few at a time, since each that is submitted costs memory until it is done.
                for number, rows in itertools.islice(waiting, 0 if fault else workers - len(running)):
                    parameters = {
                        "title": extraction.title,
                        "number": number,
                        "rows": rows,
                        "extraction": extraction,
                        "resolution_nm": planned.plan.resolution_nm,
                        "ledger": planned.ledger,
                        "progress": progress,
                        "run_id": run_id,
                        "cell_timeout_s": cell_timeout_s,
                        "retry_delay_s": retry_delay_s,
                        "stop": stop,
                    }
                    running.add(runner.submit(extract_chunk, parameters))
                if not running:
                    artifact.update(at_end=True)
                    return fault
                done = _first_done(running)
                artifact.update()
                if done is None:
                    continue
                running.remove(done)
                outcome = done.result(raise_on_failure=False)
                if progress.done > n_done:
                    n_futile, n_done = 0, progress.done
                if isinstance(outcome, Exception):
                    n_futile += 1
                    if n_futile == _FUTILE_CHUNKS or not isinstance(outcome, TransientError):
                        fault = fault or outcome
        except BaseException:
            stop.set()
            raise


def _first_done(running: set[PrefectFuture]) -> PrefectFuture | None:
    """A future that is done, or None when none is after a while."""
    try:
        return next(as_completed(list(running), timeout=_UPDATE_EVERY_S), None)
    except TimeoutError:
        return None


def _record(run_id: str) -> str:
    return f"runs/{run_id}.json"


def _fixed_by_first_attempt(results: ResultStore, run_id: str) -> dict[str, Any]:
    """Version and plan of this flow run, when it is a retry: a newer version must not change what it does."""
    if (flow_run.run_count or 1) == 1 or not results.exists(_record(run_id)):
        return {}
    return json.loads(results.get(_record(run_id)))


def _rename_run(name: str) -> None:
    """Show the version that "latest" came to."""
    with get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, name=name)
