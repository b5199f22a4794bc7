"""Running a flow in this process, for a person in a terminal."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cli.prefect_settings import load_prefect, prepare_prefect

if TYPE_CHECKING:
    from prefect.flows import Flow

    from flows.listening import Summary


@contextmanager
def stoppable() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end what runs inside with one line, and the exit status that shells know them by."""
    exit_status = 128 + signal.SIGINT

    def terminate(*_: object) -> None:
        nonlocal exit_status
        exit_status = 128 + signal.SIGTERM
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("somatic: stopped; what was measured is kept, and the same command goes on from there", err=True)
        raise typer.Exit(exit_status) from None


def run_shown(
    load_flow: "Callable[[], Flow[..., Any]]", parameters: dict[str, Any], prefect_home: Path | None = None
) -> Any:
    """Run a flow in this process and show how it goes; at the end how many of what, and where the tables are.

    Parameters
    ----------
    load_flow : callable
        Imports the flow, which takes as long as the start of a Prefect server, beside which it is done.
    parameters : dict
        Of the flow.
    prefect_home : Path, optional
        As for `prepare_prefect`.

    Returns
    -------
    object
        What the flow returns.

    Raises
    ------
    SomaticError
        What the flow failed with; the summaries of its extractions have been shown then.
    """
    import httpx
    from rich.console import Console

    from cli.prefect_server import check_server, error_in_a_run
    from cli.showing import show_summary, shown_progress
    from flows.own_server import own_server

    prepare_prefect(prefect_home)
    summaries: list[Summary] = []
    try:
        with shown_progress(Console(stderr=True)) as callbacks:
            load_prefect()
            check_server()
            with own_server(prefect_home) as wait:
                flow = load_flow()
                from flows.listening import Listener, heard_by

                wait()
                with heard_by(Listener(**callbacks, on_summary=summaries.append)):
                    return flow(**parameters)
    except (httpx.HTTPError, RuntimeError) as error:
        # Prefect looks for the version of the server when a flow begins, and hides what came of it.
        cause = error.__cause__ if isinstance(error, RuntimeError) else error
        if not isinstance(cause, httpx.HTTPError):
            raise
        raise error_in_a_run(cause) from error
    finally:
        for summary in summaries:
            show_summary(Console(), summary)
