"""`somatic watch`."""

import re
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import DatasetName, To, Workers

if TYPE_CHECKING:
    from prefect.flows import Flow

EXAMPLES = (
    "somatic watch minnie65 --dry-run",
    "somatic watch minnie65 --to s3://my-bucket/somatic",
    "somatic watch my.toml --every 6h",
)
NOTE = (
    "Nothing is started where there is no complete table yet: the first extraction takes long, and a person starts it "
    "with somatic extract. On a cluster the deployment watch/DATASET does this once a day."
)

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def watch(
    dataset: DatasetName,
    to: To = None,
    every: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Look again and again, until Ctrl-C: 30m, 6h, 1d.", show_default="once"),
    ] = None,
    workers: Workers = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Only say what is new, and measure nothing.")
    ] = False,
) -> None:
    """Extract the materialization versions that are newer than the newest complete table.

    An extraction of a version that began and was not finished goes on. Exit status 0: no version is missing.
    """
    interval = _parse_every(every) if every is not None else None

    from cli.reading import read_dataset
    from cli.running import run_shown, stoppable
    from somatic.errors import SomaticError
    from somatic.extracting.versions import check_has_versions
    from somatic.storage.places import open_results

    described = read_dataset(dataset)
    check_has_versions(described)
    open_results(described, to)
    parameters = {"dataset": dataset, "to": to, "workers": workers, "dry_run": dry_run}
    with stoppable():
        while interval:
            try:
                run_shown(_load_flow, parameters)
            except SomaticError as error:
                # Whatever it is, it may be mended by then.
                typer.echo(f"somatic: {error}", err=True)
            typer.echo(f"somatic: looking again in {every}", err=True)
            time.sleep(interval.total_seconds())
        if run_shown(_load_flow, parameters):
            raise typer.Exit(1)


def _load_flow() -> "Flow[..., list[int]]":
    from flows.watch import watch

    return watch


def _parse_every(text: str) -> timedelta:
    found = re.fullmatch(r"([1-9]\d{0,3})([mhd])", text)
    if not found:
        raise typer.BadParameter(f"{text!r} is no length of time, such as 30m, 6h or 1d", param_hint="--every")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})
