"""`somatic extract`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.options import Chunk, DatasetName, Limit, NucleiFile, Sample, To, Version, parse_version
from cli.prefect_settings import prepare_prefect

EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "somatic extract minnie65 --version 1300 --sample 100\n\n"
    "somatic extract minnie65 --version 1300 --to s3://my-bucket/somatic --workers 16\n\n"
    "somatic extract my.toml --retry failed\n\n"
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
    workers: Annotated[
        int | None, typer.Option(min=1, help="Cells measured at the same time.", show_default="one a processor core")
    ] = None,
    chunk: Chunk = 10,
    retry: Annotated[
        str | None,
        typer.Option(
            metavar="failed|IDS", help="Measure again the cells that failed, or these nuclei: ids with commas between."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Measure everything again; the new rows win.")] = False,
    meshes: Annotated[bool, typer.Option(help="Store the soma meshes for Neuroglancer.")] = True,
    cell_timeout: Annotated[float, typer.Option(metavar="SECONDS", min=1, help="Longest time for one cell.")] = 900,
) -> None:
    """Measure the cells of a dataset and write the table of features.

    Only what is missing is measured. Exit status 0: every planned nucleus has its row, and none failed for a reason
    that may pass.
    """
    parameters = {
        "dataset": dataset,
        "version": parse_version(version) if version else None,
        "limit": limit,
        "sample": sample,
        "nuclei": nuclei,
        "to": to,
        "workers": workers,
        "chunk": chunk,
        "retry": _parse_retry(retry) if retry else None,
        "force": force,
        "meshes": meshes,
        "cell_timeout_s": cell_timeout,
    }
    run_extract(parameters)


def run_extract(parameters: dict[str, Any], prefect_home: Path | None = None) -> None:
    """Run the flow in this process and show how it goes; at the end how many of what, and where the results are."""
    prepare_prefect(prefect_home)
    from rich.console import Console

    from cli.showing import show_summary, shown_progress
    from flows.extract import Summary, extract, watched_by

    summaries: list[Summary] = []
    try:
        with shown_progress(Console(stderr=True)) as watcher, watched_by(watcher.also(on_summary=summaries.append)):
            extract(**parameters)
    except KeyboardInterrupt:
        typer.echo("somatic: stopped; what was measured is kept, and the same command goes on from there", err=True)
        raise typer.Exit(130) from None
    finally:
        for summary in summaries:
            show_summary(Console(), summary)


def _parse_retry(text: str) -> "str | list[int]":
    if text == "failed":
        return text
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise typer.BadParameter(f"{text!r} is neither failed nor ids with commas between", param_hint="--retry")
    return [int(word) for word in words]
