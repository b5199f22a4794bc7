"""The flow `extract-shard`: a range of the chunks of a plan; on a cluster, one job."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from flows.chunks import UPDATE_EVERY_S, ShardChunks
from somatic.cave.counting import requests_sent
from somatic.dataset import load_dataset
from somatic.errors import PermanentError, SomaticError
from somatic.extracting.chunk import unmeasured_rows
from somatic.extracting.estimate import memory_of_worker
from somatic.extracting.extraction import Extraction
from somatic.extracting.shards import Shard, open_shard
from somatic.progress import Progress
from somatic.results.chunks import put_rows
from somatic.results.runs import load_run
from somatic.storage.places import open_results
from somatic.volume.cache_folder import cache_folder
from somatic.workers.choice import choose_workers
from somatic.workers.isolation import CELL_TIMEOUT_S, warm_up
from somatic.workers.memory import machine_memory_bytes
from tasks.costs import noted_requests
from tasks.extraction import ShardRun
from tasks.limits import share_rate_limit
from tasks.results import ProgressArtifact
from tasks.stale import close_stale_task_runs
from tasks.transient import RETRY_DELAY_S


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
        workers: Chunks measured at the same time, each in a process of its own; as many as cores and free memory allow
            when left out.
        meshes: Store soma meshes.
        cell_timeout_s: Longest time for one cell.
        retry_delay_s: First wait before a chunk that failed for now is tried again; it doubles each time.
    """
    sent_before = requests_sent()
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
        memory_bytes = begun.memory_bytes or machine_memory_bytes()
        shard = open_shard(store, plan, start, stop, run, memory_bytes, again=again)
        try:
            extraction = Extraction.open(described, version, to, with_meshes=meshes)
            begun.check_config(extraction.config_hash)
            worker_bytes = memory_of_worker(extraction)
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
        here = choose_workers(worker_bytes, workers)
        workers = here.count
        get_run_logger().info("%s: %d cells to measure, workers: %s", title, len(shard.missing), here.in_words())
        if warning := here.warning():
            get_run_logger().warning(warning)
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
        # An extraction that opened it has chosen them.
        ShardChunks(opened.shard, of_shard, workers or 1, opened.artifact).measure_all()
