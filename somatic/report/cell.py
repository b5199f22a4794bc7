"""A page about one cell, and its picture alone."""

from typing import Any

import pyarrow as pa
from trimesh.viewer.notebook import scene_to_html

from somatic.features import COLUMNS, FEATURES_OF_SHAPE, columns_of
from somatic.report.drawing import draw_picture, make_scene
from somatic.report.page import render
from somatic.report.pictures import png_bytes, png_url
from somatic.report.plots import histogram
from somatic.report.view import CellView
from somatic.results.flags import marks, measured_values


def cell_png(view: CellView, title: str) -> bytes:
    """The picture of a cell as a PNG."""
    return png_bytes(draw_picture(view, title))


def cell_report(view: CellView, title: str, url: str | None, features: pa.Table | None = None) -> str:
    """A page about a cell.

    Parameters
    ----------
    view : CellView
    title : str
        What the cell is called.
    url : str or None
        Link to it in Neuroglancer.
    features : pyarrow.Table, optional
        A table of features, among whose values its own are shown.

    Returns
    -------
    str
        HTML, with everything in it.
    """
    row = view.measured.row
    scene = make_scene(view)
    return render(
        "cell.html.jinja",
        title=title,
        reason=row["reason"],
        url=url,
        scene=scene_to_html(scene) if scene.geometry else None,
        picture=png_url(draw_picture(view, title)),
        n_counted=int(view.counted.sum()),
        n_synapses=len(view.counted),
        numbers=[
            _number(column.name, column.unit, row[column.name], features) for column in columns_of(row["definitions"])
        ],
        plots=[] if features is None else _plots(row, features),
        n_others=None if features is None else features.num_rows,
    )


def _number(name: str, unit: str, value: Any, features: pa.Table | None) -> tuple[str, str, str, str]:
    """Name, value, unit, and below how much of the values of a result set it lies."""
    if isinstance(value, bool):
        shown = "yes" if value else "no"
    else:
        shown = "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    share = ""
    if features is not None and name in FEATURES_OF_SHAPE and value is not None:
        others = measured_values(features, name)
        if len(others):
            share = f"{100 * float((others < value).mean()):.3g} %"
    return name, shown, "" if unit == "1" else unit, share


def _plots(row: dict[str, Any], features: pa.Table) -> list[tuple[str, Any]]:
    units = {column.name: column.unit for column in COLUMNS}
    found = []
    for name in FEATURES_OF_SHAPE:
        values = measured_values(features, name)
        if row[name] is not None and len(values):
            found.append((name, histogram(values, name, units[name], marks(values), float(row[name]))))
    return found
