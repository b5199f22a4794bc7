"""How far an extraction is."""

import threading
import time
from collections.abc import Callable, Sequence

from somatic.features import Row
from somatic.in_words import duration, number_in_words


class Progress:
    """Counts cells as they come; may be used by several threads.

    Parameters
    ----------
    total : int
        Cells that are to be measured.
    on_change : callable, optional
        Called with this object after each cell.

    Attributes
    ----------
    ok, failed : int
        Cells measured, and cells that failed for a permanent reason.
    """

    def __init__(self, total: int, on_change: "Callable[[Progress], None] | None" = None) -> None:
        self.total = total
        self.ok = 0
        self.failed = 0
        self._on_change = on_change
        self._lock = threading.Lock()
        self._started = time.monotonic()

    @property
    def done(self) -> int:
        """Cells that need nothing any more."""
        return self.ok + self.failed

    @property
    def fraction(self) -> float:
        """Share of the cells that is done."""
        return self.done / self.total if self.total else 1.0

    def add(self, row: Row) -> None:
        """Count a cell; one that failed for a transient reason will come again."""
        self._count([row], 1)

    def take_back(self, rows: Sequence[Row]) -> None:
        """Forget cells that were counted and could not be stored."""
        self._count(rows, -1)

    def note(self, ok: int, failed: int) -> None:
        """Set both counts, where somebody else counted."""
        with self._lock:
            self.ok, self.failed = ok, failed
        if self._on_change:
            self._on_change(self)

    def _count(self, rows: Sequence[Row], by: int) -> None:
        with self._lock:
            self.ok += by * sum(row["status"] == "ok" for row in rows)
            self.failed += by * sum(row["status"] != "ok" and not row["transient"] for row in rows)
        if self._on_change:
            self._on_change(self)

    def words(self) -> str:
        """The same for a person: counts, rate and time left."""
        said = f"{self.done:,} of {self.total:,} cells"
        if self.failed:
            said += f" ({self.failed:,} failed)"
        elapsed_s = time.monotonic() - self._started
        if self.done and elapsed_s > 0:
            rate = self.done / elapsed_s
            said += f", {number_in_words(60 * rate)} a minute"
            if self.done < self.total:
                said += f", about {duration((self.total - self.done) / rate)} left"
        return said
