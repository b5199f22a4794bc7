"""Voxels inside a mesh."""

import numpy as np
import trimesh

from somatic.geometry.bitmask import BITS, BitMask
from somatic.geometry.box import Box
from somatic.geometry.compiled import compiled

# Lines through the middles of voxels are moved by so much of a voxel, since vertices of meshes that were made from
# voxels lie exactly on them or between them.
_ASIDE_VX = (1.7e-5, 2.3e-5)
_ONE = np.uint64(1)
_TOP = np.uint64(BITS - 1)


def voxels_inside(mesh: trimesh.Trimesh, box: Box, resolution_nm: np.ndarray) -> BitMask:
    """Voxels of a box whose middle lies inside a closed mesh.

    Parameters
    ----------
    mesh : trimesh.Trimesh
        Vertices in nm, on the grid of the volume: voxel i reaches from i to i + 1 times its size.
    box : Box
        In voxels of the volume.
    resolution_nm : (3,) float
        Size of a voxel.

    Notes
    -----
    A voxel is inside where a line from it along x crosses the mesh an odd number of times.
    """
    inside = BitMask.empty(box.shape)
    if inside.words.size:
        # Middles of voxels at whole numbers, the first at 0.
        vertices = mesh.vertices / resolution_nm - box.lower_vx - 0.5
        _cross(inside.words, inside.n_x, vertices, mesh.faces.view(np.ndarray))
    return inside


@compiled
def _cross(words, n_x, vertices, faces):
    n_words, n_y, n_z = words.shape
    for face in faces:
        p, q, r = vertices[face[0]], vertices[face[1]], vertices[face[2]]
        low_y, high_y = _lines(p[1], q[1], r[1], _ASIDE_VX[0], n_y)
        low_z, high_z = _lines(p[2], q[2], r[2], _ASIDE_VX[1], n_z)
        for y in range(low_y, high_y):
            for z in range(low_z, high_z):
                line_y, line_z = y + _ASIDE_VX[0], z + _ASIDE_VX[1]
                a, b, c = (
                    side_of_edge(vertices, face[1], face[2], line_y, line_z),
                    side_of_edge(vertices, face[2], face[0], line_y, line_z),
                    side_of_edge(vertices, face[0], face[1], line_y, line_z),
                )
                if not ((a > 0 and b > 0 and c > 0) or (a < 0 and b < 0 and c < 0)):
                    continue
                # The first voxel behind the crossing begins what is inside, or ends it.
                crossing = np.ceil((a * p[0] + b * q[0] + c * r[0]) / (a + b + c))
                x = np.int64(max(crossing, 0.0))
                if x < n_x:
                    words[x // BITS, y, z] ^= _ONE << np.uint64(x % BITS)
    for y in range(n_y):
        for z in range(n_z):
            is_inside = False
            for w in range(n_words):
                word = words[w, y, z]
                # Each bit becomes the parity of those up to it.
                for shift in (1, 2, 4, 8, 16, 32):
                    word ^= word << np.uint64(shift)
                if is_inside:
                    word = ~word
                is_inside = word >> _TOP != 0
                if w == n_words - 1 and n_x % BITS:
                    word &= (_ONE << np.uint64(n_x % BITS)) - _ONE
                words[w, y, z] = word


@compiled
def _lines(p, q, r, aside, n):
    """The first line that a triangle may meet along an axis, and the one after the last."""
    low, high = min(p, q, r) - aside, max(p, q, r) - aside
    return max(np.int64(np.ceil(low)), 0), min(np.int64(np.floor(high)) + 1, n)


@compiled
def side_of_edge(vertices, a, b, y, z):
    """On which side of an edge a line along x passes; the exact opposite for the edge that runs back."""
    if a > b:
        return -_in_order(vertices, b, a, y, z)
    return _in_order(vertices, a, b, y, z)


@compiled
def _in_order(vertices, a, b, y, z):
    return (vertices[b, 1] - vertices[a, 1]) * (z - vertices[a, 2]) - (vertices[b, 2] - vertices[a, 2]) * (
        y - vertices[a, 1]
    )
