"""How an extraction looks in a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from flows.extract import Summary, Watcher
from somatic.collect import Counts
from somatic.estimate import Estimate
from somatic.extraction import Extraction
from somatic.progress import Progress as Counted
from somatic.progress import duration


def estimate_table(extraction: Extraction, estimate: Estimate) -> Table:
    """What an extraction will take."""
    table = Table(title=f"{extraction.title}: {estimate.cells:,} cells", title_justify="left", show_header=False)
    table.add_column(style="dim")
    table.add_column()
    for name, value in (
        ("segmentation", extraction.segmentation_url),
        ("results", extraction.store.url),
        ("done already", f"{estimate.done:,} cells"),
        ("to measure", f"{estimate.missing:,} cells in {estimate.chunks:,} chunks ({estimate.shards:,} shards)"),
        ("to skip", f"{estimate.skipped:,} nuclei without a root id or position"),
        ("CAVE", f"about {estimate.cave_requests:,} requests" if extraction.dataset.cave else "not used"),
        ("reading", f"at most about {_bytes(estimate.segmentation_bytes)} of segmentation"),
        ("memory", f"{_bytes(estimate.worker_memory_bytes)} a worker"),
    ):
        table.add_row(name, value)
    return table


@contextmanager
def shown_progress(console: Console) -> Iterator[Watcher]:
    """Show steps, the estimate and a progress bar; plain lines where the output is no terminal."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=30), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task("starting", total=None)

        def on_step(step: str) -> None:
            bar.update(shown, description=step, total=None)
            if not console.is_terminal:
                console.print(step)

        def on_progress(counted: Counted) -> None:
            bar.update(shown, description=counted.words(), total=counted.total, completed=counted.done)
            if not console.is_terminal and (counted.done % 10 == 0 or counted.done == counted.total):
                console.print(counted.words())

        yield Watcher(
            on_step=on_step,
            on_estimate=lambda extraction, estimate: console.print(estimate_table(extraction, estimate)),
            on_progress=on_progress,
        )


def show_summary(console: Console, summary: Summary) -> None:
    """How many of what, and where the results are."""
    counts = summary.counts
    said = ", ".join(
        f"{number:,} {name}" for name, number in _by_status(counts).items() if number or name in ("ok", "failed")
    )
    console.print(f"{summary.title}: {counts.total:,} nuclei in {duration(summary.seconds)}: {said}", highlight=False)
    console.print(f"{summary.table}", soft_wrap=True, highlight=False)


def _by_status(counts: Counts) -> dict[str, int]:
    return {
        "ok": counts.ok,
        "failed": counts.failed - counts.transient,
        "failed for now": counts.transient,
        "skipped": counts.skipped,
    }


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"
