"""From a mask to a mesh, and what a mesh is like."""

import numpy as np
import trimesh

from somatic.geometry.bitmask import BitMask
from somatic.geometry.edges import opposite_edges
from somatic.geometry.marching_cubes import surface
from somatic.geometry.simplify import simplify


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


def is_watertight(mesh: trimesh.Trimesh) -> bool:
    """Whether each edge has a face on either side."""
    # trimesh sorts all edges for it; where all run back along each other, as they mostly do, that is not needed.
    return is_consistent(mesh) or mesh.is_watertight


def is_consistent(mesh: trimesh.Trimesh) -> bool:
    """Whether each edge has a face on either side, and the two agree which side is out."""
    return len(mesh.faces) > 0 and opposite_edges(mesh.faces.view(np.ndarray), len(mesh.vertices)).min() >= 0
