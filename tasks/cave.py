"""Asking for the nuclei."""

from prefect import task

from somatic.cell import Cell
from somatic.extracting.extraction import Extraction
from somatic.results.nuclei import put_nuclei
from somatic.tables import Nuclei, Synapses
from tasks.transient import PATIENTLY


@task(
    name="query nuclei",
    task_run_name="nuclei of {title}",
    **PATIENTLY,
)
def query_nuclei(title: str, extraction: Extraction) -> Nuclei:  # noqa: ARG001 - names the task run
    """Ask for all nuclei and keep them beside the results, as they came."""
    nuclei = extraction.source.nuclei()
    put_nuclei(extraction.store, nuclei)
    return nuclei


@task(
    name="check segmentation",
    task_run_name="segmentation of {title}",
    **PATIENTLY,
)
def check_layers(title: str, extraction: Extraction, nuclei: Nuclei) -> None:  # noqa: ARG001 - names the task run
    """Stop when a layer cannot be read, or the segmentation belongs to another version than the root ids."""
    extraction.check(nuclei)


@task(
    name="query synapses",
    task_run_name="synapses of {title} chunks {first} to {last}",
    **PATIENTLY,
)
def query_synapses(
    title: str,  # noqa: ARG001 - names the task run
    first: int,  # noqa: ARG001
    last: int,  # noqa: ARG001
    extraction: Extraction,
    cells: list[Cell],
) -> Synapses | None:
    """Ask for the synapses of the cells of some chunks."""
    return extraction.synapses_of(cells)
