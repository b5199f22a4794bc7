"""The chunks of one shard: several measured at once, and the synapses of the next ones queried meanwhile."""

import queue
import threading
from collections import deque
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

import pandas as pd
from prefect import get_run_logger
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from flows.futility import Futility
from flows.listening import present_listener
from somatic.errors import FutileExtraction, SomaticError, TransientError
from somatic.extracting.chunk import cells_of, unmeasured_rows
from somatic.extracting.shards import Shard
from somatic.results.chunks import put_rows
from somatic.tables import Synapses
from tasks.cave import query_synapses
from tasks.extraction import ShardRun, extract_chunk, with_receipt
from tasks.results import ProgressArtifact
from tasks.transient import exponential_delays_s

UPDATE_EVERY_S = 5.0
_FUTILE_CHUNKS = 5

Batch = list[tuple[int, pd.DataFrame]]
"""Chunks whose synapses are queried together: number and rows."""

Outcome = Synapses | SomaticError | None
"""Synapses of a batch, None where there is no table of them, or why there are none."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What came of a query of synapses."""

    batch: Batch
    outcome: Outcome | BaseException


class ShardChunks:
    """The chunks of a shard, and how far they are.

    Parameters
    ----------
    shard : Shard
    run : ShardRun
    workers : int
        Chunks measured at the same time.
    artifact : ProgressArtifact
        Kept up to date.
    """

    def __init__(self, shard: Shard, run: ShardRun, workers: int, artifact: ProgressArtifact) -> None:
        self._shard = shard
        self._run = run
        self._workers = workers
        self._artifact = artifact
        self._task = with_receipt(extract_chunk)
        self._batches = shard.batches()
        self._is_asking = False
        self._ready: deque[tuple[int, pd.DataFrame, Outcome]] = deque()
        self._newest: Batch = []
        """The last batch with an answer."""
        self._n_running = 0
        self._ended: queue.SimpleQueue[PrefectFuture | Answer] = queue.SimpleQueue()
        self._failed_for_now: SomaticError | None = None
        self._fault: Exception | None = None
        self._futility = Futility(_FUTILE_CHUNKS)

    def measure_all(self) -> None:
        """Measure them.

        Raises
        ------
        TransientError
            Some cells failed for a transient reason, or so many in a row that the rest was not tried.
        Exception
            What makes going on useless.
        """
        runner: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=self._workers)
        with runner:
            try:
                while True:
                    self._start_ready(runner)
                    self._ask_ahead()
                    if not self._n_running and (self._fault or not self._is_asking):
                        break
                    self._wait()
            except BaseException:
                self._run.stop.set()
                raise
        self._artifact.update(at_end=True)
        if self._fault or self._failed_for_now:
            raise self._fault or self._failed_for_now  # type: ignore[misc]

    def _start_ready(self, runner: ThreadPoolTaskRunner[Any]) -> None:
        # A few at a time, since each that is submitted costs memory until it is done.
        while self._ready and self._n_running < self._workers and not self._fault:
            number, rows, synapses = self._ready.popleft()
            if isinstance(synapses, SomaticError):
                # Not sooner, since the chunks before it may show that it makes sense to go on.
                self._judge(synapses)
                continue
            parameters = {
                "title": self._run.extraction.title,
                "number": number,
                "rows": rows,
                "synapses": synapses,
                "shard": self._run,
            }
            runner.submit(self._task, parameters).add_done_callback(self._ended.put)
            self._n_running += 1

    def _ask_ahead(self) -> None:
        """Query the synapses of the next batch, unless all chunks of the one before still wait."""
        all_wait = self._newest and len(self._ready) >= len(self._newest)
        if self._is_asking or self._fault or all_wait:
            return
        batch = next(self._batches, None)
        if batch is None:
            return
        self._is_asking = True
        # Not waited for on Ctrl-C: a query may take minutes, and longer when it is tried again.
        threading.Thread(target=copy_context().run, args=(self._ask, batch), daemon=True).start()

    def _ask(self, batch: Batch) -> None:
        extraction = self._run.extraction
        ask = query_synapses.with_options(retry_delay_seconds=exponential_delays_s(self._run.retry_delay_s))
        cells = cells_of(pd.concat([rows for _, rows in batch]), self._shard.resolution_nm)
        outcome: Outcome | BaseException
        try:
            outcome = ask(extraction.title, batch[0][0], batch[-1][0], extraction, cells)
        except BaseException as error:
            outcome = error
        self._ended.put(Answer(batch, outcome))

    def _wait(self) -> None:
        """Wait until a chunk has ended or a query has an answer, and not for ever."""
        try:
            ended = self._ended.get(timeout=UPDATE_EVERY_S)
        except queue.Empty:
            self._artifact.update()
            return
        self._artifact.update()
        self._tell_warnings()
        if isinstance(ended, Answer):
            self._is_asking = False
            self._take(ended)
        else:
            self._n_running -= 1
            outcome = ended.result(raise_on_failure=False)
            self._judge(outcome if isinstance(outcome, Exception) else None)

    def _take(self, answer: Answer) -> None:
        """Have the chunks of a batch wait for their turn."""
        outcome, extraction = answer.outcome, self._run.extraction
        if isinstance(outcome, SomaticError):
            rows = pd.concat([rows for _, rows in answer.batch])
            version, definitions = extraction.version, extraction.dataset.definitions
            unmeasured = unmeasured_rows(rows, self._shard.resolution_nm, outcome, version, definitions)
            put_rows(extraction.store, unmeasured, self._run.run_id, flow_run.run_count or 1)
        elif isinstance(outcome, BaseException):
            raise outcome
        self._newest = answer.batch
        self._ready.extend((number, rows, outcome) for number, rows in answer.batch)

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
