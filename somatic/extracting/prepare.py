"""What lies in the store before anything is measured."""

from somatic.extracting.extraction import Extraction
from somatic.extracting.shards import Planned, Selection, plan_extraction, snapshot_name
from somatic.planning.plan import save_plan, skipped_rows
from somatic.results.chunks import put_rows
from somatic.results.ledger import Ledger
from somatic.results.runs import Run
from somatic.tables import Nuclei


def prepare(extraction: Extraction, nuclei: Nuclei, selection: Selection, run: Run) -> Planned:
    """Plan, and write the plan, the rows of nuclei that are skipped, the mesh layer's info and what is done already.

    Parameters
    ----------
    extraction : Extraction
    nuclei : Nuclei
        All nuclei of the dataset at this version.
    selection : Selection
        Which of them are asked for.
    run : Run
        Its plan is loaded where it has one; shards find what is done by its id.

    Raises
    ------
    PermanentError
        The selection cannot be met.
    SegmentationError, SegmentationUnavailable
        The segmentation cannot be opened.
    StoreError, StoreUnavailable
        A file could not be read or written, for good or for now.
    """
    store = extraction.store
    ledger = Ledger.load(store, run.memory_bytes)
    planned = plan_extraction(
        extraction, nuclei, selection, ledger, chunks_per_shard=run.chunks_per_shard, plan_hash=run.plan
    )
    save_plan(store, planned.plan)
    rows = ledger.missing(planned.plan.rows)
    skipped = skipped_rows(rows, nuclei.resolution_nm, extraction.version, extraction.dataset.definitions)
    if skipped:
        ledger.add(put_rows(store, skipped, run.id))
    extraction.put_mesh_layer()
    ledger.put_snapshot(store, snapshot_name(run.id))
    return planned
