"""The command `somatic`: its subcommands, and how errors are shown."""

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from cli import cell, compare, datasets, demo, deploy, export, extract, plan, report, status, watch

app = typer.Typer(
    name="somatic",
    help="Features of the soma and the nucleus of every cell of an EM volume.",
    epilog="Start with: somatic demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _add(command: Callable[..., None], examples: Sequence[str] = (), note: str = "", **options: Any) -> None:
    """Add a subcommand; its docstring is the help, with the lines of a paragraph joined to fit any terminal."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    shown = ["\n".join(("[bold]Examples[/bold]", *examples))] if examples else []
    app.command(
        help="\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs),
        epilog="\n\n".join([*shown, note]).strip() or None,
        **options,
    )(command)


_add(demo.demo, demo.EXAMPLES)
_add(cell.cell, cell.EXAMPLES, no_args_is_help=True)
_add(plan.plan, plan.EXAMPLES, no_args_is_help=True)
_add(extract.extract, extract.EXAMPLES, extract.NOTE, no_args_is_help=True)
_add(watch.watch, watch.EXAMPLES, watch.NOTE, no_args_is_help=True)
_add(status.status, status.EXAMPLES, status.NOTE, no_args_is_help=True)
_add(compare.compare, compare.EXAMPLES, no_args_is_help=True)
_add(report.report, report.EXAMPLES, report.NOTE, no_args_is_help=True)
_add(export.export, export.EXAMPLES, export.NOTE, no_args_is_help=True)
_add(datasets.datasets)
_add(deploy.deploy, deploy.EXAMPLES, deploy.NOTE)


def _show_version(wanted: bool) -> None:
    if wanted:
        from somatic.software import code_version

        typer.echo(f"somatic {code_version()}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", metavar="", help="Show the traceback of an error.")] = False,
    _version: Annotated[
        bool,
        typer.Option("--version", metavar="", callback=_show_version, is_eager=True, help="Show the version and stop."),
    ] = False,
) -> None:
    context.obj["debug"] = debug


def main() -> None:
    """Run the command; an error is one line, and a traceback only with --debug."""
    options: dict[str, bool] = {}
    try:
        sys.exit(app(obj=options, prog_name="somatic", standalone_mode=False))
    except typer.TyperException as error:
        # Without arguments the help has been shown, and there is nothing to say.
        if message := " ".join(error.format_message().split()).rstrip("."):
            context = getattr(error, "ctx", None)
            command = context.command_path if context else "somatic"
            typer.echo(f"somatic: {message[0].lower()}{message[1:]}; see {command} --help", err=True)
        sys.exit(error.exit_code)
    except Exception as error:
        if options.get("debug"):
            raise
        from somatic.errors import SomaticError, typed_line

        text = " ".join(str(error).split())
        if isinstance(error, MemoryError):
            text = (
                "this process ran out of memory; run the same command again where there is more, or with fewer "
                "--workers: what was measured is kept (somatic --debug ... shows where)"
            )
        elif isinstance(error, ImportError):
            text = f"{typed_line(error)}; this installation lacks a package: install somatic again"
        elif not isinstance(error, SomaticError):
            text = f"unexpected {typed_line(error)} (somatic --debug ... shows where)"
        typer.echo(f"somatic: {text}", err=True)
        sys.exit(1)
