"""Shape of a nucleus, from its volume (docs/definitions.md, "Nucleus")."""

import numpy as np
import trimesh

from somatic.corrected.surface import smooth_surface
from somatic.errors import DegenerateMesh, OpenNucleusMesh
from somatic.features import Row
from somatic.geometry.bitmask import BitMask
from somatic.geometry.box import Box
from somatic.geometry.compiled import compiled
from somatic.geometry.morphology import keep_region
from somatic.geometry.voxels import voxels_inside
from somatic.measures import Measures, integrals, nucleus_columns

_FINEST_NM = 30.0
"""Smaller voxels are merged, so that no nucleus takes more memory than a soma."""
_MOST_VOXELS = 500_000_000
"""Of a box around a nucleus; in a larger one larger voxels are used. That is a cube of 24 um at the finest."""
_MOST_LOST = 0.05
"""Share of the voxels inside a mesh that may be apart from the others."""


def measure_nucleus(mesh: trimesh.Trimesh, resolution_nm: np.ndarray) -> tuple[trimesh.Trimesh, Row]:
    """Measure a nucleus as a soma is measured: its voxels, and a surface around them without steps.

    Parameters
    ----------
    mesh : trimesh.Trimesh
        Closed, vertices in nm, however many.
    resolution_nm : (3,) float
        Size of a voxel of its layer.

    Returns
    -------
    mesh : trimesh.Trimesh
        The surface that was measured.
    columns : Row

    Raises
    ------
    DegenerateMesh
        The mesh encloses too few voxels for a surface.
    OpenNucleusMesh
        Its voxels are in several parts.
    """
    voxel_nm = resolution_nm * np.maximum(np.floor(_FINEST_NM / resolution_nm), 1)
    voxel_nm = voxel_nm * np.ceil(np.cbrt(np.prod(np.ptp(mesh.bounds, axis=0) / voxel_nm) / _MOST_VOXELS)).clip(min=1)
    lower, upper = mesh.bounds / voxel_nm
    box = Box(np.floor(lower).astype(np.int64) - 1, np.ceil(upper).astype(np.int64) + 1)
    all_inside = voxels_inside(mesh, box, voxel_nm)
    inside, _ = keep_region(all_inside, BitMask.empty(all_inside.shape))
    # No nucleus is so small that it needs more than about cubes, and folds are looked for on each vertex.
    vertices_nm, faces = smooth_surface(inside, voxel_nm, np.rint(voxel_nm.max() / voxel_nm).astype(np.int64))
    if not len(faces):
        raise DegenerateMesh(f"the nucleus mesh is flat: {inside.count()} voxels lie inside, too few for a surface")
    lost = 1 - inside.count() / all_inside.count()
    if lost > _MOST_LOST:
        raise OpenNucleusMesh(f"{lost:.0%} of the voxels in the nucleus mesh are apart from the others")
    surface = trimesh.Trimesh(vertices_nm + box.lower_vx * voxel_nm, faces, process=False)
    volume_nm3, area_nm2, moment = integrals(vertices_nm, faces)
    measures = Measures.of(
        volume_nm3=inside.count() * float(np.prod(voxel_nm)),
        area_nm2=area_nm2,
        centre_nm=moment / volume_nm3 + box.lower_vx * voxel_nm,
    )
    columns = nucleus_columns(measures) | {
        "nucleus_avg_radius_nm": 1000 * float(np.cbrt(3 * measures.volume_um3 / (4 * np.pi))),
        "nucleus_aspect_ratio": aspect_ratio(vertices_nm - moment / volume_nm3, faces),
        "nucleus_mesh_deviation": lost,
    }
    return surface, columns


def aspect_ratio(vertices_nm: np.ndarray, faces: np.ndarray) -> float:
    """Longest over the mean of the two other axes of the ellipsoid with the second moments of a closed mesh.

    Parameters
    ----------
    vertices_nm : (n, 3) float
        From the centre of mass.
    faces : (m, 3) int
    """
    shortest, middle, longest = np.sqrt(np.linalg.eigvalsh(_second_moments(vertices_nm, faces)))
    return float(longest / ((shortest + middle) / 2))


@compiled
def _second_moments(vertices, faces):
    """Sums of x x, x y ... over the volume, from one tetrahedron to the origin for each face."""
    moments = np.zeros((3, 3))
    for face in faces:
        p, q, r = vertices[face[0]], vertices[face[1]], vertices[face[2]]
        weight = np.dot(p, np.cross(q, r)) / 120
        for i in range(3):
            for j in range(3):
                of_sum = (p[i] + q[i] + r[i]) * (p[j] + q[j] + r[j])
                moments[i, j] += weight * (of_sum + p[i] * p[j] + q[i] * q[j] + r[i] * r[j])
    return moments
