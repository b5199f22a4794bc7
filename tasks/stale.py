"""Task runs that a killed attempt of a flow run left behind."""

from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
    TaskRunFilterSubFlowRuns,
)
from prefect.client.schemas.objects import StateType
from prefect.states import Crashed

_PAGE = 200


def close_stale_task_runs(client: SyncPrefectClient, flow_run_id: UUID) -> int:
    """Mark what an earlier attempt of a flow run left unfinished as Crashed, since nobody else ever will.

    Task runs that stand for a flow run of their own are left alone: that flow run may well go on.

    Returns
    -------
    int
        How many there were.
    """
    unfinished = TaskRunFilter(
        state=TaskRunFilterState(
            type=TaskRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING, StateType.SCHEDULED])
        ),
        subflow_runs=TaskRunFilterSubFlowRuns(exists_=False),
    )
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    closed = 0
    while found := client.read_task_runs(flow_run_filter=of_run, task_run_filter=unfinished, limit=_PAGE):
        for task_run in found:
            # Where the task runs of a flow run are recorded from events, the state that the client sends is final.
            client.set_task_run_state(task_run.id, Crashed(message="left behind by a killed attempt"), force=True)
        closed += len(found)
        if len(found) < _PAGE:
            break
    return closed
