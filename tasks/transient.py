"""What Prefect tries again."""

from typing import Any

from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from somatic.errors import TransientError

RETRIES = 3
RETRY_DELAYS_S = exponential_backoff(backoff_factor=5)(RETRIES)
JITTER = 0.5


def is_transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a failed task may succeed when it runs again."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, TransientError)
