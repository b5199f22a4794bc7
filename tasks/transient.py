"""What Prefect tries again."""

from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from somatic.errors import CellHung, TransientError

RETRIES = 3
RETRY_DELAY_S = 5.0
"""Before the first retry; it doubles each time."""
JITTER = 0.5


def exponential_delays_s(first_s: float) -> list[float]:
    """Wait before each retry."""
    return exponential_backoff(first_s)(RETRIES)


RETRY_DELAYS_S = exponential_delays_s(RETRY_DELAY_S)


def is_transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a failed task may succeed when it runs again soon; a cell that hung has taken its time twice already."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, TransientError) and not isinstance(error, CellHung)


PATIENTLY: dict[str, Any] = {
    "retries": RETRIES,
    "retry_delay_seconds": RETRY_DELAYS_S,
    "retry_jitter_factor": JITTER,
    "retry_condition_fn": is_transient,
    "cache_policy": NO_CACHE,
}
"""Options of a task that is tried again while it fails for now; its parameters are none of Prefect's business."""
