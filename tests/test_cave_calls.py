"""`somatic.cave.calls`: rate limit, waiting, and trying again."""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from somatic.cave import calls
from somatic.cave.calls import Patience, RateLimiter, call, limiter_for
from somatic.cave.errors import CaveBusy, CaveNotFound
from somatic.errors import CaveError, CaveUnavailable

HURRY = Patience(tries=4, wait_s=0.01, longest_wait_s=0.02, give_up_s=5, busy_pause_s=0.01, busy_s=0.3)


def answers(*statuses: int, message: str = "something", headers: dict[str, str] | None = None) -> Callable[[], str]:
    """A request that gets these statuses in turn, the last one for ever; 200 is an answer."""
    left = list(statuses)

    def ask() -> str:
        response = requests.Response()
        response.status_code = left.pop(0) if len(left) > 1 else left[0]
        response.url = "https://cave.example/materialize/x"
        response.headers.update(headers or {})
        response._content = f'{{"message": "{message}"}}'.encode()
        response.request = requests.Request("GET", response.url).prepare()
        if response.status_code != 200:
            raise requests.HTTPError(response=response)
        return "rows"

    return ask


def ask_cave(ask: Callable[[], str], patience: Patience = HURRY, limiter: RateLimiter | None = None) -> str:
    """Call with little patience."""
    limiter = limiter or RateLimiter()
    return call("nuclei", ask, server="https://cave.example", patience=patience, limiter=limiter, give_up_s=5)


