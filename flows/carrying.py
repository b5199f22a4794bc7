"""What an extraction takes over from an earlier version before it measures anything."""

from prefect import get_run_logger

from flows.listening import Listener
from somatic.errors import CaveError
from somatic.extracting.carrying import CELLS_PER_BATCH
from somatic.extracting.extraction import Extraction
from somatic.extracting.shards import Selection, choose_rows
from somatic.results.ledger import Ledger
from somatic.tables import Nuclei
from tasks.carrying import carry_cells


def carry_over(extraction: Extraction, nuclei: Nuclei, selection: Selection, run_id: str, listener: Listener) -> int:
    """Take over the cells that are as they were in the base; give how many.

    A cell that is to be measured again, by retry or force, is not taken over.
    """
    assert extraction.base is not None
    log, version = get_run_logger(), extraction.base.version
    rows = choose_rows(extraction, nuclei, selection, Ledger.load(extraction.store))
    rows = rows[rows["attempt"] == 1]
    carried = 0
    for first in range(0, len(rows), CELLS_PER_BATCH):
        listener.on_step(f"looking for cells that are as in v{version}: {carried:,} of {first:,}, {len(rows):,} in all")
        batch = rows.iloc[first : first + CELLS_PER_BATCH]
        last = first + len(batch) - 1
        try:
            carried += carry_cells(extraction.title, first, last, extraction, batch, nuclei.resolution_nm, run_id)
        except CaveError as error:
            # The cells say so themselves, each in its row, when they come to be measured.
            log.warning("%s: nothing more is taken over from v%d: %s", extraction.title, version, error)
            break
    log.info("%s: %d of %d cells are as in v%d", extraction.title, carried, len(rows), version)
    return carried
