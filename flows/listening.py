"""Who listens to an extraction in this process, and what they are told."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from somatic.extracting.cost import Cost
from somatic.extracting.estimate import Estimate
from somatic.extracting.extraction import Extraction
from somatic.progress import Progress
from somatic.results.collect import Counts
from somatic.workers.choice import Workers


@dataclass(frozen=True)
class Summary:
    """What an extraction came to: counts of the nuclei that were planned, and where the results lie."""

    title: str
    counts: Counts
    reasons: dict[str, int]
    """Why cells failed, and how many did, the commonest reason first."""
    results: str
    table: str
    seconds: float
    cost: Cost


@dataclass(frozen=True)
class Listener:
    """Each is called when there is news."""

    on_step: Callable[[str], None] = lambda _step: None
    on_note: Callable[[str], None] = lambda _note: None
    on_remark: Callable[[str], None] = lambda _remark: None
    """Of what a person should know, but which is no result."""
    on_estimate: Callable[[Extraction, Estimate, Workers | None], None] = lambda _extraction, _estimate, _workers: None
    on_progress: Callable[[Progress], None] = lambda _progress: None
    on_summary: Callable[[Summary], None] = lambda _summary: None


_NOBODY = Listener()
_listener: ContextVar[Listener] = ContextVar("listener", default=_NOBODY)  # noqa: B039 - it is frozen


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Have a listener told of what the extractions inside do."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def present_listener() -> Listener:
    """Whoever listens now; nobody, most of the time."""
    return _listener.get()
