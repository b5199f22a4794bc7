"""Planning: which nuclei, in which chunks, and what of it is done."""

from prefect import task

from somatic.extracting.extraction import Extraction
from somatic.extracting.prepare import prepare
from somatic.extracting.shards import Planned, Selection
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
) -> Planned:
    """Plan, and store what shards need to know."""
    return prepare(extraction, nuclei, selection, run)
