"""What an extraction reuses of earlier result sets before it measures anything."""

from collections.abc import Callable

from prefect import get_run_logger

from flows.listening import Listener
from somatic.errors import CaveError, StoreError, StoreUnavailable
from somatic.extracting.carrying import CELLS_PER_BATCH
from somatic.extracting.extraction import Extraction
from somatic.extracting.shards import Selection, choose_rows
from somatic.results.ledger import Ledger
from somatic.tables import Nuclei
from tasks.carrying import carry_cells


def carry_over(
    extraction: Extraction,
    nuclei: Nuclei,
    selection: Selection,
    run_id: str,
    listener: Listener,
    warn: Callable[[str], None],
) -> int:
    """Reuse the rows of cells that are as they were in the bases; give how many.

    A cell that is to be measured again, by retry or force, is not reused. What cannot be read ends the reuse of whole
    rows and nothing else.
    """
    sources = " and ".join(base.name for base in extraction.bases)
    rows = choose_rows(extraction, nuclei, selection, Ledger.load(extraction.store))
    rows = rows[rows["attempt"] == 1]
    carried = 0
    for first in range(0, len(rows), CELLS_PER_BATCH):
        listener.on_step(f"looking for cells that are as in {sources}: {carried:,} of {first:,}, {len(rows):,} in all")
        batch = rows.iloc[first : first + CELLS_PER_BATCH]
        last = first + len(batch) - 1
        try:
            carried += carry_cells(extraction.title, first, last, extraction, batch, nuclei.resolution_nm, run_id, warn)
        except (CaveError, StoreError, StoreUnavailable) as error:
            # What is wrong with CAVE, the cells say themselves, each in its row, when they come to be measured.
            warn(f"{extraction.title}: no more rows of {sources} are reused: {error}")
            break
    get_run_logger().info("%s: %d of %d cells are as in %s", extraction.title, carried, len(rows), sources)
    return carried
