"""A cell drawn: its meshes from three sides with the planes of its cutout, and in 3D."""

import numpy as np
import numpy.typing as npt
import trimesh
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from trimesh.visual import ColorVisuals, TextureVisuals
from trimesh.visual.material import PBRMaterial

from somatic.report.pictures import across_axes, draw_meshes
from somatic.report.view import CellView

_SOMA = (0.45, 0.58, 0.78, 0.16)
_COUNTED, _NOT_COUNTED = "#0a7d32", "#8a8f98"
_BEFORE, _AFTER = "#c2410c", "#1d4ed8"
_FOLD_COLOURS = ListedColormap(colormaps["inferno"](np.linspace(0.15, 0.95, 256)))
_DEEP_NM = 1000.0
"""Depth of a fold from which the colour is the same."""
_SYNAPSE_RADIUS_NM = 180.0


def _fold_colours(depth_nm: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return _FOLD_COLOURS(np.clip(depth_nm / _DEEP_NM, 0, 1))


def draw_picture(view: CellView, title: str) -> Figure:
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
        scale = ScalarMappable(Normalize(0, _DEEP_NM), _FOLD_COLOURS)
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


def make_scene(view: CellView) -> trimesh.Scene:
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
