"""From a mask to a mesh, and the measures of a mesh."""

from dataclasses import dataclass

import numpy as np
import trimesh

from somatic.bitmask import BitMask
from somatic.compiled import compiled
from somatic.edges import opposite_edges
from somatic.errors import DegenerateMesh
from somatic.marching_cubes import surface
from somatic.simplify import simplify

# Volume over area^1.5, which is 0.09 for a sphere: below this a volume is rounding.
_FLAT = 1e-9


def mask_to_mesh(mask: BitMask, resolution_nm: np.ndarray, origin_nm: np.ndarray) -> trimesh.Trimesh:
    """Surface of a mask by marching cubes, simplified to the density of the published features.

    Parameters
    ----------
    mask : BitMask
        Must not touch a face of the box, else the mesh is open there.
    resolution_nm : (3,) float
        Size of a voxel.
    origin_nm : (3,) float
        Position of index (0, 0, 0): the centre of a voxel has integer coordinates.

    Returns
    -------
    trimesh.Trimesh
        Vertices (n, 3) float64 in nm, faces (m, 3); all connected pieces; empty for an empty mask.

    Notes
    -----
    The number of synapses depends on the density of vertices (definitions.md, "Soma mask, published", 5).
    """
    vertices_vx, faces = surface(mask)
    vertices_nm, faces = simplify(vertices_vx * resolution_nm, faces)
    return trimesh.Trimesh(vertices_nm + origin_nm, faces, process=False)


def largest_piece(mesh: trimesh.Trimesh) -> tuple[trimesh.Trimesh, int]:
    """The connected piece with the most vertices, and how many pieces there are.

    Vertices keep their order. Of pieces with equally many vertices the one with the first vertex is taken.
    """
    if not len(mesh.faces):
        return mesh, 0
    labels = trimesh.graph.connected_component_labels(mesh.edges, node_count=len(mesh.vertices))
    sizes = np.bincount(labels)
    if len(sizes) == 1:
        return mesh, 1
    keep = labels == np.argmax(sizes)
    new_index = np.cumsum(keep) - 1
    faces = new_index[mesh.faces[keep[mesh.faces[:, 0]]]]
    return trimesh.Trimesh(mesh.vertices[keep], faces, process=False), len(sizes)


@dataclass(frozen=True)
class Measures:
    """Volume (um^3), area (um^2), area to volume (1 for a sphere) and centre of mass, (3,) nm, of a closed mesh."""

    volume_um3: float
    area_um2: float
    area_to_volume: float
    centre_nm: np.ndarray


def measure(mesh: trimesh.Trimesh, name: str = "mesh") -> Measures:
    """Measure a closed mesh with vertices in nm; for an open one volume and centre mean nothing.

    Parameters
    ----------
    mesh : trimesh.Trimesh
    name : str
        What it is called in an error.

    Raises
    ------
    DegenerateMesh
        The mesh is flat: it has no volume, and no centre.
    """
    # Far from the origin the sums of a volume lose digits, so measure as if it stood there.
    anchor = mesh.vertices.mean(axis=0)
    volume, area, moment = _integrals(mesh.vertices - anchor, mesh.faces.view(np.ndarray))
    if not abs(volume) > _FLAT * area**1.5:
        raise DegenerateMesh(f"the {name} is flat: {len(mesh.faces)} faces enclose no volume")
    radius = np.cbrt(3 * abs(volume) / (4 * np.pi))
    return Measures(volume / 1e9, area / 1e6, float(area / volume * radius / 3), moment / volume + anchor)


def is_watertight(mesh: trimesh.Trimesh) -> bool:
    """Whether each edge has a face on either side."""
    # trimesh sorts all edges for it; where all run back along each other, as they mostly do, that is not needed.
    return is_consistent(mesh) or mesh.is_watertight


def is_consistent(mesh: trimesh.Trimesh) -> bool:
    """Whether each edge has a face on either side, and the two agree which side is out."""
    return len(mesh.faces) > 0 and opposite_edges(mesh.faces.view(np.ndarray), len(mesh.vertices)).min() >= 0


@compiled
def _integrals(vertices, faces):
    """Volume, area and first moment of a closed mesh, from one tetrahedron to the origin for each face."""
    volume = area = 0.0
    moment = np.zeros(3)
    for face in faces:
        p, q, r = vertices[face[0]], vertices[face[1]], vertices[face[2]]
        ax, ay, az = q[0] - p[0], q[1] - p[1], q[2] - p[2]
        bx, by, bz = r[0] - p[0], r[1] - p[1], r[2] - p[2]
        x, y, z = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        area += 0.5 * np.sqrt(x * x + y * y + z * z)
        tetrahedron = (p[0] * x + p[1] * y + p[2] * z) / 6.0
        volume += tetrahedron
        for axis in range(3):
            moment[axis] += 0.25 * tetrahedron * (p[axis] + q[axis] + r[axis])
    return volume, area, moment
