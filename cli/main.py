"""The command `somatic`: its subcommands, and how errors are shown."""

import sys
from typing import Annotated

import typer

from cli import cell, compare, datasets, demo, extract, plan

app = typer.Typer(
    name="somatic",
    help="Features of the soma and the nucleus of every cell of an EM volume.",
    epilog="Start with: somatic demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (demo.demo, cell.cell, plan.plan, extract.extract, compare.compare, datasets.datasets):
    app.command(
        epilog=sys.modules[command.__module__].EXAMPLES, no_args_is_help=command not in (demo.demo, datasets.datasets)
    )(command)


def _show_version(wanted: bool) -> None:
    if wanted:
        from somatic.software import code_version

        typer.echo(f"somatic {code_version()}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and stop.")
    ] = False,
) -> None:
    _Debug.on = debug


class _Debug:
    on = False


def main() -> None:
    """Run the command; an error is one line, and a traceback only with --debug."""
    try:
        app()
    except KeyboardInterrupt:
        _stop("stopped; what was measured is kept, and the same command goes on from there", 130)
    except Exception as error:
        if _Debug.on:
            raise
        from somatic.errors import SomaticError

        if isinstance(error, SomaticError):
            _stop(str(error), 1)
        _stop(f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:300]} (--debug shows where)", 1)


def _stop(message: str, status: int) -> None:
    typer.echo(f"somatic: {message}", err=True)
    sys.exit(status)
