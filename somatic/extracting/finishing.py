"""The end of an extraction: its table, and the files that follow from it."""

from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from somatic.errors import StoreError, StoreUnavailable
from somatic.extracting.cost import Cost, load_cost
from somatic.extracting.estimate import Estimate
from somatic.extracting.extraction import Extraction
from somatic.planning.plan import Plan
from somatic.results.changes import count_changes, put_changes
from somatic.results.collect import gather
from somatic.results.flags import put_flags
from somatic.results.manifest import make_manifest, put_manifest
from somatic.results.mesh_layer import MeshLayer
from somatic.results.runs import Run
from somatic.results.segment_properties import segment_properties
from somatic.results.table import Collected, put_tables
from somatic.storage.parquet import table_from_parquet
from somatic.storage.places import CHANGES, FEATURES, FLAGS, MESHES, NUCLEI
from somatic.tables import Nuclei


@dataclass(frozen=True, eq=False)
class Finished:
    """What `finish` wrote.

    Attributes
    ----------
    collected : Collected
        The table.
    cost : Cost
        What the run cost, by what its processes have noted.
    changes : pyarrow.Table or None
        What is different from the base, where the extraction has one.
    changes_fault : StoreError or StoreUnavailable or None
        Why that is not known.
    seconds : float
        From the start of the run to its manifest.
    report : str or None
        URL of report.html; None where it could not be made.
    report_fault : Exception or None
        Why it could not.
    """

    collected: Collected
    cost: Cost
    changes: pa.Table | None
    changes_fault: StoreError | StoreUnavailable | None
    seconds: float
    report: str | None
    report_fault: Exception | None


def finish(
    extraction: Extraction,
    plan: Plan,
    nuclei: Nuclei,
    run: Run,
    everything: Estimate,
    *,
    fault: str | None = None,
) -> Finished:
    """Write the table, its provenance, changes, flags, manifest and report; with meshes, their segment properties.

    Parameters
    ----------
    extraction : Extraction
        With its base, where it has one. Its nuclei lie in its store (`somatic.results.nuclei.put_nuclei`).
    plan : Plan
        What had to be done.
    nuclei : Nuclei
        All nuclei of the dataset at this version.
    run : Run
        What the manifest and the cost are about.
    everything : Estimate
        Of the plan, with every cell missing.
    fault : str, optional
        As for `somatic.results.collect.gather`.

    Raises
    ------
    PermanentError
        A nucleus would be lost or doubled; nothing is written then.
    StoreError, StoreUnavailable
        A file could not be read or written, for good or for now.
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
            memory_bytes=run.memory_bytes,
            fault=fault,
        ),
    )
    # The table is as large as what the report reads, and pyarrow would keep its memory.
    pa.default_memory_pool().release_unused()
    changes, changes_fault = _changes(extraction)
    _put_derived(extraction, collected.features)
    names = (NUCLEI, FLAGS) if changes is None else (NUCLEI, FLAGS, CHANGES)
    files = {FEATURES: collected.features, **{name: store.get(name) for name in names}}
    cost = load_cost(store, run.id, everything)
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
            changes={"base": extraction.bases[0].name, **count_changes(changes)} if changes is not None else None,
        ),
    )
    report, report_fault = _put_report(extraction)
    seconds = (finished - run.started).total_seconds()
    return Finished(collected, cost, changes, changes_fault, seconds, report, report_fault)


def _changes(extraction: Extraction) -> tuple[pa.Table | None, StoreError | StoreUnavailable | None]:
    """Write changes.parquet against the first base; where that cannot be read any more the table is there without."""
    if not extraction.bases:
        return None, None
    try:
        return put_changes(extraction.store, extraction.bases[0].store), None
    except (StoreError, StoreUnavailable) as error:
        return None, error


def _put_derived(extraction: Extraction, features: bytes) -> None:
    """Write what follows from the features alone: flags.parquet and, with meshes, their segment properties."""
    store = extraction.store
    table = table_from_parquet(features, store.url_of(FEATURES))
    flags = put_flags(store, table)
    if extraction.with_meshes:
        MeshLayer(store.url_of(MESHES)).put_properties(segment_properties(table, flags))


def _put_report(extraction: Extraction) -> tuple[str | None, Exception | None]:
    """Write report.html; where that fails the table is there without it."""
    try:
        # What draws takes its time to import, and only here is anything drawn.
        from somatic.report.overview import put_report

        return put_report(extraction.store), None
    except Exception as error:
        return None, error


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
