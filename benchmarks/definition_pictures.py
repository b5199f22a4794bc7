"""The pictures of docs/definitions.md: published and corrected definitions on the same cells.

    .venv/bin/python -m benchmarks.definition_pictures docs/definitions

The cells are made up as for `benchmarks.definitions`; where ../shared/real_soma is there, its soma is drawn too, into
the folder that --real names.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import trimesh
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from benchmarks.definitions import NAMES, RESOLUTION_NM, SHARE_MISSING, Cut, cut_out, synapses_at
from sandbox.bodies import ball_on_rod, ellipsoid, turned
from sandbox.phantom.cells import make_cells, nucleus_mask
from sandbox.phantom.layout import CELLS
from sandbox.phantom.precomputed import nucleus_mesh
from somatic.cell import Cell, cell_box
from somatic.cutout import Segmentation
from somatic.definitions import definitions_called
from somatic.nucleus import NucleusLayer, closed
from somatic.soma import Place, SomaMask

COLOURS = {"published": "#c2410c", "corrected": "#1d4ed8"}
_LABELS = ListedColormap(["#ffffff", "#d7dbe2", "#9fc5a8"])
_UNLABELLED, _NEIGHBOUR, _CELL = 0, 1, 2
_REAL = Path("../shared/real_soma/scene")


def main() -> None:
    """Draw all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--real", type=Path, help="draw the real soma into this folder")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name, figure in (
        ("mask", draw_mask()),
        ("surface", draw_surface()),
        ("caps", draw_caps()),
        ("synapses", draw_synapses()),
        ("folds", draw_folds()),
    ):
        figure.savefig(arguments.folder / f"{name}.png", dpi=90)
    if arguments.real:
        arguments.real.mkdir(parents=True, exist_ok=True)
        draw_real_soma().savefig(arguments.real / "real_soma.png", dpi=110)


def draw_mask() -> Figure:
    """A plane along y and z of a cell with missing sections: its labels, and the outlines of both masks."""
    cut = cut_out(ellipsoid((2500.0, 3500.0, 5000.0), turned(1)), seed=1, share_missing=SHARE_MISSING)
    figure, ax = _figure(7, 7)
    _draw_plane(ax, cut, {name: definitions_called(name).repair(cut.cutout, cut.place, None) for name in NAMES})
    _legend(ax, *_label_patches(), *_line_patches("mask, {}"))
    return figure


def draw_surface() -> Figure:
    """Where a plane cuts both meshes of a ball of 1 um, and the ball."""
    cut = cut_out(ellipsoid((500.0,) * 3), seed=2)
    figure, ax = _figure(6, 6)
    for name in NAMES:
        _draw_section(ax, _mesh_of(cut, name), cut.centre_nm, COLOURS[name])
    angle = np.linspace(0, 2 * np.pi, 200)
    ax.plot(500 * np.cos(angle), 500 * np.sin(angle), "k--", lw=1)
    _legend(ax, *_line_patches("mesh, {}"), Patch(color="black", label="the ball, dashed"))
    return figure


def draw_caps() -> Figure:
    """Both meshes of a ball with two dendrites that leave the cutout."""
    cut = cut_out(ball_on_rod(4000.0, 800.0), seed=0)
    figure, ax = _figure(8, 6)
    for name in NAMES:
        _draw_section(ax, _mesh_of(cut, name), cut.centre_nm, COLOURS[name], along=1)
    for end_vx in (cut.place.box.lower_vx[0], cut.place.box.upper_vx[0]):
        end = end_vx * RESOLUTION_NM[0] - cut.centre_nm[0]
        ax.plot([end, end], [-800, 800], color="#0a7d32", lw=5, alpha=0.5)
    _legend(ax, *_line_patches("mesh, {}"), Patch(color="#0a7d32", label="caps: no surface (corrected)"))
    return figure


def draw_synapses() -> Figure:
    """What lies within 150 nm of a vertex of the published mesh, and of the surface of the corrected one."""
    cut = cut_out(ellipsoid((4000.0,) * 3), seed=0)
    lower, upper = np.array([3300, -800]), np.array([4700, 800])
    grid = np.stack(np.meshgrid(*[np.arange(a, b, 8.0) for a, b in zip(lower, upper, strict=True)], indexing="ij"), -1)
    points = np.column_stack([grid.reshape(-1, 2), np.zeros(grid[..., 0].size)]) + cut.centre_nm
    figure, ax = _figure(7, 7)
    for name, alpha in zip(NAMES, (0.45, 0.25), strict=True):
        counts = definitions_called(name).on_soma(synapses_at(points), _mesh_of(cut, name)).reshape(grid.shape[:2])
        colour = ListedColormap([(1, 1, 1, 0), COLOURS[name]])
        extent = (lower[0], upper[0], lower[1], upper[1])
        ax.imshow(counts.T, origin="lower", extent=extent, cmap=colour, alpha=alpha, interpolation="nearest")
    angle = np.linspace(-0.3, 0.3, 100)
    ax.plot(4000 * np.cos(angle), 4000 * np.sin(angle), "k--", lw=1)
    ax.set(xlim=(lower[0], upper[0]), ylim=(lower[1], upper[1]))
    _legend(ax, *_line_patches("counts, {}"), Patch(color="black", label="membrane, dashed"))
    return figure


