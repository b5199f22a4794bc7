"""What a CAVE datastack has: its materialization versions, and the names of its tables and views."""

import operator
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from somatic.cave.calls import Patience, RateLimiter, call
from somatic.cave.errors import CaveNotFound
from somatic.dataset import CaveSource
from somatic.errors import CaveError, VersionNotReady

if TYPE_CHECKING:
    from somatic.cave.client import Client

Answer = TypeVar("Answer")
Kind = Literal["table", "view"]

_AVAILABLE = "AVAILABLE"
_BEING_MADE = frozenset({"RUNNING", "PENDING", "QUEUED", "STARTED"})


@dataclass(frozen=True)
class Version:
    """A materialization version that can be queried.

    Attributes
    ----------
    number : int
        Materialization version.
    timestamp : datetime
        The moment of its root ids, UTC.
    expires : datetime or None
        From when on CAVE may drop it, UTC; None when it stays. CAVE goes on serving its latest versions after that.
    """

    number: int
    timestamp: datetime
    expires: datetime | None

    def expiry_note(self, name: str, now: datetime) -> str | None:
        """What to say of this version of a datastack or dataset where its expiry date has passed; else None."""
        if self.expires is None or self.expires > now:
            return None
        when = f"{self.expires:%Y-%m-%d %H:%M} UTC"
        return f"{name} v{self.number} expired on {when}; CAVE still serves it, but may drop it at any moment"


def versions(cave: CaveSource, patience: Patience | None = None, limiter: RateLimiter | None = None) -> list[Version]:
    """Versions of a datastack that can be queried now, ascending.

    Raises
    ------
    CaveError, CaveTokenError, CaveUnavailable
        As for `somatic.cave.client.connect`.
    """
    from somatic.cave.client import connect

    return CaveDatastack(cave, connect(cave, patience, limiter)).versions()


class CaveDatastack:
    """A connected datastack: asks it what it has, and says so where a name or a version is not there."""

    def __init__(self, cave: CaveSource, client: "Client"):
        self._cave = cave
        self._client = client

    def ask(self, what: str, ask: Callable[[], Answer], give_up_s: float | None = None) -> Answer:
        """Ask CAVE something, with this connection's patience; see `somatic.cave.calls.call`."""
        patience = self._client.patience
        return call(
            what,
            ask,
            server=self._client.server_address,
            patience=patience,
            limiter=self._client.limiter,
            give_up_s=patience.give_up_s if give_up_s is None else give_up_s,
        )

    def versions(self) -> list[Version]:
        """Versions that can be queried now, ascending; also those past their expiry date that CAVE still serves."""
        entries = filter(_is_usable, self._entries(expired=False))
        # What never expires has caveclient's latest timestamp, the only one without a time zone.
        found = [
            Version(
                int(entry["version"]), entry["time_stamp"], entry["expires_on"] if entry["expires_on"].tzinfo else None
            )
            for entry in entries
        ]
        return sorted(found, key=lambda version: version.number)

    def resolve(self, version: int | Literal["latest"]) -> Version:
        """Version of this number, or the newest that can be queried.

        Raises
        ------
        CaveError
            It is not among those that can be queried; says which are.
        VersionNotReady
            CAVE is still making it.
        """
        there = self.versions()
        listed = ", ".join(f"{known.number} ({known.timestamp:%Y-%m-%d})" for known in there) or "none"
        if version == "latest":
            if not there:
                raise CaveError(f"{self._what} has no version that can be queried")
            return there[-1]
        try:
            number = operator.index(version)
        except TypeError:
            raise CaveError(f'a version is a whole number or "latest", got {version!r}') from None
        for known in there:
            if known.number == number:
                return known
        status = {int(entry["version"]): _status(entry) for entry in self._entries(expired=True)}.get(number)
        if status in _BEING_MADE:
            raise VersionNotReady(
                f"{self._what}: CAVE is still making version {number} (its status is {status}); wait until it is "
                f"available, or choose another: {listed}"
            )
        state = f"there is no version {number}" if status is None else f"version {number} has expired"
        if status not in (None, "EXPIRED", _AVAILABLE):
            state = f"version {number} cannot be queried (its status is {status})"
        raise CaveError(f"{self._what}: {state}; there are: {listed}")

    def check_there(self, version: int) -> None:
        """Raise CaveError where a version that was there can be queried no more."""
        # Requested anew: caveclient keeps what it knows of versions for half a day.
        if version not in self._list(lambda: self._client.materialize.get_versions(expired=False)):
            raise CaveError(
                f"{self._what}: version {version} has expired, CAVE has dropped it meanwhile; extract a later one"
            )

    def no_such_table(self, kind: Kind, name: str, version: int) -> str | None:
        """Say that a name is not there, and which are; None when it is there."""
        from somatic.cave.client import nearest

        materialize = self._client.materialize
        where = f"{self._what}, version {version}"
        tables = self._list(lambda: materialize.get_tables(version=version))
        views = self._list(lambda: materialize.get_views(version=version))
        names, others = (views, tables) if kind == "view" else (tables, views)
        if name in names:
            return None
        if name in others:
            other = "table" if kind == "view" else "view"
            return f'{where}: {name} is a {other}, not a {kind}; write {other} = "{name}"'
        return f"{where}: no {kind} {name}; {nearest(name, names)}"

    def _entries(self, *, expired: bool) -> list[dict[str, Any]]:
        """What CAVE says about each version; with `expired` also about those that cannot be queried."""
        with warnings.catch_warnings():
            # caveclient makes a timestamp of "never", which is out of range and warned about.
            warnings.simplefilter("ignore")
            return self._list(lambda: self._client.materialize.get_versions_metadata(expired=expired))

    def _list(self, ask: Callable[[], Iterable[Answer]]) -> list[Answer]:
        try:
            return list(self.ask(self._what, ask))
        except CaveNotFound:  # what a list without entries is to CAVE
            return []

    @property
    def _what(self) -> str:
        return f"datastack {self._cave.datastack}"


def _is_usable(entry: dict[str, Any]) -> bool:
    return _is_true(entry.get("valid", True)) and _status(entry) == _AVAILABLE


def _is_true(value: object) -> bool:
    """Whether a server says yes: as JSON, or in the letters of its database."""
    return str(value).lower() in ("true", "t", "1")


def _status(entry: dict[str, Any]) -> str:
    return str(entry.get("status") or _AVAILABLE).upper()