class Noted(deque[float]):
    """The moments that a limiter notes, with those that it has forgotten since."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[float] = []

    def append(self, moment: float) -> None:
        """Note one."""
        self.all.append(moment)
        super().append(moment)


class Clock:
    """A clock that only those who sleep move."""

    def __init__(self) -> None:
        self.now = 64.0

    def monotonic(self) -> float:
        """What it shows."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Move it."""
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of all limiters."""
    clock = Clock()
    monkeypatch.setattr(calls, "time", clock)
    return clock


def test_limiter_keeps_every_window() -> None:
    """Eight threads that all want through at once never pass more than 5 requests within any window."""
    limiter, noted = RateLimiter(5, window_s=0.2), Noted()
    limiter._passed = noted
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: limiter.wait(), range(20)))
    assert len(noted.all) == 20
    assert all(later - earlier >= 0.2 for earlier, later in zip(noted.all, noted.all[5:], strict=False))


def test_limiter_waits_no_longer_than_it_must(clock: Clock) -> None:
    """As soon as a window is over the next requests pass."""
    limiter, noted = RateLimiter(5, window_s=2.0), Noted()
    limiter._passed = noted
    for _ in range(12):
        limiter.wait()
    assert noted.all == [64.0] * 5 + [66.0] * 5 + [68.0] * 2
    assert clock.now == 68.0


def test_limiter_within_its_limit_does_not_wait(clock: Clock) -> None:
    """180 requests pass at once when there were none before, and the next a minute later."""
    limiter = RateLimiter()
    for _ in range(180):
        limiter.wait()
    assert clock.now == 64.0
    limiter.wait()
    assert clock.now == 124.0


def test_pause_holds_all_threads() -> None:
    """During a pause no thread passes, and a shorter pause does not end a longer one."""
    limiter = RateLimiter()
    start = time.monotonic()
    limiter.pause(0.3)
    limiter.pause(0.01)
    assert limiter._paused_until - start >= 0.3
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: limiter.wait(), range(4)))
    assert len(limiter._passed) == 4
    assert min(limiter._passed) >= limiter._paused_until


def test_pause_ends_in_time(clock: Clock) -> None:
    """When it is over the next request passes."""
    limiter = RateLimiter()
    limiter.pause(3)
    limiter.wait()
    assert clock.now == 67.0


def test_limiter_must_let_something_pass() -> None:
    """A limit of 0 would wait for ever."""
    with pytest.raises(ValueError, match="at least 1"):
        RateLimiter(0)


def test_one_limiter_a_server() -> None:
    """All of a process share one limiter for a server, and each server has its own."""
    assert limiter_for("https://a.example") is limiter_for("https://a.example")
    assert limiter_for("https://a.example") is not limiter_for("https://b.example")


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504])
def test_passing_fault_is_tried_again(status: int) -> None:
    """Two passing faults and then an answer are an answer."""
    assert ask_cave(answers(status, status, 200)) == "rows"


@pytest.mark.parametrize(
    ("status", "message", "error"),
    [
        (404, "No version found", CaveNotFound),
        (410, "This materialization version is not available", CaveError),
        (400, "column x not found in y", CaveError),
        (422, "bad", CaveError),
        (500, "404 Not Found: version 9999 not found in minnie65_public", CaveNotFound),
        (500, "404 Not Found: version 1000 not found because there is no valid parent", CaveNotFound),
        (500, "No row was found for one()", CaveNotFound),
        (500, "min bounds: [5 5 5] must be less than max bounds: [1 1 1]", CaveError),
        (500, "volume_x not in model or models for nuclei", CaveError),
    ],
)
def test_permanent_errors_are_not_tried_again(status: int, message: str, error: type[Exception]) -> None:
    """What CAVE refuses for good, 500 or not, is an error at once, with its words."""
    with pytest.raises(error) as caught:
        ask_cave(answers(status, 200, message=message))
    assert str(caught.value) == f"nuclei: CAVE at https://cave.example answered {status}: {message}"


def test_attempts_are_bounded() -> None:
    """A server that stays broken is asked so often and no more."""
    asked = []

    def ask() -> str:
        asked.append(None)
        return answers(503)()

    with pytest.raises(CaveUnavailable, match="answered 503"):
        ask_cave(ask)
    assert len(asked) == HURRY.tries


def test_time_is_bounded() -> None:
    """When attempts take long, no third one begins after the time to give up."""
    asked = []

    def ask() -> str:
        asked.append(None)
        time.sleep(0.1)
        raise requests.ReadTimeout

    with pytest.raises(CaveUnavailable, match="did not answer in time"):
        call("nuclei", ask, server="https://c", patience=HURRY, limiter=RateLimiter(), give_up_s=0.05)
    assert len(asked) == 2


@pytest.mark.parametrize(("status", "message"), [(429, "slow down"), (500, "429 Too Many Requests: 200 per 1 minute")])
def test_rate_limit_pauses_the_limiter(status: int, message: str) -> None:
    """A rate limit, hidden in a 500 or not, holds up everybody who uses the limiter, and is then tried again."""
    limiter = RateLimiter()
    asked = time.monotonic()
    assert ask_cave(answers(status, 200, message=message), Patience(busy_pause_s=60), limiter) == "rows"
    assert asked + 60 <= limiter._paused_until <= time.monotonic() + 60


def test_server_says_how_long_to_wait() -> None:
    """Retry-After counts for more than our own pause."""
    limiter, asked = RateLimiter(), time.monotonic()
    ask_cave(answers(429, 200, headers={"Retry-After": "0.3"}), Patience(busy_pause_s=60), limiter)
    assert asked + 0.3 <= limiter._paused_until <= time.monotonic() + 0.3


def test_rate_limit_for_ever() -> None:
    """A rate limit that never ends is a transient error in the end."""
    with pytest.raises(CaveBusy, match="the rate limit is reached"):
        ask_cave(answers(429))


@pytest.mark.parametrize("error", [ValueError("no JSON"), KeyError("name"), TypeError("None"), OSError("cut short")])
def test_unreadable_answers_are_transient(error: Exception) -> None:
    """What caveclient cannot read may be readable the next time; in the end it is said what was wrong."""

    def ask() -> str:
        raise error

    with pytest.raises(CaveUnavailable, match=f"cannot be read \\({type(error).__name__}: .*{error.args[0]}"):
        ask_cave(ask)


def test_errors_of_ours_pass() -> None:
    """An exception that is no failure of a request, Ctrl-C or a fault in our code, is left as it is."""

    def ask() -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask_cave(ask)


def test_long_answers_are_cut_and_on_one_line() -> None:
    """A page of text in an answer becomes one line of bearable length."""
    with pytest.raises(CaveUnavailable) as caught:
        ask_cave(answers(500, message="word\\nword " * 1000))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 350
