"""The flow `watch`: extracts each materialization version that is newer than the newest complete table."""

import hashlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterIdempotencyKey
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.runtime import flow_run

from flows.deployed import UNFINISHED, how_it_ended, settles_in, start_run, start_run_again
from flows.extract import extract
from flows.listening import present_listener
from somatic.cave.tokens import where_the_token_goes
from somatic.dataset import Dataset, load_dataset
from somatic.errors import IncompleteExtraction, PermanentError
from somatic.extracting.extraction import Extraction
from somatic.extracting.versions import Standing, newest_complete, standings
from somatic.results.runs import load_runs
from somatic.results.sets import result_sets
from somatic.storage.places import config_hashes, open_results
from tasks.limits import share_rate_limit
from tasks.versions import query_versions, tell_versions

_CANCELLED = [StateType.CANCELLING, StateType.CANCELLED]


def _run_name() -> str:
    return f"versions of {Path(flow_run.parameters['dataset']).stem}"


# As for `extract`.
@flow(name="watch", flow_run_name=_run_name, persist_result=False, result_serializer="json")
def watch(
    dataset: str,
    to: str | None = None,
    extract_deployment: str | None = None,
    expires_within_days: int = 14,
    workers: int | None = None,
    dry_run: bool = False,
) -> list[int]:
    """Extract each materialization version of a dataset that is newer than its newest complete table.

    Args:
        dataset: Name of a dataset that comes with somatic, or path of a dataset file.
        to: Where results are and go, a folder or any fsspec URL; else where the dataset says, else ./somatic-results.
        extract_deployment: Deployment of extract that each version runs as, such as extract/minnie65, without waiting
            for its end; when left out they run here, one after the other.
        expires_within_days: A version that CAVE takes away within so many days is told.
        workers: As for extract, where that runs here.
        dry_run: Only say what there is to do.

    Returns
    -------
        Versions that want a table and have no complete one, the newest first.
    """
    log, listener = get_run_logger(), present_listener()
    said: list[str] = []

    def say(line: str) -> None:
        log.info("%s", line)
        listener.on_note(line)
        said.append(line)

    share_rate_limit()
    described = load_dataset(dataset)
    name, results, configs = described.name, open_results(described, to), config_hashes(described)
    listener.on_step("asking for the versions")
    known = query_versions(name, described)
    assert described.cave is not None  # else there would be no versions
    remark = where_the_token_goes(described.cave.server)
    log.info(remark)
    listener.on_remark(remark)
    listener.on_step("reading what is stored")
    sets = [found for found in result_sets(results) if found.config in configs]
    for one in sets:
        if one.fault:
            raise one.fault
    runs = [run for run in load_runs(results) if run.config in configs]
    found = standings(known, sets, runs)
    missing = [standing for standing in found if standing.wanted]
    newest = newest_complete(sets)

    left, failed = [standing.version.number for standing in missing], []
    if newest is None:
        command = f"prefect deployment run {extract_deployment}" if extract_deployment else f"somatic extract {dataset}"
        say(f"{name}: no complete table at {results.url}, so nothing is started; make the first with: {command}")
    elif not missing:
        say(f"{name}: the table of v{newest} is complete, and there is no newer version")
    else:
        for line in _expiring(name, missing, timedelta(days=expires_within_days)):
            say(line)
        for standing in missing:
            number = standing.version.number
            title, parameters = f"{name} v{number}", {"dataset": dataset, "version": number, "to": to}
            if extract_deployment:
                say(f"{title}: {_attend(extract_deployment, described, standing, parameters, dry_run=dry_run)}")
            elif dry_run:
                say(f"{title}: to be extracted")
            else:
                say(f"{title}: is extracted here")
                state = extract(**parameters, workers=workers, return_state=True)
                if state.is_completed():
                    left.remove(number)
                else:
                    say(f"{title}: {state.result(raise_on_failure=False)}")
                    failed.append(number)
    tell_versions(name, results.url, found, said)
    if failed:
        raise IncompleteExtraction(
            f"{name}: {len(failed)} of {len(missing)} versions came to no complete table: "
            f"{', '.join(f'v{number}' for number in failed)}; the log says why, and what was measured is kept"
        )
    return left


def _expiring(name: str, missing: list[Standing], within: timedelta) -> Iterator[str]:
    now = datetime.now(UTC)
    for version in (standing.version for standing in missing):
        if note := version.expiry_note(name, now):
            yield note
        elif version.expires and version.expires - now < within:
            yield (
                f"{name} v{version.number} expires on {version.expires:%Y-%m-%d %H:%M} UTC; "
                "what is not measured by then cannot be any more"
            )


def _attend(deployment: str, dataset: Dataset, standing: Standing, parameters: dict[str, Any], *, dry_run: bool) -> str:
    """Have a version extracted as one flow run of a deployment, however often it is asked for; say how it stands."""
    try:
        extraction = Extraction.open(dataset, standing.version.number, parameters["to"])
    except PermanentError as error:
        return f"cannot be extracted: {error}"
    # Where results go is part of it: a table in one place is none in another. Hashed, since it may be long.
    place = hashlib.sha256(extraction.store.url.encode()).hexdigest()[:16]
    key = f"{dataset.name}:{extraction.version}:{extraction.config_hash}:{place}"
    with get_client(sync_client=True) as client:
        run = _find(client, key, standing)
        if run is None:
            if dry_run:
                return f"to be started as {deployment}"
            run = start_run(deployment, parameters, key, what="new versions", as_subflow=False)
            return f"started as flow run {run.name} ({run.id})"
        state = run.state
        assert state
        its_run = f"its flow run {run.name} ({run.id})"
        if state.type in UNFINISHED:
            return f"{its_run} is {state.name}"
        if state.type in _CANCELLED:
            return f"{its_run} was cancelled and is left alone; to have it: prefect flow-run retry {run.id}"
        if state.is_completed():
            return (
                f"{its_run} is Completed, but there is no complete table; "
                f"start another: prefect deployment run {deployment} -p version={extraction.version}"
            )
        if dry_run:
            return f"{its_run} {how_it_ended(state)} ({state.message}); to be started again"
        time.sleep(settles_in(state).total_seconds())
        start_run_again(client, run, "watch")
        return f"{its_run} {how_it_ended(state)} ({state.message}) and is started again"


def _find(client: SyncPrefectClient, key: str, standing: Standing) -> FlowRun | None:
    """The flow run of a version: that of the key, else a person's that goes on or was cancelled."""
    with_key = FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=[key]))
    for run in client.read_flow_runs(flow_run_filter=with_key):
        return run
    begun = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(run_id) for run_id in standing.runs]))
    known = {str(run.id): run for run in client.read_flow_runs(flow_run_filter=begun)}
    latest = next((known[run_id] for run_id in standing.runs if run_id in known), None)
    return latest if latest and latest.state_type in UNFINISHED + _CANCELLED else None
