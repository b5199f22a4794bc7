"""`somatic extract`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import (
    Chunk,
    DatasetName,
    Limit,
    NucleiFile,
    Sample,
    SinceVersion,
    To,
    Version,
    Workers,
    check_selection,
    parse_since,
    parse_version,
)

if TYPE_CHECKING:
    from prefect.flows import Flow

    from flows.listening import Summary

EXAMPLES = (
    "somatic extract minnie65 --version 1300 --sample 100",
    "somatic extract minnie65 --version 1300 --to s3://my-bucket/somatic",
    "somatic extract my.toml --nuclei ids.csv --workers 16",
    "somatic extract minnie65 --version 1300 --sample 100 --retry failed",
)
NOTE = (
    "Killed or stopped at any moment, the same command goes on where it was. With PREFECT_API_URL set the run shows in "
    "that server's UI."
)


def extract(
    dataset: DatasetName,
    version: Version = None,
    limit: Limit = None,
    sample: Sample = None,
    nuclei: NucleiFile = None,
    to: To = None,
    workers: Workers = None,
    chunk: Chunk = 10,
    retry: Annotated[
        str | None,
        typer.Option(
            metavar="failed|IDS",
            help="Measure again those that failed, or these ids, commas between. Say the same --limit, --sample or "
            "--nuclei as before: without one all that is missing is measured too.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", metavar="", help="Measure again what is done too; the new rows win.")
    ] = False,
    since: SinceVersion = "auto",
    no_meshes: Annotated[
        bool, typer.Option("--no-meshes", metavar="", help="Do not store the soma meshes for Neuroglancer.")
    ] = False,
    cell_timeout: Annotated[float, typer.Option(metavar="SECONDS", min=1, help="Longest time for one cell.")] = 900,
) -> None:
    """Measure the cells of a dataset and write the table of features.

    Only what is missing is measured. Exit status 0: every planned nucleus has its row, and none failed for a reason
    that may pass.
    """
    check_selection(limit, sample)
    parameters = {
        "dataset": dataset,
        "version": parse_version(version),
        "limit": limit,
        "sample": sample,
        "nuclei": nuclei,
        "to": to,
        "workers": workers,
        "chunk": chunk,
        "retry": _parse_retry(retry) if retry is not None else None,
        "force": force,
        "since": parse_since(since),
        "meshes": not no_meshes,
        "cell_timeout_s": cell_timeout,
    }
    run_extract(parameters)


def run_extract(parameters: dict[str, Any], prefect_home: Path | None = None) -> "Summary":
    """Run the flow in this process, as `cli.running.run_shown` does.

    Parameters
    ----------
    parameters : dict
        Of the flow `extract`.
    prefect_home : Path, optional
        As for `prepare_prefect`.

    Raises
    ------
    SomaticError
        What is wrong with the input, or that cells failed for now; the summary has been shown then.
    """
    from cli.reading import read_dataset
    from cli.running import run_shown, stoppable
    from somatic.nucleus_ids import read_nucleus_ids
    from somatic.storage.places import open_results

    # What takes no server is said before one is started for it.
    open_results(read_dataset(parameters["dataset"]), parameters.get("to"))
    if parameters.get("nuclei"):
        read_nucleus_ids(parameters["nuclei"])
    with stoppable():
        return run_shown(_load_flow, parameters, prefect_home)


def _load_flow() -> "Flow[..., Summary]":
    from flows.extract import extract

    return extract


def _parse_retry(text: str) -> "str | list[int]":
    if text == "failed":
        return text
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise typer.BadParameter(f"{text!r} is neither failed nor ids with commas between", param_hint="--retry")
    return [int(word) for word in words]
