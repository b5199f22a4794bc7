"""One cell, shown: its meshes, the planes of its cutout, its numbers beside those of a result set."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import trimesh
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.spatial import cKDTree
from trimesh.viewer.notebook import scene_to_html
from trimesh.visual import ColorVisuals, TextureVisuals
from trimesh.visual.material import PBRMaterial

from somatic.cell import Cell, Measured, cell_box
from somatic.cutout import Segmentation
from somatic.features import COLUMNS

# Which vertices are folded, measure_folds keeps to itself.
from somatic.folds import _wrap as wrap_nucleus
from somatic.mask import repair
from somatic.quality import NUMERIC, is_position, marks, measured_values
from somatic.report.page import render
from somatic.report.pictures import across_axes, draw_meshes, png_bytes, png_url
from somatic.report.plots import histogram
from somatic.synapses import on_soma, synapse_centres_nm, synapses_in_cutout
from somatic.tables import Synapses

_SOMA = (0.45, 0.58, 0.78, 0.16)
_COUNTED, _NOT_COUNTED = "#0a7d32", "#8a8f98"
_BEFORE, _AFTER = "#c2410c", "#1d4ed8"
_DEEP_NM = 1000.0
"""Depth of a fold from which the colour is the same."""
_SYNAPSE_RADIUS_NM = 180.0


@dataclass(frozen=True, eq=False)
class CellView:
    """What a picture of a cell is made of.

    Attributes
    ----------
    measured : Measured
        Row and meshes.
    fold_depth_nm : (n,) float or None
        Of each vertex of the nucleus.
    synapses_nm, counted : (m, 3) float, (m,) bool
        The synapses in the cutout, and which of them count.
    before, after : (nx, ny, nz) bool
        The mask, before and after its repair.
    lower_nm, voxel_nm : (3,) float
        Where the mask begins, and the size of a voxel.
    """

    measured: Measured
    fold_depth_nm: npt.NDArray[np.float64] | None
    synapses_nm: npt.NDArray[np.float64]
    counted: npt.NDArray[np.bool_]
    before: npt.NDArray[np.bool_]
    after: npt.NDArray[np.bool_]
    lower_nm: npt.NDArray[np.float64]
    voxel_nm: npt.NDArray[np.float64]


def view_cell(
    cell: Cell, measured: Measured, segmentation: Segmentation, synapses: Synapses | None, radius_nm: float
) -> CellView:
    """Gather what a picture of a measured cell needs; its cutout is read once more.

    Raises
    ------
    SomaticError
        The segmentation could not be read.
    """
    box = cell_box(cell, radius_nm, segmentation.resolution_nm)
    labels = cell.leaves if isinstance(cell.leaves, np.ndarray) else cell.root_id
    mask = segmentation.read(box, labels).mask
    synapses_nm, counted = np.zeros((0, 3)), np.zeros(0, dtype=bool)
    if synapses is not None:
        in_cutout = synapses_in_cutout(synapses, cell.root_id, cell.centre_nm, radius_nm)
        synapses_nm = synapse_centres_nm(in_cutout)
        counted = on_soma(in_cutout, measured.soma) if measured.soma is not None else np.zeros(len(synapses_nm), bool)
    return CellView(
        measured,
        _fold_depth_nm(measured.nucleus) if measured.nucleus is not None else None,
        synapses_nm,
        counted,
        np.asarray(mask),
        np.asarray(repair(mask)),
        box.lower_vx * segmentation.resolution_nm,
        segmentation.resolution_nm,
    )


def cell_png(view: CellView, title: str) -> bytes:
    """The picture of a cell as a PNG."""
    return png_bytes(_picture(view, title))


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
    scene = _scene(view)
    return render(
        "cell.html.jinja",
        title=title,
        reason=row["reason"],
        url=url,
        scene=scene_to_html(scene) if scene.geometry else None,
        picture=png_url(_picture(view, title)),
        n_counted=int(view.counted.sum()),
        n_synapses=len(view.counted),
        numbers=[_number(column.name, column.unit, row[column.name], features) for column in COLUMNS],
        plots=[] if features is None else _plots(row, features),
        n_others=None if features is None else features.num_rows,
    )


def _fold_depth_nm(nucleus: trimesh.Trimesh) -> npt.NDArray[np.float64]:
    """Distance of each vertex from the wrap of the nucleus (`somatic.folds.measure_folds`)."""
    vertices = nucleus.vertices - nucleus.vertices.mean(axis=0)
    return cKDTree(wrap_nucleus(vertices)).query(vertices)[0]


def _fold_colours(depth_nm: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return colormaps["inferno"](0.15 + 0.8 * np.clip(depth_nm / _DEEP_NM, 0, 1))


def _picture(view: CellView, title: str) -> Figure:
    """Three views of the meshes, and below them the three planes of the cutout through its centre."""
    figure = Figure(figsize=(13, 9), dpi=110, layout="constrained", facecolor="white")
    figure.suptitle(title)
    for number, along in enumerate((2, 1, 0)):
        _draw_cell(figure.add_subplot(2, 3, 1 + number), view, along)
        _draw_plane(figure.add_subplot(2, 3, 4 + number), view, along)
    handles = [
        Line2D([], [], color=_COUNTED, marker="o", linestyle="", label=f"{view.counted.sum()} synapses counted"),
        Line2D([], [], color=_NOT_COUNTED, marker="o", linestyle="", label=f"{(~view.counted).sum()} not counted"),
        Line2D([], [], color=_BEFORE, label="mask before repair"),
        Line2D([], [], color=_AFTER, label="mask after repair"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    if view.fold_depth_nm is not None:
        scale = ScalarMappable(Normalize(0, _DEEP_NM), "inferno")
        figure.colorbar(scale, ax=figure.axes[::2], label="depth of folds (nm)", shrink=0.7)
    return figure


def _draw_cell(ax: Axes, view: CellView, along: int) -> None:
    soma, nucleus = view.measured.soma, view.measured.nucleus
    parts = []
    if soma is not None:
        parts.append((soma, np.tile(_SOMA, (len(soma.faces), 1))))
    if nucleus is not None:
        assert view.fold_depth_nm is not None
        parts.append((nucleus, _fold_colours(view.fold_depth_nm[nucleus.faces].max(axis=1))))
    across = across_axes(along)
    if parts:
        draw_meshes(ax, parts, along)
    for chosen, colour in ((~view.counted, _NOT_COUNTED), (view.counted, _COUNTED)):
        ax.plot(*(view.synapses_nm[chosen][:, across].T / 1000), ".", color=colour, markersize=4)
    ax.set(xlabel=f"{'xyz'[across[0]]} (µm)", ylabel=f"{'xyz'[across[1]]} (µm)")


def _draw_plane(ax: Axes, view: CellView, along: int) -> None:
    across = across_axes(along)
    middle = view.before.shape[along] // 2
    lower_um, voxel_um = view.lower_nm[across] / 1000, view.voxel_nm[across] / 1000
    for mask, colour in ((view.before, _BEFORE), (view.after, _AFTER)):
        plane = np.take(mask, middle, axis=along)
        # With columns along the axis that is drawn upwards, and a border so that the outline closes.
        plane = np.pad(plane if along == 0 else plane.T, 1)
        x, y = (
            low + size * np.arange(-1, n - 1)
            for low, size, n in zip(lower_um, voxel_um, plane.shape[::-1], strict=True)
        )
        if plane.any():
            ax.contourf(x, y, plane, levels=[0.5, 1], colors=[colour], alpha=0.12)
            ax.contour(x, y, plane, levels=[0.5], colors=[colour], linewidths=1)
    at_um = (view.lower_nm + middle * view.voxel_nm)[along] / 1000
    ax.set_aspect("equal")
    if across[1] == 1:
        ax.invert_yaxis()
    ax.set(
        title=f"{'xyz'[along]} = {at_um:,.1f} µm", xlabel=f"{'xyz'[across[0]]} (µm)", ylabel=f"{'xyz'[across[1]]} (µm)"
    )


def _scene(view: CellView) -> trimesh.Scene:
    """The meshes and the synapses in 3D, in micrometres around the centre of the nucleus."""
    soma, nucleus = view.measured.soma, view.measured.nucleus
    shown = [mesh for mesh in (nucleus, soma) if mesh is not None]
    scene = trimesh.Scene()
    if not shown:
        return scene
    origin_nm = shown[0].vertices.mean(axis=0)

    def add(mesh: trimesh.Trimesh, visual: ColorVisuals | TextureVisuals) -> None:
        # As seen under the microscope y points down, in a scene up.
        vertices = (mesh.vertices - origin_nm) / 1000 * (1, -1, -1)
        part = trimesh.Trimesh(vertices, mesh.faces, process=False)
        part.visual = visual
        scene.add_geometry(part)

    if nucleus is not None:
        assert view.fold_depth_nm is not None
        colours = (255 * _fold_colours(view.fold_depth_nm)).astype(np.uint8)
        add(nucleus, ColorVisuals(vertex_colors=colours))
    for chosen, colour in ((view.counted, _COUNTED), (~view.counted, _NOT_COUNTED)):
        if chosen.any():
            add(_balls(view.synapses_nm[chosen]), _paint([*to_rgb(colour), 1.0]))
    if soma is not None:
        add(soma, _paint([*_SOMA[:3], 0.3]))
    return scene


def _paint(rgba: list[float]) -> TextureVisuals:
    mode = "OPAQUE" if rgba[3] == 1 else "BLEND"
    return TextureVisuals(
        material=PBRMaterial(
            baseColorFactor=rgba, alphaMode=mode, doubleSided=True, metallicFactor=0, roughnessFactor=1
        )
    )


def _balls(points_nm: npt.NDArray[np.float64]) -> trimesh.Trimesh:
    """A small ball around each point."""
    ball = trimesh.creation.icosphere(1, _SYNAPSE_RADIUS_NM)
    vertices = (points_nm[:, None] + ball.vertices).reshape(-1, 3)
    faces = (len(ball.vertices) * np.arange(len(points_nm))[:, None, None] + ball.faces).reshape(-1, 3)
    return trimesh.Trimesh(vertices, faces, process=False)


def _number(name: str, unit: str, value: Any, features: pa.Table | None) -> tuple[str, str, str, str]:
    """Name, value, unit, and below how much of the values of a result set it lies."""
    if isinstance(value, bool):
        shown = "yes" if value else "no"
    else:
        shown = "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    share = ""
    if features is not None and name in NUMERIC and not is_position(name) and value is not None:
        others = measured_values(features, name)
        if len(others):
            share = f"{100 * float((others < value).mean()):.3g} %"
    return name, shown, "" if unit == "1" else unit, share


def _plots(row: dict[str, Any], features: pa.Table) -> list[tuple[str, Any]]:
    units = {column.name: column.unit for column in COLUMNS}
    found = []
    for name in NUMERIC:
        values = measured_values(features, name)
        if is_position(name) or row[name] is None or not len(values):
            continue
        found.append((name, histogram(values, name, units[name], marks(values), float(row[name]))))
    return found
