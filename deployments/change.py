"""What became of one thing on the server."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Change:
    """A thing that was created, changed or left as it was; in a dry run, that would be."""

    what: str
    did: Literal["created", "changed", "left"]
    details: tuple[str, ...] = ()
    """Names of what is different now."""


def changed(what: str, details: list[str]) -> Change:
    """A change of something that was there: left, when nothing is different."""
    return Change(what, "changed" if details else "left", tuple(details))
