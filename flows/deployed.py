"""Flow runs of deployments: started once, and started again as the same run."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from prefect import State, get_run_logger
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import AwaitingRetry
from pydantic import ByteSize, TypeAdapter

from somatic.errors import PermanentError

UNFINISHED = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED]
# A state that is set sooner is overtaken by what the worker still has to say of the crash.
_AFTER_CRASH = timedelta(seconds=10)
_QUANTITY = re.compile(r"\d+(\.\d+)?([kKMGTP]i?)?")
_BYTES = TypeAdapter(ByteSize)


def start_run(deployment: str, parameters: dict[str, Any], key: str, *, what: str, as_subflow: bool) -> FlowRun:
    """Create a flow run of a deployment, or find the one that was created with this key.

    Parameters
    ----------
    deployment : str
        Its name, flow/deployment.
    parameters : dict
        Those of the deployment hold where there is none.
    key : str
        Idempotency key.
    what : str
        What the deployment is for, as the error calls it.
    as_subflow : bool
        Whether it is shown as a part of this flow run.

    Raises
    ------
    PermanentError
        There is no such deployment.
    """
    try:
        found = run_deployment(deployment, parameters=parameters, idempotency_key=key, timeout=0, as_subflow=as_subflow)
    except ObjectNotFound as error:
        raise PermanentError(
            f"there is no deployment {deployment!r} for {what}; make it with: somatic deploy"
        ) from error
    return cast(FlowRun, found)


def job_memory_bytes(client: SyncPrefectClient, deployment: str) -> int | None:
    """Memory that a job of a deployment on Kubernetes may use; None where the deployment does not say."""
    try:
        limit = client.read_deployment_by_name(deployment).job_variables.get("memory_limit")
    except ObjectNotFound:
        return None
    # Kubernetes writes 5Gi for 5 GiB.
    return int(_BYTES.validate_python(f"{limit}B")) if _QUANTITY.fullmatch(str(limit)) else None


def start_run_again(client: SyncPrefectClient, run: FlowRun, by: str) -> None:
    """Have the same flow run run again, which finds again what it fixed and stored."""
    assert run.state
    get_run_logger().warning("%s %s (%s); it is started again", run.name, how_it_ended(run.state), run.state.message)
    client.set_flow_run_state(run.id, AwaitingRetry(message=f"started again by {by}"), force=True)


def settles_in(state: State) -> timedelta:
    """How long it is too soon to start a run of this final state again; nothing, most of the time."""
    passed = datetime.now(UTC) - state.timestamp
    return max(_AFTER_CRASH - passed, timedelta(0)) if state.is_crashed() else timedelta(0)


def how_it_ended(state: State) -> str:
    """How a run ended, as a verb."""
    return state.type.value.lower()
