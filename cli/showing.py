"""How an extraction looks in a terminal."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from somatic.errors import printable
from somatic.in_words import duration, number_in_words, size_in_words
from somatic.progress import Progress as Counted

if TYPE_CHECKING:
    from collections import Counter

    from flows.listening import Summary
    from somatic.dataset import Dataset
    from somatic.extracting.cost import Cost
    from somatic.extracting.estimate import Estimate
    from somatic.extracting.extraction import Extraction
    from somatic.results.collect import Counts, Parts
    from somatic.results.status import Status
    from somatic.workers.choice import Workers

_LINE_EVERY_S = 30.0
_REASONS_SHOWN = 5


def show_estimate(
    console: Console,
    extraction: "Extraction",
    estimate: "Estimate",
    workers: "Workers | None",
) -> None:
    """Print what an extraction will take, and what of it earlier results save.

    Parameters
    ----------
    console : Console
    extraction : Extraction
    estimate : Estimate
    workers : Workers or None
        How many there are on this machine; None when it measures nothing.
    """
    to_measure = (
        f"{_counted(estimate.missing, 'cell')} in {_counted(estimate.chunks, 'chunk')} "
        f"({_counted(estimate.shards, 'shard')})"
    )
    tables = extraction.dataset.cave or extraction.dataset.files
    nuclei = tables.nucleus_segmentation if tables else None
    lines = (
        ("segmentation", layer_in_words(extraction.segmentation_url, extraction.dataset)),
        *([("nuclei", layer_in_words(nuclei.url, extraction.dataset))] if nuclei and nuclei.credentials else []),
        ("results", extraction.store.url),
        ("done already", _counted(estimate.done, "cell")),
        ("to measure", to_measure if estimate.missing else "nothing"),
        *_reused(extraction, estimate),
        ("to skip", f"{_counted(estimate.skipped, 'nucleus', 'nuclei')} without a root id or position"),
        ("CAVE", f"about {_counted(estimate.cave_requests, 'request')}" if extraction.dataset.cave else "not used"),
        ("reading", f"at most about {size_in_words(estimate.segmentation_bytes)} of segmentation"),
        ("memory", f"{size_in_words(estimate.worker_memory_bytes)} a worker"),
        *([("workers", workers.in_words())] if workers else []),
    )
    console.print(f"[bold]{extraction.title}[/bold]: {_counted(estimate.cells, 'cell')}", highlight=False)
    for name, value in lines:
        # Not wrapped, so that a long URL can be copied.
        console.print(f"  [dim]{name:<12}[/dim]  {_plain(value)}", highlight=False, soft_wrap=True)
    if workers and (warning := workers.warning()):
        console.print(f"[yellow]warning[/yellow]: {warning}", highlight=False, soft_wrap=True)


def show_remarks(remarks: Iterable[str | None]) -> None:
    """What a person should know beside the results, a line each on stderr."""
    for remark in remarks:
        if remark:
            typer.echo(remark, err=True)


def layer_in_words(url: str, dataset: "Dataset") -> str:
    """URL of a layer, and whether it is read with credentials and who pays."""
    access = dataset.access_to(url)
    if access.requester_pays:
        return f"{url} (with your credentials, and you pay for the requests)"
    return f"{url} (with your credentials)" if access.credentials else url


def _reused(extraction: "Extraction", estimate: "Estimate") -> list[tuple[str, str]]:
    parts, n_missing = estimate.reusable, estimate.missing
    if not parts or not n_missing:
        return []
    somata = f"{n_missing - parts.somata:,} to measure, {parts.somata:,} reused"
    if parts.perhaps_somata:
        somata += f", and of the former up to {parts.perhaps_somata:,} where they prove to be the same"
    nuclei = f"{n_missing - parts.nuclei:,} to measure, {parts.nuclei:,} reused"
    return [
        ("reusing", " and ".join(base.name for base in extraction.bases)),
        ("somata", somata),
        *([("nuclei", nuclei)] if extraction.source.nucleus_segmentation else []),
        ("synapses", "counted again where they or the soma have changed"),
    ]


@contextmanager
def shown_progress(console: Console) -> Iterator[dict[str, Callable[..., None]]]:
    """Show steps, the estimate and a progress bar; a few plain lines where the output is no terminal.

    Notes are results, and go to standard output.

    Yields
    ------
    dict of str to callable
        For a `flows.listening.Listener`, which is not made here since importing it takes seconds.
    """
    bar_width = 30 if console.width >= 100 else 12
    columns = (SpinnerColumn(), BarColumn(bar_width=bar_width), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task("starting Prefect", total=None)
        said_at = 0.0
        out = Console()

        def on_note(note: str) -> None:
            out.print(note, highlight=False, soft_wrap=True, markup=False)

        remarks: set[str] = set()

        def on_remark(remark: str) -> None:
            # One command may run several extractions of a dataset.
            if remark not in remarks:
                remarks.add(remark)
                console.print(remark, highlight=False, soft_wrap=True, markup=False)

        def on_step(step: str) -> None:
            bar.update(shown, description=step, total=None)
            if not console.is_terminal:
                console.print(step)

        def on_estimate(extraction: "Extraction", estimate: "Estimate", workers: "Workers | None") -> None:
            show_estimate(console, extraction, estimate, workers)
            if estimate.missing:
                on_step("measuring")

        def on_progress(counted: Counted) -> None:
            nonlocal said_at
            words = counted.words()
            bar.update(shown, description=words, total=counted.total, completed=counted.done)
            now = time.monotonic()
            if not console.is_terminal and (now - said_at > _LINE_EVERY_S or counted.done == counted.total):
                said_at = now
                console.print(words, highlight=False, soft_wrap=True)

        yield {
            "on_note": on_note,
            "on_remark": on_remark,
            "on_step": on_step,
            "on_estimate": on_estimate,
            "on_progress": on_progress,
        }


def show_summary(console: Console, summary: "Summary") -> None:
    """How many of what, why cells failed, and where the table is, on a line of its own."""
    total = _counted(summary.counts.total, "nucleus", "nuclei")
    console.print(
        f"{summary.title}: {total} in {duration(summary.seconds)}: {_by_status(summary.counts)}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
    _show_reasons(console, summary.reasons)
    if parts := parts_in_words(summary.cost):
        console.print(parts, highlight=False, soft_wrap=True, markup=False)
    console.print(f"cost: {cost_in_words(summary.cost)}", highlight=False, soft_wrap=True, markup=False)
    console.print(summary.table, highlight=False, soft_wrap=True, markup=False)


def parts_in_words(cost: "Cost") -> str:
    """What of the cells a run measured and what it reused, in one line; nothing where it reused nothing."""
    if not any(astuple(cost.reused)):
        return ""
    return f"measured: {_parts(cost.measured)}; reused: {_parts(cost.reused)}"


def cost_in_words(cost: "Cost") -> str:
    """What a run cost, beside a full run, in one line; requests are left out where CAVE is not used."""
    full, n_requests = cost.full_run, sum(cost.requests.values())
    spent = [
        f"{size_in_words(cost.segmentation_bytes)} of segmentation",
        f"{_counted(cost.cells_computed, 'cell')} measured",
    ]
    at_once = [size_in_words(full.segmentation_bytes), _counted(full.cells, "cell")]
    if n_requests or full.requests:
        spent.insert(0, f"{_counted(n_requests, 'request')} to CAVE")
        at_once.insert(0, _counted(full.requests, "request"))
    return f"at least {', '.join(spent)}; a full run: about {', '.join(at_once)}"


def show_status(console: Console, name: str, status: "Status", states: "tuple[str, Counter[str]] | None") -> None:
    """How an extraction stands; `states` are those of its flow run and of its shards, where Prefect knows them."""
    run, counts = status.run, status.counts
    rate = f"{number_in_words(status.per_minute)} cells a minute" if status.per_minute else "nothing was stored lately"
    left = f", about {duration(status.left_s)} left" if status.left_s else ""
    lines = [
        ("run", f"{states[0] + ', ' if states else ''}planned {run.started:%Y-%m-%d %H:%M} UTC, {run.id}"),
        ("shards", ", ".join(f"{number:,} {state}" for state, number in states[1].most_common()) if states else ""),
        ("nuclei", f"{counts.total:,}: {_by_status(counts)}"),
        ("reused", _parts(counts.reused) if any(astuple(counts.reused)) else ""),
        ("rate", rate + left if counts.unmeasured else ""),
        ("results", status.results),
    ]
    console.print(f"[bold]{name} v{run.version}[/bold]", highlight=False)
    for title, value in lines:
        if value:
            console.print(f"  [dim]{title:<12}[/dim]  {_plain(value)}", highlight=False, soft_wrap=True)
    _show_reasons(console, status.reasons)


def _plain(text: str) -> str:
    """A text that CAVE or a result set may have named, as nothing but text."""
    return escape(printable(text))


def _by_status(counts: "Counts") -> str:
    numbers = {
        "ok": counts.ok,
        "failed": counts.failed - counts.transient,
        "failed for now": counts.transient - counts.unmeasured,
        "not measured yet": counts.unmeasured,
        "skipped": counts.skipped,
    }
    return ", ".join(f"{number:,} {name}" for name, number in numbers.items() if number or name in ("ok", "failed"))


def _parts(parts: "Parts") -> str:
    return (
        f"{_counted(parts.somata, 'soma', 'somata')}, {_counted(parts.nuclei, 'nucleus', 'nuclei')}, "
        f"synapses of {_counted(parts.synapses, 'cell')}"
    )


def _show_reasons(console: Console, reasons: "dict[str, int]") -> None:
    shown = list(reasons.items())
    for reason, number in shown[:_REASONS_SHOWN]:
        console.print(f"  {number:,} failed: {reason}", highlight=False, soft_wrap=True, markup=False)
    if len(shown) > _REASONS_SHOWN:
        rest = _counted(len(shown) - _REASONS_SHOWN, "other reason")
        console.print(f"  and {rest}: see the column reason of the table", highlight=False)


def _counted(number: int, one: str, several: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else several or one + 's'}"
