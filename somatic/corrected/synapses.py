"""Synapses on a soma by their distance to its surface (docs/definitions.md, "Synapses")."""

import numpy as np
import trimesh

from somatic.geometry.compiled import compiled
from somatic.geometry.distance import squared_distance
from somatic.synapses import MAX_DISTANCE_NM, synapse_centres_nm
from somatic.tables import Synapses


def on_soma(in_cutout: Synapses, soma: trimesh.Trimesh) -> np.ndarray:
    """Which synapses lie on a soma.

    Parameters
    ----------
    in_cutout : Synapses
        Those onto the root in its cutout (`somatic.synapses.synapses_in_cutout`).
    soma : trimesh.Trimesh
        Soma mesh, vertices in nm; a synapse counts when its ctr_pt is less than 150 nm from the surface, inside or out.

    Returns
    -------
    (n,) bool

    Notes
    -----
    Vertices are taken as a mesh layer keeps them, in float32, so that a stored mesh gives the same number.
    """
    vertices_nm = soma.vertices.astype(np.float32).astype(np.float64)
    corners = vertices_nm[soma.faces.view(np.ndarray)]
    # In order along x, so that for a synapse only faces near it are looked at.
    low_nm = corners[..., 0].min(axis=1)
    order = np.argsort(low_nm)
    widest_nm = float(np.ptp(corners[..., 0], axis=1).max(initial=0.0))
    points_nm = np.ascontiguousarray(synapse_centres_nm(in_cutout))
    return _near(points_nm, corners[order], low_nm[order], widest_nm, MAX_DISTANCE_NM)


@compiled
def _near(points, corners, low, widest, limit):
    near = np.zeros(len(points), np.bool_)
    for i in range(len(points)):
        point = points[i]
        first = np.searchsorted(low, point[0] - limit - widest)
        last = np.searchsorted(low, point[0] + limit)
        for face in corners[first:last]:
            if _outside(point, face, limit):
                continue
            if squared_distance(point, face[0], face[1], face[2]) < limit * limit:
                near[i] = True
                break
    return near


@compiled
def _outside(point, face, limit):
    """Whether a point is too far from the box around a face."""
    for axis in range(3):
        if min(face[0, axis], face[1, axis], face[2, axis]) - point[axis] >= limit:
            return True
        if point[axis] - max(face[0, axis], face[1, axis], face[2, axis]) >= limit:
            return True
    return False
