"""`somatic cell`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.options import DatasetName, Version, parse_version

EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "somatic cell minnie65 262144 --version 1300\n\n"
    "somatic cell my.toml 262144 --json - | jq .soma_volume_um\n\n"
    "somatic cell my.toml 262144 --mesh soma.ply"
)
_MESH_SUFFIXES = (".ply", ".obj")
_WIDTH_FOR_MEANING = 140


def cell(
    dataset: DatasetName,
    nucleus_id: Annotated[int, typer.Argument(metavar="NUCLEUS_ID", help="Id of the nucleus in the dataset's table.")],
    version: Version = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the row as JSON; - for standard output.")
    ] = None,
    mesh: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the soma mesh, in nm: PLY or OBJ by the file's name.")
    ] = None,
) -> None:
    """Measure one cell, here and now, and show its features."""
    if mesh and mesh.suffix.lower() not in _MESH_SUFFIXES:
        raise typer.BadParameter(f"{mesh}: the name must end in .ply or .obj", param_hint="--mesh")

    from somatic.cell import extract_cell
    from somatic.dataset import load_dataset
    from somatic.errors import PermanentError
    from somatic.extraction import Extraction
    from somatic.nucleus import NucleusLayer
    from somatic.plan import make_plan

    extraction = Extraction.open(load_dataset(dataset), parse_version(version) if version else None)
    nuclei = extraction.source.nuclei()
    plan = make_plan(nuclei, radius_nm=extraction.radius_nm, ids=[nucleus_id])
    skipped = plan.rows["status_reason"].iloc[0]
    if skipped:
        raise PermanentError(f"nucleus {nucleus_id} of {extraction.title} cannot be measured: {skipped}")
    [one] = extraction.cells(plan.rows, plan.resolution_nm)
    url = extraction.source.nucleus_segmentation
    measured = extract_cell(
        one,
        extraction.segmentation,
        NucleusLayer(url) if url else None,
        extraction.synapses_of([one]),
        radius_nm=extraction.radius_nm,
        materialization_version=extraction.version,
        definitions=extraction.dataset.definitions,
    )
    if json_file == "-":
        typer.echo(_json(measured.row))
    elif json_file:
        Path(json_file).write_text(_json(measured.row) + "\n")
    else:
        _show(measured.row, measured.seconds)
    if mesh and measured.soma is not None:
        measured.soma.export(mesh)
    if measured.error:
        raise measured.error


def _json(row: dict[str, Any]) -> str:
    from somatic.features import COLUMNS

    return json.dumps({column.name: row[column.name] for column in COLUMNS}, indent=2, allow_nan=False)


def _show(row: dict[str, Any], seconds: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    from somatic.features import COLUMNS

    console = Console()
    with_meaning = console.width >= _WIDTH_FOR_MEANING
    table = Table(title=f"Nucleus {row['nucleus_id']}", title_justify="left")
    table.add_column("feature", no_wrap=True)
    table.add_column("value", justify="right", overflow="fold")
    table.add_column("unit", no_wrap=True)
    if with_meaning:
        table.add_column("meaning", no_wrap=True)
    for column in COLUMNS:
        value = row[column.name]
        shown = "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
        unit = "" if column.unit == "1" else column.unit
        table.add_row(column.name, shown, unit, *([column.description] if with_meaning else []))
    console.print(table)
    console.print(f"{sum(seconds.values()):.1f} s: " + ", ".join(f"{name} {s:.1f}" for name, s in seconds.items()))
