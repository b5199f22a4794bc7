"""`somatic status`."""

from typing import TYPE_CHECKING

import typer

from cli.options import DatasetName, To, Version, parse_version
from cli.prefect_settings import load_prefect, prepare_prefect

if TYPE_CHECKING:
    from collections import Counter

EXAMPLES = (
    "somatic status minnie65 --to s3://my-bucket/somatic",
    "somatic status my.toml",
)
NOTE = (
    "Read from the results themselves, so that it tells the same on every machine that can read them. "
    "Where PREFECT_API_URL names a server that knows the run, its state and those of its shards are shown too."
)


def status(dataset: DatasetName, version: Version = None, to: To = None) -> None:
    """Say how the latest extraction of a dataset stands.

    Cells by status, rate and time left, why cells failed, and where the results are.
    """
    number = parse_version(version)
    if number == "latest":
        raise typer.BadParameter("give a number; without it the latest run is shown", param_hint="--version")

    from rich.console import Console

    from cli.reading import read_dataset
    from cli.showing import show_status
    from cli.steps import shown_steps
    from somatic.results.status import read_status
    from somatic.storage.places import open_results

    described = read_dataset(dataset)
    with shown_steps() as step:
        step("reading what is stored")
        found = read_status(open_results(described, to), number)
        step("asking Prefect")
        states = _states(found.run.id)
    show_status(Console(), described.name, found, states)


def _states(run_id: str) -> "tuple[str, Counter[str]] | None":
    """What a Prefect server that is set says of the run; it is no fault when it says nothing."""
    prepare_prefect()

    from somatic.errors import SomaticError

    try:
        load_prefect()

        from prefect.settings import PREFECT_API_URL

        if not PREFECT_API_URL.value():
            return None

        from cli.prefect_server import server
        from flows.states import read_states

        with server(retries=0, advice="or unset PREFECT_API_URL") as client:
            return read_states(client, run_id)
    except SomaticError as error:
        typer.echo(f"somatic: the state of the run is not shown: {error}", err=True)
        return None
