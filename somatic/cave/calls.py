"""How CAVE is asked: within a rate limit, within bounded time, and again when it was only a passing fault."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa
import tenacity

from somatic.cave.errors import CaveBusy, translated
from somatic.errors import CaveUnavailable, SomaticError

logger = logging.getLogger(__name__)

REQUESTS_PER_MINUTE = 180
"""CAVE's default deployment allows 200 queries a minute and user."""

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Patience:
    """How long CAVE is waited for. The defaults give an unreachable server up within about 30 s.

    Attributes
    ----------
    connect_s, answer_s, query_s : float
        For a connection, for the next bytes of an answer, and the same for the answer to a query of rows.
    tries : int
        Attempts of one request that fails for a passing reason.
    wait_s, longest_wait_s : float
        Before the second attempt, doubled with each, with jitter.
    give_up_s, query_give_up_s : float
        No third attempt begins after this; the latter is for queries of rows.
    busy_pause_s, busy_s : float
        Pause of all threads after a rate limit was hit, and how long one request goes on trying through such pauses.
    """

    connect_s: float = 5.0
    answer_s: float = 15.0
    query_s: float = 300.0
    tries: int = 4
    wait_s: float = 1.0
    longest_wait_s: float = 30.0
    give_up_s: float = 20.0
    query_give_up_s: float = 400.0
    busy_pause_s: float = 30.0
    busy_s: float = 900.0


class RateLimiter:
    """Lets requests of any number of threads pass, never more than so many within a window, none during a pause.

    Parameters
    ----------
    per_window : int
        Requests that may pass within any `window_s`.
    window_s : float
        Length of the sliding window.
    """

    def __init__(self, per_window: int = REQUESTS_PER_MINUTE, window_s: float = 60.0):
        if per_window < 1:
            raise ValueError(f"a rate limit must let at least 1 request pass, got {per_window}")
        self._per_window = per_window
        self._window_s = window_s
        self._passed: deque[float] = deque()
        self._paused_until = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Block until a request may pass, and count it."""
        while (delay_s := self._enter()) > 0:
            time.sleep(delay_s)

    def pause(self, seconds: float) -> None:
        """Let nothing pass for some time; a longer pause that is under way stays."""
        with self._lock:
            self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    def _enter(self) -> float:
        with self._lock:
            now = time.monotonic()
            while self._passed and now - self._passed[0] >= self._window_s:
                self._passed.popleft()
            delay_s = self._paused_until - now
            if len(self._passed) >= self._per_window:
                delay_s = max(delay_s, self._passed[0] + self._window_s - now)
            if delay_s <= 0:
                self._passed.append(now)
            return delay_s


def _of_this_process(_server: str) -> RateLimiter:
    return RateLimiter()


_limiters: dict[str, RateLimiter] = {}
_make_limiter: Callable[[str], RateLimiter] = _of_this_process
_limiters_lock = threading.Lock()


def limiter_for(server: str) -> RateLimiter:
    """The one limiter that all threads of this process share for a server."""
    with _limiters_lock:
        if server not in _limiters:
            _limiters[server] = _make_limiter(server)
        return _limiters[server]


def limit_by(make: Callable[[str], RateLimiter]) -> None:
    """Make limiters in another way, such as one for many machines; those of servers that were asked already stay."""
    global _make_limiter  # noqa: PLW0603 - one a process, like the limiters
    with _limiters_lock:
        _make_limiter = make


def call(
    what: str,
    ask: Callable[[], Answer],
    *,
    server: str,
    patience: Patience,
    limiter: RateLimiter,
    give_up_s: float,
) -> Answer:
    """Ask CAVE; wait for its rate limit, try again after a passing fault, and translate what stays an error.

    Parameters
    ----------
    what : str
        What is asked for, to begin an error's text with.
    ask : callable
        Makes the request through caveclient.
    give_up_s : float
        No third attempt begins after this.

    Raises
    ------
    CaveError
        The request is refused for good (CaveTokenError, CaveNotFound among them).
    CaveUnavailable
        It still fails for a passing reason (CaveBusy: the rate limit) after the last attempt.
    """

    def attempt() -> Answer:
        try:
            return ask()
        # A lack of memory, of which Arrow's is an ArrowException as well, is none of CAVE's faults.
        except (SomaticError, MemoryError):
            raise
        # What caveclient lets out when an answer is cut short, is no JSON, or is JSON of another shape.
        except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as error:
            ours = translated(error, what, server)
        except Exception as error:
            if not type(error).__module__.startswith("caveclient"):
                raise
            ours = translated(error, what, server)
        if isinstance(ours, CaveBusy):
            pause_s = patience.busy_pause_s if ours.retry_after_s is None else ours.retry_after_s
            logger.info("%s: rate limit, waiting %.0f s", what, pause_s)
            limiter.pause(pause_s)
        # Outside the except block: requests and its frames hold the token, so they are not kept with our error.
        raise ours

    through_pauses = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(CaveBusy),
        stop=tenacity.stop_after_delay(patience.busy_s),
        reraise=True,
    )
    after_faults = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_fault),
        stop=tenacity.stop_after_attempt(patience.tries)
        | (tenacity.stop_after_delay(give_up_s) & tenacity.stop_after_attempt(2)),
        wait=tenacity.wait_exponential(patience.wait_s, patience.longest_wait_s)
        + tenacity.wait_random(0, patience.wait_s),
        before_sleep=_log,
        reraise=True,
    )
    return after_faults(through_pauses, attempt)


def _is_fault(error: BaseException) -> bool:
    return isinstance(error, CaveUnavailable) and not isinstance(error, CaveBusy)


def _log(state: tenacity.RetryCallState) -> None:
    if state.outcome is not None and state.next_action is not None:
        logger.info("%s (trying again in %.1f s)", state.outcome.exception(), state.next_action.sleep)
