"""Links that open a cell in Neuroglancer."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import numpy.typing as npt

from somatic.dataset import segmentation_kind

_FLAT_VIEWER = "https://neuroglancer-demo.appspot.com"
# Of the same code, by the makers of CAVE.
_GRAPH_VIEWER = "https://spelunker.cave-explorer.org"
_REACHABLE = ("https", "gs", "s3")
# What neuroglancer.to_url of Neuroglancer's own package leaves as it is.
_SAFE = "~@#$&()*!+=:;,.?/'"
_SLICE_NM_PER_PIXEL = 50.0
_VIEW_HEIGHT_NM = 40_000.0


@dataclass(frozen=True)
class ViewerLayers:
    """The layers in which the cells of a result set are shown.

    Attributes
    ----------
    segmentation_url : str
        Its segment ids are root ids; as cloud-volume takes it.
    nuclei_url : str or None
        Its segment ids are nucleus ids; as cloud-volume takes it.
    meshes_url : str or None
        Our soma meshes, whose segment ids are nucleus ids; a folder.
    resolution_nm : (3,) float
        Size of the voxels in which Neuroglancer shows positions.
    """

    segmentation_url: str
    nuclei_url: str | None
    meshes_url: str | None
    resolution_nm: Sequence[float]

    @property
    def viewer_url(self) -> str:
        """Public viewer that can show the segmentation."""
        return _GRAPH_VIEWER if segmentation_kind(self.segmentation_url) == "graph" else _FLAT_VIEWER


def cell_url(
    layers: ViewerLayers,
    nucleus_id: int,
    root_id: int,
    centre_nm: Sequence[float],
    synapses_nm: npt.NDArray[np.float64] | None = None,
) -> str | None:
    """Link that opens `cell_state`; None where there is none."""
    state = cell_state(layers, nucleus_id, root_id, centre_nm, synapses_nm)
    if state is None:
        return None
    return f"{layers.viewer_url}#!{quote(json.dumps(state, separators=(',', ':')), safe=_SAFE)}"


def cell_state(
    layers: ViewerLayers,
    nucleus_id: int,
    root_id: int,
    centre_nm: Sequence[float],
    synapses_nm: npt.NDArray[np.float64] | None = None,
) -> dict[str, Any] | None:
    """State of Neuroglancer that shows a cell, its nucleus, its soma mesh and its synapses.

    Parameters
    ----------
    layers : ViewerLayers
        Those that lie where a browser can read them are shown.
    nucleus_id, root_id : int
        Which segments are shown.
    centre_nm : (3,) float
        Where to look.
    synapses_nm : (n, 3) float, optional
        Points of a layer of their own: the synapses that were counted.

    Returns
    -------
    dict or None
        None when no layer lies where a browser can read it: https, gs or s3.

    Notes
    -----
    The state is that of Neuroglancer's own Python package, which is not used: it brings the whole viewer, a web server
    and eight packages more, and has no wheel for Linux on ARM.
    """
    meshes = f"precomputed://{layers.meshes_url}" if layers.meshes_url else None
    of_cell = [
        _layer("segmentation", layers.segmentation_url, root_id),
        _layer("nuclei", layers.nuclei_url, nucleus_id),
        _layer("soma meshes", meshes, nucleus_id),
    ]
    shown = [layer for layer in of_cell if layer]
    if not shown:
        return None
    if synapses_nm is not None:
        shown.append(_points("synapses", synapses_nm / np.asarray(layers.resolution_nm)))
    voxel_nm = min(layers.resolution_nm)
    return {
        "dimensions": {axis: [size / 1e9, "m"] for axis, size in zip("xyz", layers.resolution_nm, strict=True)},
        "position": [centre / size for centre, size in zip(centre_nm, layers.resolution_nm, strict=True)],
        "crossSectionScale": _SLICE_NM_PER_PIXEL / voxel_nm,
        "projectionScale": _VIEW_HEIGHT_NM / voxel_nm,
        "layers": shown,
        "layout": "xy-3d",
    }


def _points(name: str, points_vx: npt.NDArray[np.float64]) -> dict[str, Any]:
    points = [
        {"type": "point", "id": str(number), "point": point} for number, point in enumerate(points_vx.round(1).tolist())
    ]
    return {"type": "annotation", "source": "local://annotations", "annotations": points, "name": name}


def _layer(name: str, url: str | None, segment: int) -> dict[str, Any] | None:
    if url is None:
        return None
    kind, _, place = url.partition("://")
    address = urlsplit(place.removeprefix("middleauth+"))
    if address.scheme not in _REACHABLE or "@" in address.netloc:
        return None
    # Neuroglancer asks people for a token only where it is told to.
    source = f"graphene://middleauth+{address.geturl()}" if kind == "graphene" else url
    # JavaScript has no integers of 64 bits, so ids are strings.
    return {"type": "segmentation", "source": [{"url": source}], "segments": [str(segment)], "name": name}
