"""One limit on requests to CAVE for all processes of a Prefect server: jobs on a cluster share the user's allowance."""

import re
from urllib.parse import urlsplit

import httpx
from prefect import get_client
from prefect.concurrency.sync import rate_limit
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.logging import get_logger

from somatic.cave_calls import REQUESTS_PER_MINUTE, RateLimiter, limit_by

SLOTS = REQUESTS_PER_MINUTE // 6
"""So many requests may pass at once ..."""
SLOTS_PER_S = (REQUESTS_PER_MINUTE - SLOTS) / 60
"""... and so many each second after that: together never more than `REQUESTS_PER_MINUTE` within a minute."""

_PATIENCE_S = 900.0


def limit_name(server: str) -> str:
    """Name of Prefect's global concurrency limit for a CAVE server, given by its URL."""
    host = urlsplit(server).netloc.rpartition("@")[2] or server
    return "cave-" + re.sub(r"[^a-z0-9]+", "-", host.lower()).strip("-")


class SharedRateLimiter(RateLimiter):
    """Also asks Prefect's server, where `somatic deploy` made the limit, whether a request may pass.

    Parameters
    ----------
    name : str
        `limit_name`.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def wait(self) -> None:
        """Block until a request may pass, and count it, here and on the server."""
        try:
            rate_limit(self._name, timeout_seconds=_PATIENCE_S)
        except (httpx.HTTPError, TimeoutError, PrefectException) as error:
            # CAVE itself says when it is too much, which is waited for; a server that is away must not stop the work.
            get_logger(__name__).warning("limit %s: %s; going on within the limit of this process", self._name, error)
        super().wait()


def share_rate_limit() -> None:
    """Have the requests of this process count with those of all others, where Prefect's server has a limit for them."""
    limit_by(_limiter)


def _limiter(server: str) -> RateLimiter:
    name = limit_name(server)
    try:
        with get_client(sync_client=True) as client:
            client.read_global_concurrency_limit_by_name(name)
    except (ObjectNotFound, httpx.HTTPError):
        return RateLimiter()
    return SharedRateLimiter(name)
