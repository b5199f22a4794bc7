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

from flows.chunks import UPDATE_EVERY_S
from flows.deployed import UNFINISHED, how_it_ended, settles_in, start_run, start_run_again
from flows.futility import Futility
from flows.shard import Opened, extract_shard, opened_here
from somatic.errors import FutileExtraction, SomaticError, TransientError
from somatic.extracting.extraction import Extraction
from somatic.extracting.shards import Planned
from somatic.progress import Progress
from tasks.results import ProgressArtifact

_FUTILE_SHARDS = 3
# A shard that crashed is started again so often.
_RESTARTS = 2
_PAGE = 200
# How often the server is asked for a whole page of shards; for few more often, since it costs it less.
_LOOK_EVERY_S, _LOOK_AT_MOST_EVERY_S = 10.0, 1.0
_COUNT_EVERY_S = 30.0


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
    futility = Futility(_FUTILE_SHARDS)
    for shard in planned.shards():
        with opened_here(Opened(extraction, shard, progress, artifact)):
            state = cast(State, extract_shard(**parameters, start=shard.start, stop=shard.stop, return_state=True))
        futile = futility.note(progress.done, failed=not state.is_completed())
        if state.is_completed():
            continue
        error = state.result(raise_on_failure=False)
        if not isinstance(error, TransientError) or isinstance(error, FutileExtraction):
            return error
        if futile:
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
                time.sleep(_until_next_look_s(len(children.waiting)))
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
        self._futility = Futility(_FUTILE_SHARDS)
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
        found = {child.id: child for child in self._read()}
        ended = [child for child in found.values() if child.state and child.state.is_final()]
        if ended or time.monotonic() - self._counted > _COUNT_EVERY_S:
            self.count()
        for gone in self.waiting - found.keys():
            self.waiting.discard(gone)
            self._note(f"the flow run of a shard was deleted ({gone})", failed=True)
        for child in ended:
            if child.state_type == StateType.CRASHED and self._restarts[child.id] < _RESTARTS:
                if child.state and not settles_in(child.state):
                    start_run_again(self._client, child, "its extraction")
                    self._restarts[child.id] += 1
                continue
            self.waiting.discard(child.id)
            assert child.state
            said = f"{child.name} {how_it_ended(child.state)}: {child.state.message}"
            self._note(said, failed=not child.state.is_completed())

    def count(self) -> None:
        """Count the cells that are stored."""
        self._counted = time.monotonic()
        ledger, rows = self._planned.ledger, self._planned.missing
        try:
            ledger.read_new(self._extraction.store)
        except SomaticError as error:
            # The shards measure on, and who collects the table will say it where it stays so.
            self._log.warning("the cells that are stored cannot be counted: %s", error)
        counted = ledger.count(rows)
        self._progress.note(counted["ok"], counted["failed"])

    def _read(self) -> Iterable[FlowRun]:
        ids = sorted(self.waiting)
        for start in range(0, len(ids), _PAGE):
            chosen = FlowRunFilter(id=FlowRunFilterId(any_=ids[start : start + _PAGE]))
            yield from self._client.read_flow_runs(flow_run_filter=chosen, limit=_PAGE)

    def _note(self, said: str, *, failed: bool) -> None:
        if failed:
            self._log.warning("%s", said)
        if self._futility.note(self._progress.done, failed=failed):
            raise FutileExtraction(f"{_FUTILE_SHARDS} shards in a row came to nothing; the last: {said}")


def _until_next_look_s(n_shards: int) -> float:
    return max(_LOOK_AT_MOST_EVERY_S, _LOOK_EVERY_S * min(1.0, n_shards / _PAGE))


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
