"""What a CAVE datastack has: its materialization versions, and the names of its tables and views."""

import operator
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, TypeVar

from somatic.cave.calls import Patience, RateLimiter, call
from somatic.cave.errors import CaveNotFound
from somatic.dataset import CaveSource
from somatic.errors import CaveError

if TYPE_CHECKING:
    from somatic.cave.client import Client

Answer = TypeVar("Answer")
Kind = Literal["table", "view"]


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
        When it will be gone, UTC; None when it stays.
    """

    number: int
    timestamp: datetime
    expires: datetime | None


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
        """Versions that can be queried now, ascending."""
        with warnings.catch_warnings():
            # caveclient makes a timestamp of "never", which is out of range and warned about.
            warnings.simplefilter("ignore")
            entries = self._list(self._client.materialize.get_versions_metadata)
        now = datetime.now(UTC)
        found = []
        for entry in entries:
            # What never expires has caveclient's latest timestamp, the only one without a time zone.
            expires = entry["expires_on"] if entry["expires_on"].tzinfo else None
            usable = entry.get("valid", True) and entry.get("status", "AVAILABLE") == "AVAILABLE"
            if usable and (expires is None or expires > now):
                found.append(Version(int(entry["version"]), entry["time_stamp"], expires))
        return sorted(found, key=lambda version: version.number)

    def resolve(self, version: int | Literal["latest"]) -> Version:
        """Version of this number, or the newest; CaveError with those that there are when it is not among them."""
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
        ever = self.ask(self._what, lambda: self._client.materialize.get_versions(expired=True))
        state = f"version {number} has expired" if number in ever else f"there is no version {number}"
        raise CaveError(f"{self._what}: {state}; there are: {listed}")

    def check_there(self, version: int) -> None:
        """Raise CaveError where a version that was there can be queried no more."""
        # Asked anew: caveclient keeps what it knows of versions for half a day.
        if version not in self._list(lambda: self._client.materialize.get_versions(expired=False)):
            raise CaveError(f"{self._what}: version {version} has expired meanwhile; extract a later one")

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

    def _list(self, ask: Callable[[], Iterable[Answer]]) -> list[Answer]:
        try:
            return list(self.ask(self._what, ask))
        except CaveNotFound:  # what a list without entries is to CAVE
            return []

    @property
    def _what(self) -> str:
        return f"datastack {self._cave.datastack}"