def draw_folds() -> Figure:
    """A folded nucleus of the sandbox, cut by a plane; each point in the colour of its depth."""
    cells = make_cells(0, list(range(len(CELLS))), [])
    folded = max(cells.values(), key=lambda cell: len(cell.grooves))
    voxel_um = RESOLUTION_NM / 1000
    shape = np.ceil((np.array(folded.plan.centre_um) + 12) / voxel_um).astype(int)
    mesh = nucleus_mesh(1, nucleus_mask(folded, voxel_um, shape))
    whole = trimesh.Trimesh(mesh.vertices, mesh.faces, process=True)
    figure = Figure(figsize=(11, 5.5), layout="constrained", facecolor="white")
    for number, name in enumerate(NAMES):
        steps = definitions_called(name)
        surface, _ = steps.measure_nucleus(whole, RESOLUTION_NM)
        ax = figure.add_subplot(1, 2, 1 + number)
        near = np.abs(surface.vertices[:, 2] - surface.vertices[:, 2].mean()) < 80
        x, y, _ = (surface.vertices[near] - surface.vertices.mean(axis=0)).T
        depth = ax.scatter(x, y, c=steps.fold_depth_nm(surface)[near], s=4, cmap="inferno", vmin=0, vmax=1500)
        row = steps.fold_columns(surface)
        ax.set(title=f"{name}: {100 * row['fraction_nuclear_folding']:.1f} % folded", xlabel="nm", aspect="equal")
    figure.colorbar(depth, ax=figure.axes, label="depth (nm)", shrink=0.8)
    return figure


def draw_real_soma() -> Figure:
    """The real soma: a plane of its cutout with both masks."""
    tables = json.loads((_REAL / "tables.json").read_text())
    [nucleus] = tables["nuclei"]
    x, y, z = nucleus["pt_position"]
    cell = Cell(nucleus["id"], nucleus["pt_root_id"], (x, y, z), (4.0, 4.0, 40.0))
    segmentation = Segmentation(f"precomputed://file://{_REAL.resolve()}/seg", 0)
    box = cell_box(cell, 15_000.0, segmentation.resolution_nm)
    cutout = segmentation.read(box, cell.root_id, with_unlabelled=True)
    place = Place(box, segmentation.resolution_nm, cell.centre_nm, 15_000.0)
    mesh, _ = closed(NucleusLayer(f"precomputed://file://{_REAL.resolve()}/nuclei").mesh(cell.nucleus_id))
    figure, ax = _figure(9, 9)
    masks = {name: definitions_called(name).repair(cutout, place, mesh) for name in NAMES}
    _draw_plane(ax, Cut(cutout, place, cell.centre_nm), masks)
    _legend(ax, *_label_patches(), *_line_patches("mask, {}"))
    return figure


def _mesh_of(cut: Cut, name: str) -> trimesh.Trimesh:
    steps = definitions_called(name)
    mesh, _ = steps.soma_surface(steps.repair(cut.cutout, cut.place, None), cut.place)
    return mesh


def _draw_plane(ax: Axes, cut: Cut, masks: dict[str, SomaMask]) -> None:
    """Labels of the plane along y and z through the middle of a cutout, and the outlines of masks."""
    cutout = cut.cutout
    assert cutout.unlabelled is not None
    x = cutout.mask.n_x // 2
    labels = np.full(cutout.mask.shape[1:], _NEIGHBOUR)
    labels[cutout.unlabelled.to_array()[x]] = _UNLABELLED
    labels[cutout.mask.to_array()[x]] = _CELL
    y_um, z_um = (n * size / 1000 for n, size in zip(labels.shape, cut.place.resolution_nm[1:], strict=True))
    ax.imshow(
        labels.T, origin="lower", extent=(0, y_um, 0, z_um), cmap=_LABELS, vmin=0, vmax=2, interpolation="nearest"
    )
    for name, soma in masks.items():
        plane = np.zeros(labels.shape, bool)
        part = soma.mask.to_array()[x - soma.lower_vx[0]]
        y, z = soma.lower_vx[1:]
        plane[y : y + part.shape[0], z : z + part.shape[1]] = part
        middles = [
            (np.arange(n) + 0.5) * size / 1000 for n, size in zip(plane.shape, cut.place.resolution_nm[1:], strict=True)
        ]
        ax.contour(*middles, plane.T, levels=[0.5], colors=COLOURS[name], linewidths=1.2)
    ax.set(xlabel="y (um)", ylabel="z (um)")


def _draw_section(ax: Axes, mesh: trimesh.Trimesh, centre_nm: np.ndarray, colour: str, along: int = 2) -> None:
    """Where the plane through a point across an axis cuts a mesh."""
    lines = trimesh.intersections.mesh_plane(mesh, np.eye(3)[along], centre_nm + 0.1)
    across = [axis for axis in range(3) if axis != along]
    for start, end in lines[:, :, across] - centre_nm[across]:
        ax.plot(*zip(start, end, strict=True), color=colour, lw=1.3)
    ax.set(xlabel="nm", ylabel="nm")


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    ax = figure.add_subplot()
    ax.set_aspect("equal")
    return figure, ax


def _label_patches() -> Sequence[Patch]:
    texts = ((_CELL, "the cell"), (_NEIGHBOUR, "neighbours"), (_UNLABELLED, "unlabelled"))
    return [Patch(facecolor=_LABELS(label), edgecolor="#888888", label=text) for label, text in texts]


def _line_patches(text: str) -> Sequence[Patch]:
    return [Patch(color=colour, label=text.format(name)) for name, colour in COLOURS.items()]


def _legend(ax: Axes, *patches: Patch) -> None:
    ax.legend(handles=list(patches), loc="upper right", fontsize="small", framealpha=0.9)


if __name__ == "__main__":
    main()
