"""Pictures of meshes, projected along an axis, with the far faces drawn first."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import trimesh
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

Colours = npt.NDArray[np.float64]

_LIGHT = np.array([0.4, -0.5, 0.77])
_GREY_BLUE = (0.45, 0.58, 0.78, 1.0)
_THUMBNAIL_PIXELS = 88


def draw_meshes(ax: Axes, parts: Sequence[tuple[trimesh.Trimesh, Colours]], along: int) -> None:
    """Draw meshes together, in micrometres.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    parts : sequence of (trimesh.Trimesh, (n_faces, 4) float)
        Meshes with vertices in nm, and red, green, blue, alpha of each face, from 0 to 1.
    along : {0, 1, 2}
        Axis along which one looks; the two others are drawn, y downwards.
    """
    across = across_axes(along)
    triangles = np.concatenate([mesh.vertices[mesh.faces] for mesh, _ in parts]) / 1000
    normals = np.concatenate([mesh.face_normals for mesh, _ in parts])
    colours = np.concatenate([colour for _, colour in parts])
    # Of two sides, so that the inside of what is half transparent is lit too.
    brightness = 0.45 + 0.55 * np.abs(normals @ np.roll(_LIGHT, along + 1))
    shaded = np.column_stack([colours[:, :3] * brightness[:, None], colours[:, 3]])
    order = np.argsort(-triangles[:, :, along].mean(axis=1))
    # One array is drawn much faster than the list that its types ask for.
    faces: Any = triangles[order][:, :, across]
    ax.add_collection(PolyCollection(faces, facecolors=shaded[order], edgecolors="none", rasterized=True))
    ax.autoscale_view()
    ax.set_aspect("equal")
    if across[1] == 1:
        ax.invert_yaxis()


def across_axes(along: int) -> list[int]:
    """The axes of a picture, to the right and upwards or downwards, of who looks along an axis."""
    return [[2, 1], [0, 2], [0, 1]][along]


def plain(mesh: trimesh.Trimesh, colour: Sequence[float] = _GREY_BLUE) -> tuple[trimesh.Trimesh, Colours]:
    """A mesh of one colour, for `draw_meshes`."""
    return mesh, np.tile(colour, (len(mesh.faces), 1))


def thumbnail(mesh: trimesh.Trimesh) -> str:
    """A mesh seen along z, as a small PNG in a data URL."""
    figure = Figure(figsize=(1, 1), dpi=_THUMBNAIL_PIXELS, facecolor="none")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    draw_meshes(ax, [plain(mesh)], along=2)
    return png_url(figure)


def png_url(figure: Figure) -> str:
    """A figure as PNG in a data URL."""
    return f"data:image/png;base64,{base64.b64encode(png_bytes(figure)).decode()}"


def png_bytes(figure: Figure) -> bytes:
    """A figure as PNG."""
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()
