"""The surface of a mask by marching cubes, from one word of 64 voxels to the next.

zmesh looks at every voxel and needs some hundred bytes for each face. Here a word in which nothing begins or ends is
passed over, and the rest is the same: which triangles go with which cube is asked from zmesh itself.
"""

from functools import cache

import numpy as np
import zmesh

from somatic.bitmask import BITS, BitMask
from somatic.compiled import compiled, trailing_zeros

_MOST_TRIANGLES = 5
_ONE = np.uint64(1)


def surface(mask: BitMask) -> tuple[np.ndarray, np.ndarray]:
    """Triangles between the voxels of a mask and those outside.

    Parameters
    ----------
    mask : BitMask
        Open where it touches a face of the box.

    Returns
    -------
    vertices : (n, 3) float32
        Each in the middle between two voxels, in voxels: the middle of a voxel has integer coordinates.
    faces : (m, 3) int32
        Those of zmesh 1.15 for `mesh(mask.transpose(2, 1, 0), close=False)`, in another order; they point outwards.
    """
    triangles, n_triangles = _cubes()
    return _march(mask.words, mask.n_x, triangles, n_triangles)


@cache
def _cubes() -> tuple[np.ndarray, np.ndarray]:
    """For each cube of 8 voxels its triangles as edges of the cube, (256, 5, 3), and their number, (256,).

    Corner (x, y, z) of a cube is bit x + 2 y + 4 z of its number. Edge 4 a + b runs along axis a, and b tells where on
    the two other axes, the first of them first.
    """
    triangles = np.zeros((256, _MOST_TRIANGLES, 3), dtype=np.int32)
    n_triangles = np.zeros(256, dtype=np.int32)
    corners = 1 << np.arange(8).reshape(2, 2, 2)
    for cube in range(1, 255):
        mesher = zmesh.Mesher((1, 1, 1))
        # Axes z, y, x, as in the published code: zmesh does not cut all cubes alike from all sides.
        mesher.mesh(np.asfortranarray((cube & corners) > 0), close=False)
        mesh = mesher.get(1, reduction_factor=0)
        twice = np.rint(2 * mesh.vertices[:, ::-1]).astype(int)
        axis = np.argmax(twice == 1, axis=1)
        others = np.array([[1, 2], [0, 2], [0, 1]])[axis]
        place = np.take_along_axis(twice // 2, others, axis=1) @ [1, 2]
        found = (4 * axis + place)[mesh.faces[:, ::-1].astype(int)]
        triangles[cube, : len(found)], n_triangles[cube] = found, len(found)
    return triangles, n_triangles


@compiled
def _march(words, n_x, triangles, n_triangles):  # noqa: ANN001, ANN202
    n_words, n_y, n_z = words.shape
    vertices = np.empty((1024, 3), np.float32)
    faces = np.empty((2048, 3), np.int32)
    n_vertices = n_faces = 0
    # Vertices on the edges of two layers of cubes, by axis, of which the first cube that has an edge writes its own.
    on_edge = np.empty((3, 2, n_words * BITS, n_z), np.int32)
    for y in range(n_y - 1):
        for w in range(n_words):
            for z in range(n_z - 1):
                some = words[w, y, z] | words[w, y + 1, z] | words[w, y, z + 1] | words[w, y + 1, z + 1]
                every = words[w, y, z] & words[w, y + 1, z] & words[w, y, z + 1] & words[w, y + 1, z + 1]
                some_after, every_after = some >> _ONE, every >> _ONE
                if w + 1 < n_words:
                    top = np.uint64(BITS - 1)
                    after = words[w + 1, y, z] | words[w + 1, y + 1, z]
                    some_after |= (after | words[w + 1, y, z + 1] | words[w + 1, y + 1, z + 1]) << top
                    after = words[w + 1, y, z] & words[w + 1, y + 1, z]
                    every_after |= (after & words[w + 1, y, z + 1] & words[w + 1, y + 1, z + 1]) << top
                cut = (some | some_after) & ~(every & every_after)
                while cut != 0:
                    x = w * BITS + trailing_zeros(cut)
                    cut &= cut - _ONE
                    if x + 1 >= n_x:
                        break
                    cube = 0
                    for corner in range(8):
                        at = x + (corner & 1)
                        word = words[at // BITS, y + ((corner >> 1) & 1), z + (corner >> 2)]
                        cube |= np.int64((word >> np.uint64(at % BITS)) & _ONE) << corner
                    if n_vertices + 12 > len(vertices):
                        vertices = _longer(vertices)
                    if n_faces + 5 > len(faces):
                        faces = _longer(faces)
                    for edge in range(12):
                        axis, place = edge // 4, edge % 4
                        low, high = place & 1, place >> 1
                        dx = 0 if axis == 0 else low
                        dy = 0 if axis == 1 else (low if axis == 0 else high)
                        dz = 0 if axis == 2 else high
                        first = dx + 2 * dy + 4 * dz
                        ends = ((cube >> first) ^ (cube >> (first + (1 << axis)))) & 1
                        # What an earlier cube shares with this one it has numbered.
                        known = (x > 0 and axis != 0 and dx == 0) or (y > 0 and axis != 1 and dy == 0)
                        known = known or (z > 0 and axis != 2 and dz == 0)
                        if ends and not known:
                            on_edge[axis, (y + dy) % 2, x + dx, z + dz] = n_vertices
                            vertices[n_vertices, 0] = x + dx + (0.5 if axis == 0 else 0.0)
                            vertices[n_vertices, 1] = y + dy + (0.5 if axis == 1 else 0.0)
                            vertices[n_vertices, 2] = z + dz + (0.5 if axis == 2 else 0.0)
                            n_vertices += 1
                    for triangle in range(n_triangles[cube]):
                        for side in range(3):
                            edge = triangles[cube, triangle, side]
                            axis, place = edge // 4, edge % 4
                            low, high = place & 1, place >> 1
                            dx = 0 if axis == 0 else low
                            dy = 0 if axis == 1 else (low if axis == 0 else high)
                            dz = 0 if axis == 2 else high
                            faces[n_faces, side] = on_edge[axis, (y + dy) % 2, x + dx, z + dz]
                        n_faces += 1
    return vertices[:n_vertices].copy(), faces[:n_faces].copy()


@compiled
def _longer(rows):  # noqa: ANN001, ANN202
    longer = np.empty((2 * len(rows), rows.shape[1]), rows.dtype)
    longer[: len(rows)] = rows
    return longer
