"""The flow `extract-shard`: a range of the chunks of a plan; on a cluster, one job."""

import itertools
import queue
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from flows.futility import Futility
from flows.listening import present_listener
from somatic.cave.counting import requests_sent
from somatic.dataset import load_dataset
from somatic.errors import FutileExtraction, PermanentError, SomaticError, TransientError
from somatic.extracting.chunk import cells_of, unmeasured_rows
from somatic.extracting.extraction import Extraction
from somatic.extracting.shards import Shard, open_shard
from somatic.progress import Progress
from somatic.results.chunks import put_rows
from somatic.results.runs import load_run
from somatic.storage.places import open_results
from somatic.tables import Synapses
from somatic.volume.cache_folder import cache_folder
from somatic.workers.isolation import CELL_TIMEOUT_S, warm_up
from somatic.workers.memory import machine_memory_bytes, usable_cores
from tasks.cave import query_synapses
from tasks.costs import noted_requests
from tasks.extraction import ShardRun, extract_chunk, with_receipt
from tasks.limits import share_rate_limit
from tasks.results import ProgressArtifact
from tasks.stale import close_stale_task_runs
from tasks.transient import RETRY_DELAY_S, exponential_delays_s

UPDATE_EVERY_S = 5.0
_FUTILE_CHUNKS = 5


@dataclass(frozen=True, eq=False)
class Opened:
    """A shard whose extraction this process has opened, and who counts its cells."""

    extraction: Extraction
    shard: Shard
    progress: Progress
    artifact: ProgressArtifact


_opened: ContextVar[Opened | None] = ContextVar("opened", default=None)


@contextmanager
def opened_here(opened: Opened) -> Iterator[None]:
    """Have the shard that runs inside take what is open already."""
    token = _opened.set(opened)
    try:
        yield
    finally:
        _opened.reset(token)


def _run_name() -> str:
    parameters = flow_run.parameters
    chunks = _chunks(parameters["start"], parameters["stop"])
    return f"{Path(parameters['dataset']).stem} v{parameters['version']} {chunks}"


def _chunks(start: int, stop: int) -> str:
    return f"chunk {start}" if stop - start == 1 else f"chunks {start} to {stop - 1}"


# As for `extract`.
@flow(name="extract-shard", flow_run_name=_run_name, persist_result=False, result_serializer="json")
def extract_shard(
    dataset: str,
    version: int,
    plan: str,
    start: int,
    stop: int,
    run: str,
    to: str | None = None,
    workers: int | None = None,
    meshes: bool = True,
    cell_timeout_s: float = CELL_TIMEOUT_S,
    retry_delay_s: float = RETRY_DELAY_S,
) -> None:
    """Measure what is missing in a range of the chunks of a plan. An extraction starts this; nobody else need.

    Args:
        dataset: Name of a dataset that comes with somatic, or path of a dataset file.
        version: Materialization version.
        plan: Hash of the plan, which lies beside the results.
        start: Number of the first chunk.
        stop: Number of the chunk after the last.
        run: Id of the flow run of the extraction.
        to: Where results go, a folder or any fsspec URL; else where the dataset says, else ./somatic-results.
        workers: Chunks measured at the same time, each in a process of its own; one a processor core when left out.
        meshes: Store soma meshes.
        cell_timeout_s: Longest time for one cell.
        retry_delay_s: First wait before a chunk that failed for now is tried again; it doubles each time.
    """
    sent_before = requests_sent()
    workers = workers or usable_cores()
    opened = _opened.get()
    # Of a shard that runs inside an extraction, that counts the requests.
    noted: AbstractContextManager[None] = nullcontext()
    if opened is None:
        share_rate_limit()
        again = (flow_run.run_count or 1) > 1
        if again:
            with get_client(sync_client=True) as client:
                close_stale_task_runs(client, flow_run.id)
        described = load_dataset(dataset)
        warm_up(described.definitions)
        results = open_results(described, to)
        begun = load_run(results, run)
        if begun is None:
            raise PermanentError(f"no extraction {run} has begun at {results.url}; start one in place of its shard")
        store = begun.store(results)
        # What the extraction decided by holds, though this job may have less: it collects what is done by the same.
        memory_bytes = begun.memory_bytes or machine_memory_bytes() // workers
        shard = open_shard(store, plan, start, stop, run, memory_bytes, again=again)
        try:
            extraction = Extraction.open(described, version, to, with_meshes=meshes)
            begun.check_config(extraction.config_hash)
        except SomaticError as error:
            # Each cell says why, such as that the version has expired meanwhile.
            unmeasured = unmeasured_rows(shard.missing, shard.resolution_nm, error, version, described.definitions)
            put_rows(store, unmeasured, run, flow_run.run_count or 1)
            raise
        extraction = extraction.reusing(begun.bases, get_run_logger().warning)
        progress = Progress(len(shard.missing))
        title = f"{extraction.title} {_chunks(start, stop)}"
        artifact = ProgressArtifact(title, progress, extraction.store.url, UPDATE_EVERY_S)
        opened = Opened(extraction, shard, progress, artifact)
        get_run_logger().info("%s: %d cells to measure", title, len(shard.missing))
        noted = noted_requests(extraction.store, run, sent_before)
    with noted, cache_folder() as file_cache:
        of_shard = ShardRun(
            extraction=opened.extraction,
            resolution_nm=opened.shard.resolution_nm,
            ledger=opened.shard.ledger,
            progress=opened.progress,
            run_id=run,
            cell_timeout_s=cell_timeout_s,
            retry_delay_s=retry_delay_s,
            file_cache=file_cache,
        )
        _Chunks(opened.shard, of_shard, workers, opened.artifact).measure_all()


