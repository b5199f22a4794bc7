"""Collecting the table, and telling people about it in Prefect's UI."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import httpx
import pyarrow as pa
from prefect import get_run_logger, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from somatic.errors import SomaticError
from somatic.extraction import Extraction
from somatic.planning.plan import Plan
from somatic.progress import Progress, duration
from somatic.quality import put_flags
from somatic.results.changes import count_changes, put_changes
from somatic.results.collect import gather, reasons_of
from somatic.results.cost import Cost, load_cost
from somatic.results.manifest import make_manifest, put_manifest
from somatic.results.mesh_layer import MeshLayer
from somatic.results.neuroglancer import cell_url
from somatic.results.parquet import table_from_parquet
from somatic.results.places import MESHES
from somatic.results.runs import Run
from somatic.results.segment_properties import segment_properties
from somatic.results.store import ResultStore
from somatic.results.table import Collected, put_tables
from somatic.tables import Nuclei
from tasks.markdown import CellUrl, changes_markdown, cost_markdown
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
    memory_bytes: int | None,
    fault: Exception | None,
) -> tuple[Collected, Cost]:
    """Write the table, its provenance and its manifest, and say in the UI how it came out.

    Where the extraction has a base, also what is different from it.

    Returns
    -------
    Collected
        The table.
    Cost
        What the run cost, by what its processes have noted.
    """
    store = extraction.store
    collected = put_tables(
        store,
        plan,
        gather(
            store,
            plan,
            nuclei,
            materialization_version=extraction.version,
            definitions=extraction.dataset.definitions,
            memory_bytes=memory_bytes,
            fault=str(fault) if isinstance(fault, SomaticError) else None,
        ),
    )
    # The table is as large as what the report reads, and pyarrow would keep its memory.
    pa.default_memory_pool().release_unused()
    changes = put_changes(store, extraction.base.store) if extraction.base else None
    files = {"features.parquet": collected.features, "nuclei.parquet": store.get("nuclei.parquet")}
    if changes is not None:
        files["changes.parquet"] = store.get("changes.parquet")
    _put_derived(extraction, collected)
    files["flags.parquet"] = store.get("flags.parquet")
    cost = load_cost(store, run.id, extraction.estimate(plan, plan.rows, run.chunks_per_shard))
    finished = datetime.now(UTC)
    put_manifest(
        store,
        make_manifest(
            dataset=extraction.dataset.model_dump(mode="json", exclude_none=True),
            materialization_version=extraction.version,
            materialization_timestamp=extraction.source.timestamp,
            config=extraction.config,
            config_hash=extraction.config_hash,
            layers={
                "segmentation": extraction.segmentation_url,
                "nuclei": extraction.source.nucleus_segmentation,
                "resolution_nm": plan.resolution_nm,
            },
            plan_hash=plan.hash,
            counts=_counts(collected, len(nuclei.frame)),
            files=files,
            started=run.started,
            finished=finished,
            cost=cost.as_dict(),
            changes={"base": run.base, **count_changes(changes)} if changes is not None else None,
        ),
    )
    report = _put_report(store)
    with _if_the_server_answers():
        _tell(title, extraction, plan, collected, cost, changes, report, (finished - run.started).total_seconds())
    return collected, cost


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


def _put_derived(extraction: Extraction, collected: Collected) -> None:
    """Write what follows from the features alone: flags.parquet and, with meshes, their segment properties."""
    store = extraction.store
    features = table_from_parquet(collected.features, store.url_of("features.parquet"))
    flags = put_flags(store, features)
    if extraction.with_meshes:
        MeshLayer(store.url_of(MESHES)).put_properties(segment_properties(features, flags))


def _put_report(store: ResultStore) -> str | None:
    """Write report.html and give its URL; None where that failed, since the table is there without it."""
    try:
        # What draws takes its time to import, and only here is anything drawn.
        from somatic.report.overview import put_report

        return put_report(store)
    except Exception as error:
        get_run_logger().warning(
            "no report was written (%s: %s); somatic report %s makes it", type(error).__name__, error, store.url
        )
        return None


def _counts(collected: Collected, n_queried: int) -> dict[str, int]:
    table = collected.table
    return {
        "queried": n_queried,
        "nuclei": table.total,
        "ok": table.ok,
        "failed": table.failed,
        "failed_transient": table.transient,
        "skipped": table.skipped,
        "planned": collected.planned.total,
        "carried": table.carried,
    }


def _tell(
    title: str,
    extraction: Extraction,
    plan: Plan,
    collected: Collected,
    cost: Cost,
    changes: pa.Table | None,
    report: str | None,
    seconds: float,
) -> None:
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
        f"Table: `{extraction.store.url_of('features.parquet')}` ({collected.table.total:,} rows), "
        f"in {duration(seconds)}; {60 * cost.cells_computed / seconds:.3g} cells measured a minute.",
    ]
    if report:
        lines += ["", f"Report: `{report}`."]
    reasons = list(reasons_of(failures).items())
    if reasons:
        lines += ["", "| reason | cells |", "|---|---|"]
        lines += [f"| {reason} | {count:,} |" for reason, count in reasons[:20]]
    lines += cost_markdown(cost)
    if changes is not None:
        lines += changes_markdown(changes, _cell_url(extraction, plan))
    create_markdown_artifact("\n".join(lines), key=artifact_key(title, "summary"), description=f"How {title} came out")


def _cell_url(extraction: Extraction, plan: Plan) -> CellUrl:
    inputs = extraction.inputs(None)
    return partial(
        cell_url,
        resolution_nm=plan.resolution_nm,
        segmentation=inputs.segmentation,
        nuclei=inputs.nucleus_segmentation,
        meshes=inputs.meshes,
    )


def artifact_key(title: str, what: str) -> str:
    """Name of an artifact, of the characters that Prefect takes."""
    return re.sub(r"[^a-z0-9]+", "-", f"{title} {what}".lower()).strip("-")
