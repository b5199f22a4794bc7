"""A nucleus as one closed body in its place, from its mesh as it is stored."""

from dataclasses import dataclass

import numpy as np
import trimesh

from somatic.errors import MisplacedNucleus, OpenNucleusMesh
from somatic.features import Row
from somatic.geometry.distance import distance_from_surface
from somatic.nucleus.layer import NucleusLayer
from somatic.repair.bodies import bodies_around
from somatic.repair.closing import close_mesh
from somatic.repair.holes import Bounds
from somatic.repair.pieces import connected_pieces, signed_volumes

MAX_DEVIATION = 0.05
"""A mesh that is measured has at most this share of its volume or of its area changed."""
MAX_DISTANCE_NM = 5000.0
"""A centroid can be outside its own nucleus, and so can a position that a person chose; farther off it is another's."""
_SEAM_VX = 0.75
"""Gaps between fragments are up to about half a voxel wide."""
_AT_SIDE_VX = 1.5
_UNIT = "are its vertices in nm?"


@dataclass(frozen=True, eq=False)
class Nucleus:
    """A nucleus before it is measured.

    Attributes
    ----------
    mesh : trimesh.Trimesh
        Closed, one body, facing outwards, vertices in nm.
    columns : Row
        How it differs from the stored mesh, and from where it should be.
    """

    mesh: trimesh.Trimesh
    columns: Row


def closed(mesh: trimesh.Trimesh) -> tuple[trimesh.Trimesh, bool]:
    """Close the largest body of a mesh, wherever it is.

    Returns
    -------
    mesh : trimesh.Trimesh
        Facing outwards; the same where there was nothing to do.
    bool
        Whether it was open.

    Raises
    ------
    OpenNucleusMesh
        It cannot be closed, or not without changing its volume or its area by more than 5 %.
    """
    found = close_mesh(mesh)
    _check_deviation(found.deviation, found.n_bodies)
    return found.mesh, found.was_open


def place_nucleus(stored: trimesh.Trimesh, layer: NucleusLayer, centre_nm: np.ndarray, radius_nm: float) -> Nucleus:
    """Close the mesh of a nucleus, and make sure that it is where the nucleus is.

    Parameters
    ----------
    stored : trimesh.Trimesh
        As `NucleusLayer.mesh` returns it.
    layer : NucleusLayer
    centre_nm : (3,) float
        Position of the nucleus, the centre of the cutout.
    radius_nm : float
        Half the side of the cutout. Pieces outside the cutout are dropped first.

    Raises
    ------
    OpenNucleusMesh
        It cannot be closed, or not without changing its volume or its area by more than 5 %.
    MisplacedNucleus
        It is outside the cutout or more than 5 um from its position, extends far beyond the cutout, or is smaller than
        a voxel.
    """
    near, n_far, far_volume = _near_pieces(stored, centre_nm, radius_nm)
    bounds = Bounds(layer.lower_nm, layer.upper_nm, _AT_SIDE_VX * layer.resolution_nm)
    found = close_mesh(near, gap=_SEAM_VX * float(layer.resolution_nm.max()), bounds=bounds)
    lower, upper = found.mesh.bounds
    if (upper - lower < layer.resolution_nm).all():
        raise MisplacedNucleus(f"the nucleus mesh is smaller than a voxel of its layer: {_UNIT}")
    distance_nm = _distance_nm(found.mesh, centre_nm)
    if distance_nm > min(MAX_DISTANCE_NM, float(np.linalg.norm(upper - lower))):
        raise MisplacedNucleus(f"the nucleus mesh is {_um(distance_nm)} um from the position of the nucleus: {_UNIT}")
    beyond_nm = float(np.maximum(centre_nm - lower, upper - centre_nm).max()) - radius_nm
    if beyond_nm > radius_nm:
        raise MisplacedNucleus(f"the nucleus mesh extends {_um(beyond_nm)} um beyond the cutout: {_UNIT}")
    far_share = far_volume / (found.volume + found.dropped_volume + far_volume)
    deviation, n_pieces = max(found.deviation, far_share), found.n_bodies + n_far
    _check_deviation(deviation, n_pieces)
    columns: Row = {
        "nucleus_watertight": True,
        "nucleus_mesh_repaired": found.was_open,
        "n_nucleus_pieces": n_pieces,
        "nucleus_mesh_deviation": deviation,
        "centre_to_nucleus_nm": distance_nm,
    }
    return Nucleus(found.mesh, columns)


def _near_pieces(mesh: trimesh.Trimesh, centre_nm: np.ndarray, radius_nm: float) -> tuple[trimesh.Trimesh, int, float]:
    """The pieces of a mesh in the cutout or in the box around these, and the number and the volume of the others."""
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    piece = connected_pieces(faces, len(vertices))
    corners = vertices[faces]
    lower, upper = np.full((int(piece.max()) + 1, 3), np.inf), np.full((int(piece.max()) + 1, 3), -np.inf)
    np.minimum.at(lower, piece, corners.min(axis=1))
    np.maximum.at(upper, piece, corners.max(axis=1))
    box_lower, box_upper = centre_nm - radius_nm, centre_nm + radius_nm
    is_near = np.zeros(len(lower), dtype=bool)
    while True:
        meets = ((lower <= box_upper) & (upper >= box_lower)).all(axis=1)
        if (meets == is_near).all():
            break
        is_near = meets
        box_lower, box_upper = (
            np.minimum(box_lower, lower[meets].min(axis=0)),
            np.maximum(box_upper, upper[meets].max(axis=0)),
        )
    if is_near.all():
        return mesh, 0, 0.0
    if not is_near.any():
        distance_nm = distance_from_surface(centre_nm, vertices, faces)
        raise MisplacedNucleus(
            f"the nucleus mesh is outside the cutout, {_um(distance_nm)} um from the position of the nucleus: {_UNIT}"
        )
    middle = (lower + upper) / 2
    volume = np.abs(np.bincount(piece, signed_volumes(corners - middle[piece][:, None])))
    used, number = np.unique(faces[is_near[piece]], return_inverse=True)
    near = trimesh.Trimesh(vertices[used], number.reshape(-1, 3), process=False)
    return near, int(np.count_nonzero(~is_near)), float(volume[~is_near].sum())


def _distance_nm(mesh: trimesh.Trimesh, point_nm: np.ndarray) -> float:
    """Distance of a point from a closed mesh, 0 inside of it."""
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    inside, _ = bodies_around(point_nm[None], vertices, faces, np.zeros(len(faces), dtype=np.int64))
    return 0.0 if len(inside) else float(distance_from_surface(point_nm, vertices, faces))


def _check_deviation(deviation: float, n_pieces: int) -> None:
    if not deviation <= MAX_DEVIATION:
        pieces = f" and leaving out {n_pieces - 1} of its {n_pieces} pieces" if n_pieces > 1 else ""
        raise OpenNucleusMesh(
            f"the nucleus mesh cannot be closed without changing its volume or area by {deviation:.0%}{pieces}"
        )


def _um(length_nm: float) -> str:
    return f"{length_nm / 1000:,.3g}"
