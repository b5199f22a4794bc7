"""Asking which versions there are, and telling people what became of them."""

from prefect import task
from prefect.artifacts import create_markdown_artifact

from somatic.cave.datastack import Version
from somatic.dataset import Dataset
from somatic.extracting.versions import Standing, known_versions
from tasks.markdown import cell, code
from tasks.results import artifact_key
from tasks.transient import PATIENTLY


@task(
    name="query versions",
    task_run_name="versions of {name}",
    **PATIENTLY,
)
def query_versions(name: str, dataset: Dataset) -> list[Version]:  # noqa: ARG001 - names the task run
    """Ask for the versions that can be queried."""
    return known_versions(dataset)


def tell_versions(name: str, results: str, found: list[Standing], said: list[str]) -> None:
    """Show in Prefect's UI which versions of a dataset there are, and what was said of them."""
    lines = [f"# Versions of {name}", "", "| version | moment (UTC) | expires | table |", "|---|---|---|---|"]
    for standing in found:
        version = standing.version
        expires = f"{version.expires:%Y-%m-%d}" if version.expires else "never"
        lines.append(f"| {version.number} | {version.timestamp:%Y-%m-%d %H:%M} | {expires} | {standing.state} |")
    lines += ["", *(f"- {cell(line)}" for line in said), "", f"Results: {code(results)}"]
    create_markdown_artifact("\n".join(lines), key=artifact_key(name, "versions"), description=f"Versions of {name}")
