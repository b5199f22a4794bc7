"""How long a request to a store may take, and how often it is tried."""

from collections.abc import Callable
from typing import TypeVar

import tenacity

from somatic.volume.refusal import Refused

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0
TRIES = 7
WAIT = tenacity.wait_random_exponential(0.5, max=60)

Answer = TypeVar("Answer")


def patiently(request: Callable[[], Answer]) -> Answer:
    """Answer of a request, tried again when it fails for a reason that may pass; the last error when it never answers.

    What would fail again is raised at once: a refusal, a file that ends too early, a lack of memory.
    """
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(_may_pass),
        stop=tenacity.stop_after_attempt(TRIES),
        wait=WAIT,
        reraise=True,
    )(request)


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, Exception) and not isinstance(error, Refused | EOFError | MemoryError)
