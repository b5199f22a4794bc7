"""Planning: which nuclei, in which chunks, and what of it is done."""

from prefect import task

from somatic.extraction import Extraction
from somatic.planning.plan import save_plan, skipped_rows
from somatic.planning.shards import Planned, Selection, plan_extraction, snapshot_name
from somatic.results.chunks import put_rows
from somatic.results.ledger import Ledger
from somatic.results.runs import Run
from somatic.tables import Nuclei
from tasks.transient import PATIENTLY


@task(
    name="plan chunks",
    task_run_name="plan of {title}",
    **PATIENTLY,
)
def plan_chunks(
    title: str,  # noqa: ARG001 - names the task run
    extraction: Extraction,
    nuclei: Nuclei,
    selection: Selection,
    run: Run,
    memory_bytes: int | None,
) -> Planned:
    """Plan, store the plan, and store the rows of the nuclei that are skipped."""
    store = extraction.store
    ledger = Ledger.load(store, memory_bytes)
    planned = plan_extraction(
        extraction, nuclei, selection, ledger, chunks_per_shard=run.chunks_per_shard, plan_hash=run.plan
    )
    save_plan(store, planned.plan)
    rows = planned.ledger.missing(planned.plan.rows)
    skipped = skipped_rows(rows, nuclei.resolution_nm, extraction.version, extraction.dataset.definitions)
    if skipped:
        planned.ledger.add(put_rows(store, skipped, run.id))
    extraction.put_mesh_layer()
    ledger.put_snapshot(store, snapshot_name(run.id))
    return planned
