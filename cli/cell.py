"""`somatic cell`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import DatasetName, Version, check_can_write, parse_version

if TYPE_CHECKING:
    import pyarrow as pa

    from somatic.cell import Cell, Measured
    from somatic.extracting.extraction import Extraction
    from somatic.tables import Synapses

EXAMPLES = (
    "somatic cell minnie65 262144 --version 1300",
    "somatic cell my.toml 262144 --json - | jq .soma_volume_um",
    "somatic cell my.toml 262144 --mesh soma.ply",
    "somatic cell my.toml 262144 --report cell.html --png cell.png",
)
_MESH_SUFFIXES = (".ply", ".obj")
_WIDTH_FOR_MEANING = 140


def cell(
    dataset: DatasetName,
    nucleus_id: Annotated[
        int,
        typer.Argument(metavar="NUCLEUS_ID", help="Id of the nucleus in the dataset's table.", show_default=False),
    ],
    version: Version = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the row as JSON; - for standard output.")
    ] = None,
    mesh: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the soma mesh, in nm: PLY or OBJ by the file's name.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page about the cell, as HTML that needs no network.")
    ] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the picture of that page, as PNG.")] = None,
    results: Annotated[
        str | None,
        typer.Option(metavar="RESULTS", help="With --report: results among whose values those of the cell are shown."),
    ] = None,
) -> None:
    """Measure one cell, here and now, and show its features.

    Exit status 1 when something of it could not be measured; what could be is shown all the same, with the reason.
    """
    if mesh and mesh.suffix.lower() not in _MESH_SUFFIXES:
        raise typer.BadParameter(f"{mesh}: the name must end in .ply or .obj", param_hint="--mesh")
    if results and not report:
        raise typer.BadParameter("it is for the page of --report", param_hint="--results")
    number = parse_version(version)
    json_path = Path(json_file) if json_file and json_file != "-" else None
    for path in (json_path, mesh, report, png):
        if path:
            check_can_write(path)

    from cli.reading import read_dataset, read_features
    from cli.showing import show_remarks
    from cli.steps import shown_steps
    from somatic.errors import MissingSegment, PermanentError

    described = read_dataset(dataset)
    others = read_features(results) if results else None
    with shown_steps() as step:
        step("connecting")
        from somatic.cell import extract_cell
        from somatic.check import check_segmentation
        from somatic.extracting.chunk import cells_of
        from somatic.extracting.extraction import Extraction
        from somatic.planning.plan import make_plan

        extraction = Extraction.open(described, number, with_meshes=False)
        notes = extraction.source.notes
        show_remarks([extraction.token_note, *notes])
        n_shown = len(notes)
        step("asking for the nuclei")
        nuclei = extraction.source.nuclei()
        show_remarks(notes[n_shown:])
        plan = make_plan(nuclei, radius_nm=extraction.radius_nm, ids=[nucleus_id])
        skipped = plan.rows["status_reason"].iloc[0]
        if skipped:
            raise PermanentError(f"nucleus {nucleus_id} of {extraction.title} cannot be measured: {skipped}")
        segmentation = extraction.segmentation
        [one] = extraction.with_leaves(cells_of(plan.rows, plan.resolution_nm))
        layer = extraction.open_nuclei()
        step("asking for the synapses")
        synapses = extraction.synapses_of([one])
        step("measuring")
        measured = extract_cell(
            one,
            segmentation,
            layer,
            synapses,
            radius_nm=extraction.radius_nm,
            materialization_version=extraction.version,
            definitions=extraction.dataset.definitions,
            keep_masks=bool(report or png),
        )
        if report or png:
            step("drawing")
            _draw(extraction, one, measured, synapses, report, png, others)
    row = measured.row
    if json_file == "-":
        typer.echo(_json(row))
    else:
        _show(row, extraction.title, measured.seconds)
    if json_path:
        json_path.write_text(_json(row) + "\n")
    if mesh and measured.soma is not None:
        measured.soma.export(mesh)
    if isinstance(measured.error, MissingSegment):
        check_segmentation(nuclei, segmentation, extraction.title, extraction.source.timestamp)
    if measured.error:
        raise PermanentError(f"nucleus {nucleus_id} of {extraction.title}: {row['reason']}")


def _draw(
    extraction: "Extraction",
    cell: "Cell",
    measured: "Measured",
    synapses: "Synapses | None",
    report: Path | None,
    png: Path | None,
    others: "pa.Table | None",
) -> None:
    """Write the page about a cell, and its picture."""
    from somatic.report.cell import cell_png, cell_report
    from somatic.report.view import view_cell
    from somatic.results.neuroglancer import cell_url

    view = view_cell(cell, measured, synapses)
    title = f"Nucleus {cell.nucleus_id} of {extraction.title}"
    if png:
        png.write_bytes(cell_png(view, title))
    if report:
        layers = extraction.viewer_layers(cell.table_resolution_nm)
        counted_nm = view.synapses_nm[view.counted]
        url = cell_url(layers, cell.nucleus_id, cell.root_id, cell.centre_nm.tolist(), counted_nm)
        report.write_text(cell_report(view, title, url, others), encoding="utf-8")


def _json(row: dict[str, Any]) -> str:
    from somatic.features import COLUMNS

    return json.dumps({column.name: row[column.name] for column in COLUMNS}, indent=2, allow_nan=False)


def _show(row: dict[str, Any], title: str, seconds: dict[str, float]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from somatic.features import columns_of

    console = Console()
    with_meaning = console.width >= _WIDTH_FOR_MEANING
    table = Table(box=box.SIMPLE_HEAD, title=f"Nucleus {row['nucleus_id']} of {title}", title_justify="left")
    table.add_column("feature", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    if with_meaning:
        table.add_column("meaning", no_wrap=True)
    for column in columns_of(row["definitions"]):
        # A reason is a sentence and stands below.
        if column.name != "reason":
            unit = "" if column.unit == "1" else column.unit
            table.add_row(column.name, _value(row[column.name]), unit, *([column.description] * with_meaning))
    console.print(table)
    took = ", ".join(f"{name} {spent:.1f}" for name, spent in seconds.items())
    console.print(f"measured in {sum(seconds.values()):.1f} s: {took}", highlight=False)


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100_000 else f"{value:.6g}"
    return str(value)