class _Chunks:
    """The chunks of one shard, several measured at once."""

    def __init__(self, shard: Shard, run: ShardRun, workers: int, artifact: ProgressArtifact) -> None:
        self._shard = shard
        self._run = run
        self._workers = workers
        self._artifact = artifact
        self._task = with_receipt(extract_chunk)
        self._failed_for_now: SomaticError | None = None
        self._fault: Exception | None = None
        self._futility = Futility(_FUTILE_CHUNKS)

    def measure_all(self) -> None:
        """Measure them.

        Raises
        ------
        TransientError
            Some cells failed for now; so did so many in a row that the rest was not tried, it may be.
        Exception
            What makes going on useless.
        """
        waiting = self._with_synapses()
        n_running = 0
        ended: queue.SimpleQueue[PrefectFuture] = queue.SimpleQueue()
        runner: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=self._workers)
        with runner:
            try:
                while True:
                    # A few at a time, since each that is submitted costs memory until it is done.
                    for number, rows, synapses in itertools.islice(waiting, self._workers - n_running):
                        parameters = {
                            "title": self._run.extraction.title,
                            "number": number,
                            "rows": rows,
                            "synapses": synapses,
                            "shard": self._run,
                        }
                        future = runner.submit(self._task, parameters)
                        n_running += 1
                        future.add_done_callback(ended.put)
                    if not n_running:
                        break
                    done = _first(ended)
                    self._artifact.update()
                    self._tell_warnings()
                    if done is not None:
                        n_running -= 1
                        outcome = done.result(raise_on_failure=False)
                        self._judge(outcome if isinstance(outcome, Exception) else None)
            except BaseException:
                self._run.stop.set()
                raise
        self._artifact.update(at_end=True)
        if self._fault or self._failed_for_now:
            raise self._fault or self._failed_for_now  # type: ignore[misc]

    def _with_synapses(self) -> Iterator[tuple[int, pd.DataFrame, Synapses | None]]:
        """Chunks with their synapses, which are asked for in batches while chunks before them are measured."""
        extraction, shard = self._run.extraction, self._shard
        ask = query_synapses.with_options(retry_delay_seconds=exponential_delays_s(self._run.retry_delay_s))
        for batch in shard.batches():
            rows = pd.concat([rows for _, rows in batch])
            cells = cells_of(rows, shard.resolution_nm)
            try:
                synapses = ask(extraction.title, batch[0][0], batch[-1][0], extraction, cells)
            except SomaticError as error:
                version, definitions = extraction.version, extraction.dataset.definitions
                unmeasured = unmeasured_rows(rows, shard.resolution_nm, error, version, definitions)
                put_rows(extraction.store, unmeasured, self._run.run_id, flow_run.run_count or 1)
                for _ in batch:
                    self._judge(error)
                batch.clear()
            for number, rows in batch:
                if not self._fault:
                    yield number, rows, synapses
            if self._fault:
                return

    def _tell_warnings(self) -> None:
        while self._run.warnings:
            text = self._run.warnings.pop(0)
            get_run_logger().warning(text)
            present_listener().on_remark(text)

    def _judge(self, error: Exception | None) -> None:
        """Note how a chunk ended, and whether it makes sense to go on."""
        futile = self._futility.note(self._run.progress.done, failed=error is not None)
        if isinstance(error, TransientError):
            self._failed_for_now = self._failed_for_now or error
            if futile:
                self._fault = self._fault or FutileExtraction(str(error))
        else:
            self._fault = self._fault or error


def _first(ended: "queue.SimpleQueue[PrefectFuture]") -> PrefectFuture | None:
    """A future that has ended, or None when none does for a while."""
    try:
        return ended.get(timeout=UPDATE_EVERY_S)
    except queue.Empty:
        return None
