"""What Prefect says of an extraction and its shards."""

from collections import Counter
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.exceptions import ObjectNotFound

_PAGE = 200


def read_states(client: SyncPrefectClient, run_id: str) -> tuple[str, Counter[str]] | None:
    """Read the state of a flow run, and how many of its shards are in which; None where the server does not know it.

    Raises
    ------
    httpx.HTTPError
        The server does not answer.
    """
    children = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[UUID(run_id)]))
    states: Counter[str] = Counter()
    try:
        run = client.read_flow_run(UUID(run_id))
    except ObjectNotFound:
        return None
    while page := client.read_flow_runs(flow_run_filter=children, limit=_PAGE, offset=states.total()):
        states.update(child.state_name or "unknown" for child in page)
    return run.state_name or "unknown", states
