"""The shards of an extraction: here, one after the other, or as flow runs of a deployment, many at once."""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, cast
from uuid import UUID

import httpx
from prefect import State, get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.runtime import flow_run
from prefect.states import Cancelling

from flows.deployed import UNFINISHED, how_it_ended, settles_in, start_run, start_run_again
from flows.shard import UPDATE_EVERY_S, Opened, extract_shard, opened_here
from somatic.errors import FutileExtraction, TransientError
from somatic.extraction import Extraction
from somatic.planning.shards import Planned
from somatic.progress import Progress
from tasks.results import ProgressArtifact

# So many shards in a row that failed without a cell to show for it: the next will fail too.
_FUTILE_SHARDS = 3
# A shard that crashed is started again so often.
_RESTARTS = 2
_LOOK_EVERY_S = 10.0
_COUNT_EVERY_S = 30.0
_PAGE = 200


def run_shards_here(
    extraction: Extraction, planned: Planned, parameters: dict[str, Any], on_progress: Callable[[Progress], None]
) -> Exception | None:
    """Run all shards in this process.

    Parameters
    ----------
    extraction : Extraction
    planned : Planned
    parameters : dict
        Of `extract_shard`, without `start` and `stop`.
    on_progress : callable
        Called after each cell.

    Returns
    -------
    Exception or None
        What made going on useless, if something did.
    """
    progress = Progress(len(planned.missing), on_progress)
    artifact = ProgressArtifact(extraction.title, progress, extraction.store.url, UPDATE_EVERY_S)
    n_futile = n_done = 0
    for shard in planned.shards():
        with opened_here(Opened(extraction, shard, progress, artifact)):
            state = cast(State, extract_shard(**parameters, start=shard.start, stop=shard.stop, return_state=True))
        if state.is_completed():
            continue
        error = state.result(raise_on_failure=False)
        n_futile = 0 if progress.done > n_done else n_futile + 1
        n_done = progress.done
        if not isinstance(error, TransientError) or isinstance(error, FutileExtraction):
            return error
        if n_futile == _FUTILE_SHARDS:
            return FutileExtraction(str(error))
    artifact.update(at_end=True)
    return None


def run_shards_as(
    deployment: str,
    extraction: Extraction,
    planned: Planned,
    parameters: dict[str, Any],
    on_progress: Callable[[Progress], None],
) -> Exception | None:
    """Run all shards as flow runs of a deployment; how many of them at once, its work queue says.

    Parameters
    ----------
    deployment : str
        Its name, flow/deployment.
    extraction, planned, parameters, on_progress
        As for `run_shards_here`.

    Returns
    -------
    Exception or None
        What made going on useless, if something did.
    """
    progress = Progress(len(planned.missing), on_progress)
    artifact = ProgressArtifact(extraction.title, progress, extraction.store.url, UPDATE_EVERY_S)
    with get_client(sync_client=True) as client:
        children = _Children(client, extraction, planned, progress)
        try:
            children.start(deployment, parameters)
            while children.waiting:
                time.sleep(_LOOK_EVERY_S)
                try:
                    children.look()
                except httpx.HTTPError as error:
                    if not _is_away(error):
                        raise
                    # Prefect's client has tried for a minute, and the shards measure on.
                    get_run_logger().warning("Prefect's server cannot be asked for the shards: %s", error)
                artifact.update()
        except FutileExtraction as error:
            cancel_children(client, flow_run.id)
            return error
        finally:
            children.count()
            artifact.update(at_end=True)
    return None


class _Children:
    """The flow runs of the shards of one extraction."""

    def __init__(self, client: SyncPrefectClient, extraction: Extraction, planned: Planned, progress: Progress) -> None:
        self.waiting: set[UUID] = set()
        self._client = client
        self._extraction = extraction
        self._planned = planned
        self._progress = progress
        self._restarts: Counter[UUID] = Counter()
        self._counted = time.monotonic()
        self._n_futile = self._n_done = 0
        self._log = get_run_logger()

    def start(self, deployment: str, parameters: dict[str, Any]) -> None:
        """Create the flow runs, or find those of an earlier attempt of this run again.

        Raises
        ------
        PermanentError
            There is no such deployment.
        """
        for shard in self._planned.shards():
            # The ranges cover the whole plan, so that they are the same in every attempt.
            key = f"{parameters['run']}:{parameters['plan']}:{shard.start}-{shard.stop}"
            of_shard = parameters | {"start": shard.start, "stop": shard.stop}
            child = start_run(deployment, of_shard, key, what="the shards", as_subflow=True)
            self.waiting.add(child.id)
            if child.state and child.state.is_final() and not child.state.is_crashed():
                # It ended in an earlier attempt, and cells of its range are missing still.
                start_run_again(self._client, child, "its extraction")
        self._log.info("%s: %d shards as %s", self._extraction.title, len(self.waiting), deployment)

    def look(self) -> None:
        """See which have ended; start those again that crashed, which is what a killed pod comes to.

        Raises
        ------
        FutileExtraction
            Several in a row failed without a cell to show for it.
        """
        ended = [child for child in self._read() if child.state and child.state.is_final()]
        if ended or time.monotonic() - self._counted > _COUNT_EVERY_S:
            self.count()
        for child in ended:
            if child.state_type == StateType.CRASHED and self._restarts[child.id] < _RESTARTS:
                if child.state and not settles_in(child.state):
                    start_run_again(self._client, child, "its extraction")
                    self._restarts[child.id] += 1
                continue
            self.waiting.discard(child.id)
            if child.state_type != StateType.COMPLETED:
                self._note_failure(child)

    def count(self) -> None:
        """Count the cells that are stored."""
        self._counted = time.monotonic()
        ledger, rows = self._planned.ledger, self._planned.missing
        ledger.read_new(self._extraction.store)
        counted = ledger.count(rows)
        self._progress.note(counted["ok"], counted["failed"])

    def _read(self) -> Iterable[FlowRun]:
        ids = sorted(self.waiting)
        for start in range(0, len(ids), _PAGE):
            chosen = FlowRunFilter(id=FlowRunFilterId(any_=ids[start : start + _PAGE]))
            yield from self._client.read_flow_runs(flow_run_filter=chosen, limit=_PAGE)

    def _note_failure(self, child: FlowRun) -> None:
        assert child.state
        said = f"{child.name} {how_it_ended(child.state)}: {child.state.message}"
        self._log.warning("%s", said)
        self._n_futile = 0 if self._progress.done > self._n_done else self._n_futile + 1
        self._n_done = self._progress.done
        if self._n_futile == _FUTILE_SHARDS:
            raise FutileExtraction(f"{_FUTILE_SHARDS} shards in a row came to nothing; the last: {said}")


def _is_away(error: httpx.HTTPError) -> bool:
    """Whether a server does not answer, or says that it cannot."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.is_server_error
    return isinstance(error, httpx.TransportError)


def cancel_children(client: SyncPrefectClient, parent_id: UUID) -> int:
    """Cancel the flow runs of the shards of an extraction that have not ended; give how many there were."""
    unfinished = FlowRunFilter(
        parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[parent_id]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=UNFINISHED)),
    )
    children: list[FlowRun] = []
    while page := client.read_flow_runs(flow_run_filter=unfinished, limit=_PAGE, offset=len(children)):
        children += page
    for child in children:
        # Not forced: the server makes it Cancelled at once where nothing runs yet.
        client.set_flow_run_state(child.id, Cancelling())
    return len(children)
