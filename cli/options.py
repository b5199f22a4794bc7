"""Arguments that several subcommands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

DatasetName = Annotated[
    str,
    typer.Argument(
        metavar="DATASET",
        help="A name that `somatic datasets` lists, or the path of a TOML or JSON file.",
        show_default=False,
    ),
]
Results = Annotated[
    str,
    typer.Argument(metavar="RESULTS", help="The folder that holds features.parquet; path or URL.", show_default=False),
]
Version = Annotated[
    str | None,
    typer.Option(
        metavar="V|latest",
        help="Materialization version.",
        show_default="the dataset's own, else latest",
    ),
]
To = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Where results go: a folder, s3://bucket/folder, or gs://bucket/folder (with the package gcsfs).",
        show_default="the dataset's own, else ./somatic-results",
    ),
]
Limit = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Only the first so many nuclei, by id.", show_default="all")
]
Sample = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Only so many nuclei, spread over the dataset; the same ones each time."),
]
NucleiFile = Annotated[
    str | None,
    typer.Option(
        "--nuclei",
        metavar="FILE",
        help="Only these nuclei: a text with one id a line, or a table (CSV, Parquet, Feather) with their ids in "
        "nucleus_id or id.",
    ),
]
Chunk = Annotated[int, typer.Option(metavar="N", min=1, help="Cells in a chunk, which is stored as one file.")]
SinceVersion = Annotated[
    str,
    typer.Option(
        "--since",
        metavar="auto|V|none",
        help="Take over what is the same from the results of an earlier version: the newest complete one, or V.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Chunks measured at the same time, each in a process of its own.",
        show_default="as many as cores and free memory allow",
    ),
]


def parse_version(text: str | None) -> "int | Literal['latest'] | None":
    """A materialization version: a number or latest; None where none is given."""
    if text is None or text == "latest":
        return text  # type: ignore[return-value]
    if text.isdecimal():
        return int(text)
    raise typer.BadParameter(f"{text!r} is neither a number nor latest", param_hint="--version")


def parse_since(text: str) -> "int | Literal['auto'] | None":
    """The version to take cells over from: a number, auto, or None for none."""
    if text in ("auto", "none"):
        return "auto" if text == "auto" else None
    if text.isdecimal():
        return int(text)
    raise typer.BadParameter(f"{text!r} is neither a number nor auto nor none", param_hint="--since")


def check_selection(limit: int | None, sample: int | None) -> None:
    """Refuse two ways of choosing nuclei at once."""
    if limit is not None and sample is not None:
        raise typer.BadParameter("choose one of --limit and --sample", param_hint="--sample")


def check_can_write(path: Path) -> None:
    """Refuse a file that cannot be written, before any work is done for it.

    Raises
    ------
    StoreError
        Says why.
    """
    import tempfile

    from somatic.errors import StoreError

    try:
        if path.exists():
            path.open("ab").close()
        else:
            tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}; choose another place") from error
