"""Where straight lines cross the faces of a mesh."""

import numpy as np

from somatic.geometry.compiled import compiled
from somatic.geometry.voxels import side_of_edge

_MOST_CELLS = 512
_FACES_PER_CELL = 2.0
_CELLS_PER_FACE = 16
"""On average at most; with more the cells are made larger."""


def crossings(points: np.ndarray, axis: int, vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, ...]:
    """Find where lines through points along an axis cross faces.

    Parameters
    ----------
    points : (k, 3) float
    axis : int
    vertices : (n, 3) float
    faces : (m, 3) int

    Returns
    -------
    point : (c,) int
        Ascending.
    face : (c,) int
    place : (c,) float
        Coordinate of the crossing along the axis, ascending for each point.
    sign : (c,) int
        1 where the face looks up the axis, and -1 where it looks down.
    """
    # The axis comes first; the order of the axes stays cyclic, so that faces keep their side.
    across = np.roll(vertices, -axis, axis=1)
    lines = np.roll(points, -axis, axis=1)
    corners = across[faces][:, :, 1:]
    low, high = corners.min(axis=1), corners.max(axis=1)
    if not len(faces) or not len(points):
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64)
    lower, upper = low.min(axis=0), high.max(axis=0)
    n_cells = int(np.clip(np.sqrt(len(faces) / _FACES_PER_CELL), 1, _MOST_CELLS))
    while True:
        cell = np.maximum((upper - lower) / n_cells, 1e-9)
        first_cell = np.floor((low - lower) / cell).astype(np.int64).clip(0, n_cells - 1)
        last_cell = np.floor((high - lower) / cell).astype(np.int64).clip(0, n_cells - 1)
        if n_cells == 1 or (last_cell - first_cell + 1).prod(axis=1).sum() <= _CELLS_PER_FACE * len(faces):
            break
        n_cells //= 2
    begin, members = _sort_into_cells(first_cell, last_cell, n_cells)
    point, face, place, sign = _cross(lines, across, faces, lower, cell, n_cells, begin, members)
    order = np.lexsort((place, point))
    return point[order], face[order], place[order], sign[order]


@compiled
def _sort_into_cells(first, last, n_cells):
    begin = np.zeros(n_cells * n_cells + 1, np.int64)
    for face in range(len(first)):
        for y in range(first[face, 0], last[face, 0] + 1):
            for z in range(first[face, 1], last[face, 1] + 1):
                begin[y * n_cells + z + 1] += 1
    for cell in range(n_cells * n_cells):
        begin[cell + 1] += begin[cell]
    members, n_in = np.empty(begin[-1], np.int64), begin[:-1].copy()
    for face in range(len(first)):
        for y in range(first[face, 0], last[face, 0] + 1):
            for z in range(first[face, 1], last[face, 1] + 1):
                members[n_in[y * n_cells + z]] = face
                n_in[y * n_cells + z] += 1
    return begin, members


@compiled
def _cross(lines, vertices, faces, lower, cell, n_cells, begin, members):
    room = 1024
    point, face_of, sign = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.int64)
    place = np.empty(room)
    n = 0
    for i in range(len(lines)):
        y, z = lines[i, 1], lines[i, 2]
        cell_y, cell_z = np.floor((y - lower[0]) / cell[0]), np.floor((z - lower[1]) / cell[1])
        if cell_y < 0 or cell_z < 0 or cell_y > n_cells or cell_z > n_cells:
            continue
        at = np.int64(min(cell_y, n_cells - 1)) * n_cells + np.int64(min(cell_z, n_cells - 1))
        for f in members[begin[at] : begin[at + 1]]:
            p, q, r = faces[f, 0], faces[f, 1], faces[f, 2]
            a, b, c = (
                side_of_edge(vertices, q, r, y, z),
                side_of_edge(vertices, r, p, y, z),
                side_of_edge(vertices, p, q, y, z),
            )
            if not ((a > 0 and b > 0 and c > 0) or (a < 0 and b < 0 and c < 0)):
                continue
            if n == room:
                room *= 2
                point, face_of, sign = _with_room(point, room), _with_room(face_of, room), _with_room(sign, room)
                place = _with_room(place, room)
            point[n], face_of[n], sign[n] = i, f, 1 if a > 0 else -1
            place[n] = (a * vertices[p, 0] + b * vertices[q, 0] + c * vertices[r, 0]) / (a + b + c)
            n += 1
    return point[:n], face_of[:n], place[:n], sign[:n]


@compiled
def _with_room(array, room):
    grown = np.empty(room, array.dtype)
    grown[: len(array)] = array
    return grown
