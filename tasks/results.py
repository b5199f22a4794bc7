"""Collecting the table, and telling people about it in Prefect's UI."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpx
from prefect import get_run_logger, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from somatic.errors import SomaticError
from somatic.extracting.cost import Cost
from somatic.extracting.estimate import Estimate
from somatic.extracting.extraction import Extraction
from somatic.extracting.finishing import Finished, finish
from somatic.in_words import duration, number_in_words
from somatic.planning.plan import Plan
from somatic.progress import Progress
from somatic.results.collect import reasons_of
from somatic.results.neuroglancer import cell_url
from somatic.results.runs import Run
from somatic.results.table import Collected
from somatic.storage.places import FEATURES
from somatic.tables import Nuclei
from tasks.markdown import cell, changes_markdown, code, cost_markdown
from tasks.transient import PATIENTLY

_FAILURES_SHOWN = 500


@task(
    name="collect",
    task_run_name="table of {title}",
    **PATIENTLY,
)
def collect_features(
    title: str,
    extraction: Extraction,
    plan: Plan,
    nuclei: Nuclei,
    run: Run,
    everything: Estimate,
    fault: Exception | None,
    warn: Callable[[str], None],
) -> tuple[Collected, Cost]:
    """Write the table and all that follows from it, and say in the UI how it came out.

    `everything` is what the plan would take if nothing had been done before; `warn` is called with a line for what is
    missing beside the table.

    Returns
    -------
    Collected
        The table.
    Cost
        What the run cost, by what its processes have noted.
    """
    said = str(fault) if isinstance(fault, SomaticError) else None
    finished = finish(extraction, plan, nuclei, run, everything, fault=said)
    if finished.changes_fault:
        warn(f"{title}: no changes.parquet was written: {finished.changes_fault}")
    if error := finished.report_fault:
        url = extraction.store.url
        warn(f"no report was written ({type(error).__name__}: {error}); somatic report {url} makes it")
    with _if_the_server_answers():
        _tell(title, extraction, plan, finished)
    return finished.collected, finished.cost


class ProgressArtifact:
    """The progress bar of a run in Prefect's UI, with words; up to date every so many seconds, and at the end."""

    def __init__(self, title: str, progress: Progress, results: str, every_s: float) -> None:
        self._progress = progress
        self._results = results
        self._every_s = every_s
        self._updated = time.monotonic()
        self._server_answers = True
        self._id: Any = create_progress_artifact(
            100 * progress.fraction, key=artifact_key(title, "progress"), description=self._words()
        )

    def update(self, *, at_end: bool = False) -> None:
        """Show how far the run is now."""
        if self._server_answers and (at_end or time.monotonic() - self._updated >= self._every_s):
            self._updated = time.monotonic()
            # Prefect has tried for minutes when it gives up, and meanwhile no chunk begins: not again.
            self._server_answers = False
            with _if_the_server_answers():
                update_progress_artifact(self._id, 100 * self._progress.fraction, description=self._words())
                self._server_answers = True

    def _words(self) -> str:
        # The UI shows the number bare, so all that it means is said here.
        return f"{self._progress.words()}. Results: {self._results}"


@contextmanager
def _if_the_server_answers() -> Iterator[None]:
    """What is only shown must not end a run that takes days."""
    try:
        yield
    except httpx.HTTPError as error:
        get_run_logger().warning("Prefect's server could not be told how it goes: %s", error)


def _tell(title: str, extraction: Extraction, plan: Plan, finished: Finished) -> None:
    collected, cost, changes = finished.collected, finished.cost, finished.changes
    failures = collected.failures
    if len(failures):
        # The UI shows numbers as JavaScript does, which loses the last digits of an id.
        shown = failures.head(_FAILURES_SHOWN).astype({"nucleus_id": str, "soma_id": str})
        create_table_artifact(
            table={name: shown[name].tolist() for name in shown.columns},
            key=artifact_key(title, "failures"),
            description=f"{len(failures):,} failed cells of {title}"
            + (" (the first)" if len(failures) > len(shown) else ""),
        )
    counts = collected.planned
    per_minute = number_in_words(60 * cost.cells_computed / finished.seconds)
    lines = [
        f"# {title}: {counts.total:,} nuclei",
        "",
        "| status | nuclei |",
        "|---|---|",
        f"| ok | {counts.ok:,} |",
        f"| failed for good | {counts.failed - counts.transient:,} |",
        f"| failed for now (run again) | {counts.transient:,} |",
        f"| skipped | {counts.skipped:,} |",
        "",
        f"Table: {code(extraction.store.url_of(FEATURES))} ({collected.table.total:,} rows), "
        f"in {duration(finished.seconds)}; {per_minute} cells measured a minute.",
    ]
    if finished.report:
        lines += ["", f"Report: {code(finished.report)}."]
    reasons = list(reasons_of(failures).items())
    if reasons:
        lines += ["", "| reason | cells |", "|---|---|"]
        lines += [f"| {cell(reason)} | {count:,} |" for reason, count in reasons[:20]]
    lines += cost_markdown(cost)
    if changes is not None:
        lines += changes_markdown(changes, partial(cell_url, extraction.viewer_layers(plan.resolution_nm)))
    create_markdown_artifact("\n".join(lines), key=artifact_key(title, "summary"), description=f"How {title} came out")


def artifact_key(title: str, what: str) -> str:
    """Name of an artifact, of the characters that Prefect takes."""
    return re.sub(r"[^a-z0-9]+", "-", f"{title} {what}".lower()).strip("-")
