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
app.command(epilog=demo.EXAMPLES)(demo.demo)
app.command(epilog=cell.EXAMPLES, no_args_is_help=True)(cell.cell)
app.command(epilog=plan.EXAMPLES, no_args_is_help=True)(plan.plan)
app.command(epilog=extract.EXAMPLES, no_args_is_help=True)(extract.extract)
app.command(epilog=compare.EXAMPLES, no_args_is_help=True)(compare.compare)
app.command()(datasets.datasets)


def _show_version(wanted: bool) -> None:
    if wanted:
        from somatic.software import code_version

        typer.echo(f"somatic {code_version()}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and stop.")
    ] = False,
) -> None:
    context.obj["debug"] = debug


def main() -> None:
    """Run the command; an error is one line, and a traceback only with --debug."""
    options: dict[str, bool] = {}
    try:
        app(obj=options)
    except Exception as error:
        if options.get("debug"):
            raise
        from somatic.errors import SomaticError

        known = isinstance(error, SomaticError)
        text = " ".join(str(error).split())
        typer.echo(
            f"somatic: {text}"
            if known
            else f"somatic: unexpected {type(error).__name__}: {text[:300]} (somatic --debug ... shows where)",
            err=True,
        )
        sys.exit(1)
