"""`somatic extract`."""

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import (
    Chunk,
    DatasetName,
    Limit,
    NucleiFile,
    Sample,
    To,
    Version,
    Workers,
    check_selection,
    parse_version,
)
from cli.prefect_settings import check_server, prepare_prefect

if TYPE_CHECKING:
    from flows.watching import Summary

EXAMPLES = (
    "somatic extract minnie65 --version 1300 --sample 100",
    "somatic extract minnie65 --version 1300 --to s3://my-bucket/somatic",
    "somatic extract my.toml --nuclei ids.csv --workers 16",
    "somatic extract my.toml --retry failed",
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
            metavar="failed|IDS", help="Measure again the cells that failed, or these nuclei: ids with commas between."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", metavar="", help="Measure everything again; the new rows win.")
    ] = False,
    since: Annotated[
        str,
        typer.Option(
            metavar="auto|V|none",
            help="Take over what is the same from the results of an earlier version: the newest complete one, or V.",
        ),
    ] = "auto",
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
        "since": _parse_since(since),
        "meshes": not no_meshes,
        "cell_timeout_s": cell_timeout,
    }
    run_extract(parameters)


def run_extract(parameters: dict[str, Any], prefect_home: Path | None = None) -> "Summary | None":
    """Run the flow in this process and show how it goes; at the end how many of what, and where the table is.

    Parameters
    ----------
    parameters : dict
        Of the flow `extract`.
    prefect_home : Path, optional
        As for `prepare_prefect`.

    Returns
    -------
    Summary or None
        None when the run ended before there was a table.

    Raises
    ------
    SomaticError
        What is wrong with the input, or that cells failed for now; the summary has been shown then.
    """
    import httpx
    from rich.console import Console

    from cli.reading import read_dataset
    from cli.showing import show_summary, shown_progress
    from flows.own_server import own_server
    from somatic.errors import TransientError
    from somatic.nucleus_ids import read_nucleus_ids

    # What takes no server is said before one is started for it.
    read_dataset(parameters["dataset"])
    if parameters.get("nuclei"):
        read_nucleus_ids(parameters["nuclei"])
    prepare_prefect(prefect_home)

    summaries: list[Summary] = []
    exit_status = 128 + signal.SIGINT

    def terminate(*_: object) -> None:
        nonlocal exit_status
        exit_status = 128 + signal.SIGTERM
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminate)
    try:
        with shown_progress(Console(stderr=True)) as callbacks:
            check_server()
            with own_server() as wait:
                # These imports take as long as the server's start, beside which they run.
                from flows.extract import extract
                from flows.watching import Watcher, watched_by

                wait()
                with watched_by(Watcher(**callbacks, on_summary=summaries.append)):
                    extract(**parameters)
    except KeyboardInterrupt:
        typer.echo("somatic: stopped; what was measured is kept, and the same command goes on from there", err=True)
        raise typer.Exit(exit_status) from None
    except httpx.HTTPError as error:
        raise TransientError(
            f"Prefect's server stopped answering ({error}); what was measured is kept, "
            "and the same command goes on from there"
        ) from error
    finally:
        for summary in summaries:
            show_summary(Console(), summary)
    return summaries[0] if summaries else None


def _parse_since(text: str) -> "int | str | None":
    if text in ("auto", "none"):
        return text if text == "auto" else None
    if text.isdecimal():
        return int(text)
    raise typer.BadParameter(f"{text!r} is neither a version nor auto nor none", param_hint="--since")


def _parse_retry(text: str) -> "str | list[int]":
    if text == "failed":
        return text
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise typer.BadParameter(f"{text!r} is neither failed nor ids with commas between", param_hint="--retry")
    return [int(word) for word in words]
