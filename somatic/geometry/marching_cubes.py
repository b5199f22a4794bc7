"""The surface of a mask by marching cubes, from one word of 64 voxels to the next.

zmesh looks at every voxel and needs some hundred bytes for each face. Here a word in which nothing begins or ends is
passed over, and the rest is the same: which triangles go with which cube is asked from zmesh itself.
"""

from functools import cache

import numpy as np
import zmesh

from somatic.geometry.bitmask import BITS, BitMask
from somatic.geometry.compiled import compiled, trailing_zeros

MOST_TRIANGLES = 5
_ONE = np.uint64(1)
_TOP = np.uint64(BITS - 1)
# Edges of a cube of 8 voxels: the axis each runs along, and the corner x, y, z that it begins at.
EDGES = np.array([(axis, *corner) for axis in range(3) for corner in np.ndindex(2, 2, 2) if not corner[axis]])


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
    return _march(mask.words, mask.n_x, *triangles_of_cubes())


@cache
def triangles_of_cubes() -> tuple[np.ndarray, np.ndarray]:
    """For each cube of 8 voxels its triangles, (256, 5, 3) int as numbers of `EDGES`, and how many these are, (256,).

    Voxel x, y, z of a cube is bit x + 2 y + 4 z of its number.
    """
    triangles = np.zeros((256, MOST_TRIANGLES, 3), dtype=np.int64)
    n_triangles = np.zeros(256, dtype=np.int64)
    voxels = 1 << np.arange(8).reshape(2, 2, 2)
    middles = 2 * EDGES[:, 1:] + np.eye(3, dtype=int)[EDGES[:, 0]]
    numbers = {tuple(middle): number for number, middle in enumerate(middles.tolist())}
    for cube in range(1, 255):
        mesher = zmesh.Mesher((1, 1, 1))
        # Axes z, y, x, as in the published code: zmesh does not cut all cubes alike from all sides.
        mesher.mesh(np.asfortranarray((cube & voxels) > 0), close=False)
        mesh = mesher.get(1, reduction_factor=0)
        edges = np.array([numbers[tuple(twice)] for twice in np.rint(2 * mesh.vertices[:, ::-1]).astype(int).tolist()])
        n_triangles[cube] = len(mesh.faces)
        triangles[cube, : len(mesh.faces)] = edges[mesh.faces[:, ::-1].astype(int)]
    return triangles, n_triangles


@compiled
def _march(words, n_x, triangles, n_triangles):
    n_words, n_y, n_z = words.shape
    vertices, n_vertices = np.empty((1024, 3), np.float32), 0
    faces, n_faces = np.empty((2048, 3), np.int32), 0
    numbered = np.empty((3, 2, n_words * BITS, n_z), np.int32)
    for y in range(n_y - 1):
        for w in range(n_words):
            for z in range(n_z - 1):
                cut = _cut(words, w, y, z)
                while cut != 0:
                    x = w * BITS + trailing_zeros(cut)
                    cut &= cut - _ONE
                    if x + 1 >= n_x:
                        break
                    vertices, faces = with_room(vertices, n_vertices, faces, n_faces)
                    n_vertices, n_faces = add_cube(
                        _cube(words, x, y, z),
                        (x, y, z),
                        (triangles, n_triangles),
                        numbered,
                        (vertices, n_vertices),
                        (faces, n_faces),
                    )
    return vertices[:n_vertices].copy(), faces[:n_faces].copy()


@compiled
def add_cube(cube, corner, triangles, numbered, vertices, faces):
    """Add what a cube has of the surface.

    Parameters
    ----------
    cube : int
        Which of its 8 voxels are set.
    corner : (x, y, z)
        Its first voxel. Cubes come in an order in which those before them along each axis were there, from 0 on.
    triangles : tuple
        Both of `triangles_of_cubes`.
    numbered : (3, 2, n_x, n_z) int32
        Vertices on the edges of two layers of cubes, by the axis of the edge; kept from cube to cube.
    vertices, faces : ((n, 3) float32, int), ((m, 3) int32, int)
        With room for one cube (`with_room`), and how many are there. A vertex is put in the middle of its edge.

    Returns
    -------
    (int, int)
        How many vertices and faces are there then.
    """
    x, y, z = corner
    of_cubes, n_of_cubes = triangles
    points, n_points = vertices
    corners, n_faces = faces
    for axis, dx, dy, dz in EDGES:
        begin = dx + 2 * dy + 4 * dz
        # A vertex that an earlier cube shares is numbered.
        is_known = (axis != 0 and dx == 0 < x) or (axis != 1 and dy == 0 < y)
        is_known |= axis != 2 and dz == 0 < z
        if not is_known and (cube >> begin ^ cube >> (begin + (1 << axis))) & 1:
            numbered[axis, (y + dy) % 2, x + dx, z + dz] = n_points
            points[n_points] = x + dx, y + dy, z + dz
            points[n_points, axis] += 0.5
            n_points += 1
    for triangle in of_cubes[cube, : n_of_cubes[cube]]:
        for k in range(3):
            axis, dx, dy, dz = EDGES[triangle[k]]
            corners[n_faces, k] = numbered[axis, (y + dy) % 2, x + dx, z + dz]
        n_faces += 1
    return n_points, n_faces


@compiled
def with_room(vertices, n_vertices, faces, n_faces):
    """The same vertices and faces, with room for those of one more cube."""
    if n_vertices + len(EDGES) > len(vertices):
        vertices = _longer(vertices)
    if n_faces + MOST_TRIANGLES > len(faces):
        faces = _longer(faces)
    return vertices, faces


@compiled
def _cut(words, w, y, z):
    """Which of the 64 cubes that begin at the voxels of a word have voxels of the mask and others."""
    here = words[w, y, z], words[w, y + 1, z], words[w, y, z + 1], words[w, y + 1, z + 1]
    some, every = here[0] | here[1] | here[2] | here[3], here[0] & here[1] & here[2] & here[3]
    some_after, every_after = some >> _ONE, every >> _ONE
    if w + 1 < len(words):
        after = words[w + 1, y, z], words[w + 1, y + 1, z], words[w + 1, y, z + 1], words[w + 1, y + 1, z + 1]
        some_after |= (after[0] | after[1] | after[2] | after[3]) << _TOP
        every_after |= (after[0] & after[1] & after[2] & after[3]) << _TOP
    return (some | some_after) & ~(every & every_after)


@compiled
def _cube(words, x, y, z):
    cube = np.int64(0)
    for dz in range(2):
        for dy in range(2):
            for dx in range(2):
                word = words[(x + dx) // BITS, y + dy, z + dz]
                cube |= np.int64(word >> np.uint64((x + dx) % BITS) & _ONE) << (dx + 2 * dy + 4 * dz)
    return cube


@compiled
def _longer(rows):
    longer = np.empty((2 * len(rows), rows.shape[1]), rows.dtype)
    longer[: len(rows)] = rows
    return longer
