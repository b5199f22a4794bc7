"""The mesh of a soma and its measures on the grid of the volume (docs/definitions.md, "Surface")."""

import numpy as np
import trimesh

from somatic.corrected.surface import merged_voxels, smooth_surface
from somatic.features import Row
from somatic.geometry.bitmask import BitMask
from somatic.geometry.box import Box
from somatic.geometry.compiled import compiled
from somatic.geometry.simplify import simplify
from somatic.measures import Measures, integrals, soma_columns
from somatic.soma import Place, SomaMask

_LIMITS_NM2 = (1.0, 4.0, 10.0)
"""Faces may span a curve: with those of the published meshes they would lie up to 50 nm below a ball of 4 um."""


def soma_surface(soma: SomaMask, place: Place) -> tuple[trimesh.Trimesh, Row]:
    """Mesh a repaired mask and measure mask and mesh.

    Returns
    -------
    mesh : trimesh.Trimesh
        Closed, with flat caps where the cutout ends, vertices in nm; without faces where there are too few voxels.
    columns : Row
    """
    vertices_nm, faces = smooth_surface(soma.mask, place.resolution_nm)
    lower_nm = (place.box.lower_vx + soma.lower_vx) * place.resolution_nm
    columns: Row = {}
    if len(faces):
        volume_nm3, area_nm2, moment = integrals(vertices_nm, faces)
        merged = merged_voxels(place.resolution_nm)
        upper_nm = np.ceil(np.array(soma.mask.shape) / merged) * (merged * place.resolution_nm)
        columns = soma_columns(
            Measures.of(
                volume_nm3=soma.mask.count() * float(np.prod(place.resolution_nm)),
                area_nm2=area_nm2 - _area_of_caps(vertices_nm, faces, upper_nm),
                centre_nm=moment / volume_nm3 + lower_nm,
            )
        )
        columns["cap_area_um2"] = _voxels_at_faces_nm2(soma.mask, place.resolution_nm) / 1e6
    vertices_nm, faces = simplify(vertices_nm, faces, _LIMITS_NM2)
    return trimesh.Trimesh(vertices_nm + lower_nm, faces, process=False), columns


def _voxels_at_faces_nm2(mask: BitMask, resolution_nm: np.ndarray) -> float:
    """Area of the voxels of a mask in the faces of its box."""
    area, shape = 0.0, np.array(mask.shape)
    for axis in range(3):
        lower, upper = np.zeros(3, dtype=np.int64), shape.copy()
        of_voxel = float(np.prod(np.delete(resolution_nm, axis)))
        for at in (0, shape[axis] - 1):
            lower[axis], upper[axis] = at, at + 1
            area += mask.cropped_to(Box(lower, upper)).count() * of_voxel
    return area


@compiled
def _area_of_caps(vertices, faces, upper):
    """Area of the faces that lie in a face of the box of the mask, which begins at 0."""
    area = 0.0
    for face in faces:
        p, q, r = vertices[face[0]], vertices[face[1]], vertices[face[2]]
        for axis in range(3):
            at = p[axis]
            if at == q[axis] == r[axis] and (at == 0 or at == upper[axis]):
                area += 0.5 * np.sqrt((np.cross(q - p, r - p) ** 2).sum())
    return area
