"""`somatic export`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.options import Results, check_can_write

EXAMPLES = (
    "somatic export somatic-results/mine/v0/1a2b3c4d --to csv",
    "somatic export s3://my-bucket/somatic/mine/v0/1a2b3c4d --to json-per-cell",
    "somatic export somatic-results/mine/v0/1a2b3c4d --to h5ad --out mine.h5ad",
)
NOTE = "features.parquet itself opens in pandas, polars, DuckDB and R: docs/using-results.md."

_FILES_AT_ONCE = 16


def export(
    results: Results,
    to: Annotated[
        Literal["csv", "json-per-cell", "h5ad"],
        typer.Option(help="Form; json-per-cell is the layout of Extract_Somatic_Features, in nm.", show_default=False),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="File; with json-per-cell a folder, or s3://bucket/folder.",
            show_default="features.csv, features.h5ad or cells",
        ),
    ] = None,
) -> None:
    """Write the table of features in another form.

    Ids keep all their digits, and what could not be measured stays empty.
    """
    from concurrent.futures import ThreadPoolExecutor

    from cli.reading import read_features
    from cli.steps import shown_steps
    from somatic.results.export import seed_files, to_anndata, to_csv
    from somatic.storage.store import ResultStore

    place = out or {"csv": "features.csv", "json-per-cell": "cells", "h5ad": "features.h5ad"}[to]
    if to != "json-per-cell":
        check_can_write(Path(place))
    with shown_steps() as step:
        step("reading the table")
        features = read_features(results)
        step("writing")
        if to == "csv":
            Path(place).write_bytes(to_csv(features))
        elif to == "h5ad":
            to_anndata(features).write_h5ad(place)
        else:
            folder = ResultStore(place)
            with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
                for _ in pool.map(lambda file: folder.put(*file), seed_files(features)):
                    pass
    typer.echo(place)
