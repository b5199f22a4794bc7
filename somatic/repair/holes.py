"""Closing of holes."""

from dataclasses import dataclass

import numpy as np

from somatic.geometry.compiled import compiled
from somatic.repair.pieces import areas, edges_of
from somatic.repair.seams import Rims, directions

_LONGEST_LOOP = 400
"""Holes with more vertices are closed with a fan: the smallest surface takes as many steps as the cube of these."""
_ON_SIDE = 0.9
NEW = -1
"""Number of a face that was not stored."""


@dataclass(frozen=True)
class Bounds:
    """The box in which a volume has voxels, `lower` to `upper`, and how near to its sides counts as on them; (3,) each."""

    lower: np.ndarray
    upper: np.ndarray
    near: np.ndarray

    def sides(self, points: np.ndarray) -> np.ndarray:
        """On which sides points are, (n, 6) bool: the three lower ones, then the three upper ones."""
        return np.hstack([points - self.lower < self.near, self.upper - points < self.near])


def close_holes(rims: Rims, n_most: int | None = None, bounds: Bounds | None = None) -> list[float]:
    """Close holes with the smallest surface, or where they are on a side of the volume with a fan along that side.

    Parameters
    ----------
    rims : Rims
        Without conflicts. Changed in place; faces that close a hole have the number `NEW`.
    n_most : int, optional
        Close only holes of at most so many vertices.
    bounds : Bounds, optional
        Of the volume.

    Returns
    -------
    list of float
        Areas of the closed holes but for those on a side of the volume.
    """
    edges, _ = rims.open_edges()
    if not len(edges):
        return []
    known = {tuple(edge) for edge in np.sort(edges_of(rims.near[:, :3]), axis=1).tolist()}
    hole_areas = []
    for loop in loops(edges[:, ::-1], rims.vertices, directions(rims.vertices, rims.near[:, :3])[1]):
        if len(loop) < 3 or (n_most is not None and len(loop) > n_most):
            continue
        rim = rims.vertices[loop]
        sides = bounds.sides(rim) if bounds else np.zeros((len(loop), 6), dtype=bool)
        on_side = sides.any(axis=1).mean() > _ON_SIDE
        faces = None if on_side or len(loop) > _LONGEST_LOOP else _smallest_surface(loop, rim, known)
        middle = np.empty((0, 3))
        if faces is None:
            faces = np.column_stack([loop, np.roll(loop, -1), np.full(len(loop), len(rims.vertices))])
            middle = _middle(rim, sides)[None]
        rims.add(middle, np.column_stack([faces, np.full(len(faces), NEW)]))
        known.update(tuple(edge) for edge in np.sort(edges_of(faces), axis=1).tolist())
        if not on_side:
            hole_areas.append(float(areas(rims.vertices[faces]).sum()))
    return hole_areas


def loops(edges: np.ndarray, vertices: np.ndarray, normals: np.ndarray) -> list[np.ndarray]:
    """Follow directed edges around holes.

    Parameters
    ----------
    edges : (n, 2) int
        They run around holes, against the faces beside them.
    vertices, normals : (k, 3) float
        Where rims meet in a vertex, the next edge is the one with the smallest part of the hole in between.

    Returns
    -------
    list of (m,) int
        Vertices of each loop, none twice.
    """
    following: dict[int, list[int]] = {}
    for start, end in edges.tolist():
        following.setdefault(start, []).append(end)
    found = []
    for first in list(following):
        while following[first]:
            path, place = [first], {first: 0}
            while ends := following.get(path[-1]):
                if len(ends) == 1 or len(path) == 1:
                    following_vertex = ends.pop()
                else:
                    following_vertex = ends.pop(_next_around(path[-2], path[-1], ends, vertices, normals))
                if following_vertex not in place:
                    place[following_vertex] = len(path)
                    path.append(following_vertex)
                    continue
                begin = place[following_vertex]
                found.append(np.array(path[begin:]))
                for vertex in path[begin + 1 :]:
                    del place[vertex]
                del path[begin + 1 :]
                if begin == 0:
                    break
    return found


def _next_around(before: int, at: int, ends: list[int], vertices: np.ndarray, normals: np.ndarray) -> int:
    """Which of several edges that leave a vertex comes first, clockwise seen from outside, after the one that came."""
    normal = normals[at]
    arms = vertices[[before, *ends]] - vertices[at]
    arms -= np.outer(arms @ normal, normal)
    back, leaving = arms[0], arms[1:]
    angle = np.arctan2(np.cross(back, leaving) @ normal, leaving @ back)
    return int(np.argmin(-angle % (2 * np.pi)))


def _middle(rim: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """The middle of a rim, moved onto each side of the volume where a part of the rim is."""
    middle = rim.mean(axis=0)
    for axis in range(3):
        for on_side, outermost in ((sides[:, axis], np.min), (sides[:, axis + 3], np.max)):
            if on_side.any():
                middle[axis] = outermost(rim[on_side, axis])
    return middle


def _smallest_surface(loop: np.ndarray, rim: np.ndarray, known: set[tuple[int, ...]]) -> np.ndarray | None:
    """Triangles across a loop with the smallest area, (n - 2, 3); None where they need an edge that exists already."""
    n, numbers = len(loop), loop.tolist()
    taken = np.zeros((n, n), dtype=np.bool_)
    if n > 3:
        for i in range(n - 2):
            for j in range(i + 2, n if i else n - 1):
                taken[i, j] = (min(numbers[i], numbers[j]), max(numbers[i], numbers[j])) in known
    triangles = _triangulate(rim, taken)
    return loop[triangles] if len(triangles) == n - 2 else None


@compiled
def _triangulate(rim, taken):
    """Corners of the triangles, (n - 2, 3); none where no triangulation avoids the edges that are taken."""
    n = len(rim)
    area = np.full((n, n), np.inf)
    apex = np.zeros((n, n), np.int64)
    for i in range(n - 1):
        area[i, i + 1] = 0.0
    for span in range(2, n):
        for i in range(n - span):
            j = i + span
            if taken[i, j]:
                continue
            for k in range(i + 1, j):
                if area[i, k] + area[k, j] < area[i, j]:
                    u, v = rim[k] - rim[i], rim[j] - rim[i]
                    x, y, z = u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]
                    whole = area[i, k] + area[k, j] + 0.5 * np.sqrt(x * x + y * y + z * z)
                    if whole < area[i, j]:
                        area[i, j], apex[i, j] = whole, k
    triangles = np.empty((n - 2, 3), np.int64)
    if not np.isfinite(area[0, n - 1]):
        return triangles[:0]
    spans, n_spans, n_triangles = np.empty((2 * n, 2), np.int64), 1, 0
    spans[0] = 0, n - 1
    while n_spans:
        n_spans -= 1
        i, j = spans[n_spans]
        if j - i < 2:
            continue
        k = apex[i, j]
        triangles[n_triangles] = i, k, j
        n_triangles += 1
        spans[n_spans], spans[n_spans + 1] = (i, k), (k, j)
        n_spans += 2
    return triangles
