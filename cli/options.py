"""Arguments that several subcommands share."""

from typing import Annotated, Literal

import typer

DatasetName = Annotated[
    str,
    typer.Argument(metavar="DATASET", help="A name that `somatic datasets` lists, or the path of a TOML or JSON file."),
]


def parse_version(text: str) -> "int | Literal['latest']":
    """A materialization version: a number or latest."""
    if text == "latest":
        return "latest"
    if text.isdecimal():
        return int(text)
    raise typer.BadParameter(f"{text!r} is neither a number nor latest")


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
        help="Where results go: a folder, or s3://bucket/folder.",
        show_default="the dataset's own, else ./somatic-results",
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many nuclei, by id.", show_default="all")]
Sample = Annotated[
    int | None, typer.Option(min=1, help="Only so many nuclei, spread over the dataset; the same ones each time.")
]
NucleiFile = Annotated[
    str | None,
    typer.Option("--nuclei", metavar="FILE", help="Only the nuclei whose ids this file lists (text, CSV, Parquet)."),
]
Chunk = Annotated[int, typer.Option(min=1, help="Cells in a chunk, which is stored as one file.")]
