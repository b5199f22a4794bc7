"""One limit on requests to CAVE for all processes of a Prefect server: jobs on a cluster share the user's allowance."""

import logging
import math
import re
import threading
import time
from urllib.parse import urlsplit

import httpx
from prefect import get_client
from prefect.exceptions import MissingContextError
from prefect.logging import get_logger, get_run_logger
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from somatic.cave.calls import REQUESTS_PER_MINUTE, RateLimiter, limit_by

SLOTS = REQUESTS_PER_MINUTE // 6
"""So many requests may pass at once ..."""
SLOTS_PER_S = (REQUESTS_PER_MINUTE - SLOTS) / 60
"""... and so many each second after that: together never more than `REQUESTS_PER_MINUTE` within a minute."""

_PATIENCE = httpx.Timeout(30.0, connect=5.0)
# A server that did not answer is left alone for so long.
_AWAY_S = 60.0
# A limit that a person raises is noticed after so long.
_LONGEST_WAIT_S = 60.0


def limit_name(server: str) -> str:
    """Name of Prefect's global concurrency limit for a CAVE server, given by its URL."""
    host = urlsplit(server).netloc.rpartition("@")[2] or server
    return "cave-" + re.sub(r"[^a-z0-9]+", "-", host.lower()).strip("-")


class SharedRateLimiter(RateLimiter):
    """Also asks Prefect's server, where `somatic deploy` made the limit, whether a request may pass.

    Prefect's own `rate_limit` does the same, but tries for minutes to reach a server that is away, for each request.

    Parameters
    ----------
    name : str
        `limit_name`.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        # Made here, where Prefect's settings are those of the run: a thread that waits need not have them.
        self._client = get_client(httpx_settings={"timeout": _PATIENCE}, sync_client=True)
        self._asking = threading.Lock()
        self._ask_from = -math.inf
        self._answered = True

    def wait(self) -> None:
        """Block until a request may pass, and count it, here and on the server."""
        # One thread of a process asks at a time, so that a server has few to turn away.
        with self._asking:
            while (delay_s := self._ask_server()) > 0:
                time.sleep(min(delay_s, _LONGEST_WAIT_S))
        super().wait()

    def _ask_server(self) -> float:
        """Seconds until it makes sense to ask again; 0 when the request may pass."""
        if time.monotonic() < self._ask_from:
            return 0.0
        try:
            # A connection that was idle may have been closed: once more.
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 1}):
                limits = self._client.increment_concurrency_slots([self._name], 1, mode="rate_limit").json()
        except (httpx.HTTPError, ValueError) as error:
            if isinstance(error, httpx.HTTPStatusError) and error.response.status_code == httpx.codes.LOCKED:
                return float(error.response.headers["Retry-After"])
            # CAVE itself says when it is too much, which is waited for; a server that is away must not stop the work.
            if self._answered:
                _log().warning("limit %s: %s; going on within the limit of this process", self._name, _reason(error))
            self._answered = False
            self._ask_from = time.monotonic() + _AWAY_S
        else:
            self._answered = True
            if not limits:
                self._ask_from = math.inf
        return 0.0


def share_rate_limit() -> None:
    """Have the requests of this process count with those of all others, where Prefect's server has a limit for them."""
    limit_by(_limiter)


def _limiter(server: str) -> RateLimiter:
    return SharedRateLimiter(limit_name(server))


def _reason(error: Exception) -> str:
    # The text of a refusal would name the server's address, before which a password may stand.
    if isinstance(error, httpx.HTTPStatusError):
        return f"Prefect's server says {error.response.status_code} {error.response.text[:200]}"
    return f"Prefect's server does not answer ({str(error) or type(error).__name__})"


def _log() -> logging.Logger | logging.LoggerAdapter[logging.Logger]:
    """The run's own log, which its page shows, where there is a run."""
    try:
        return get_run_logger()
    except MissingContextError:
        return get_logger(__name__)
