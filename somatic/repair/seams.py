"""Joining of edges that run along each other without sharing their vertices, as between fragments of a mesh.

After Borodin, Novotni and Klein, "Progressive gap closing for mesh repairing" (2002): the nearest vertex and edge are
contracted first, so that each seam is closed at its own width.
"""

import numpy as np
from scipy.spatial import cKDTree

from somatic.repair.pieces import edge_numbers, edges_of

_LEVELS = 8
"""How often the width is halved, to begin with the narrowest gaps."""
_ACROSS = -0.25
_SAME_SIDE = 0.2
"""Cosines of two rims on either side of a gap: between their directions into it, and between their normals."""
_COINCIDENT = 1 / 64
"""Share of the width below which vertices are joined whatever the direction of their rims."""
_MOST_ROUNDS = 60


class Rims:
    """A mesh split into the faces at edges that are open or have too many faces and the others, to work on the former.

    Parameters
    ----------
    vertices : (n, 3) float
    faces : (m, 4) int
        Three vertices, wound alike, and a number that stays with what becomes of the face.
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        self.vertices = vertices.copy()
        self._is_rim = np.zeros(len(vertices), dtype=bool)
        self._others, self.near = faces, faces[:0]
        edges = edges_of(faces[:, :3])
        number, n_faces = edge_numbers(edges)
        n_forward = np.bincount(number, edges[:, 0] < edges[:, 1])
        self.touch(edges[(n_faces != 2)[number] | (n_forward != 1)[number]])

    @property
    def faces(self) -> np.ndarray:
        """All faces, (m, 4)."""
        return np.vstack([self._others, self.near])

    @property
    def is_closed(self) -> bool:
        """Whether no edge is open."""
        return not len(self.open_edges()[0])

    def touch(self, vertices: np.ndarray) -> None:
        """Count vertices among those at open edges."""
        self._is_rim[vertices] = True
        is_near = self._is_rim[self._others[:, :3]].any(axis=1)
        self.near = np.vstack([self.near, self._others[is_near]])
        self._others = self._others[~is_near]

    def add(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        """Add new vertices, (k, 3), and faces between rim vertices and these, (j, 4)."""
        self.vertices = np.vstack([self.vertices, vertices])
        self._is_rim = np.concatenate([self._is_rim, np.ones(len(vertices), dtype=bool)])
        self.near = np.vstack([self.near, faces])

    def split(self, rows: np.ndarray, edges: np.ndarray, vertices: np.ndarray) -> None:
        """Split faces of `near` at a vertex on one of their edges each; (k,), (k, 2) and (k,) int, no row twice."""
        halves = self.near[rows]
        corners, others = halves[:, :3], self.near[rows]
        others[:, :3] = np.where(corners == edges[:, 1:], vertices[:, None], corners)
        halves[:, :3] = np.where(corners == edges[:, :1], vertices[:, None], corners)
        self.near[rows] = others
        self.near = np.vstack([self.near, halves])

    def rename(self, vertices: np.ndarray, others: np.ndarray) -> None:
        """Have other vertices in place of some, (k,) int each."""
        number = np.arange(len(self.vertices))
        number[vertices] = others
        self.near[:, :3] = number[self.near[:, :3]]

    def open_edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Directed edges that no face runs back along, (k, 2), and the row of `near` of each, (k,)."""
        edges = edges_of(self.near[:, :3])
        n = len(self.vertices)
        is_open = ~np.isin(edges[:, 1] * n + edges[:, 0], edges[:, 0] * n + edges[:, 1])
        # Other edges of these faces have their second face among the others.
        found = np.flatnonzero(is_open & self._is_rim[edges].all(axis=1))
        return edges[found], found // 3

    def without_conflicts(self) -> None:
        """Take out faces that run the same way along an edge as another one, or have only two corners."""
        while True:
            a, b, c = self.near[:, :3].T
            self.near = self.near[(a != b) & (b != c) & (c != a)]
            edges = edges_of(self.near[:, :3])
            key = edges[:, 0] * len(self.vertices) + edges[:, 1]
            _, number, n_alike = np.unique(key, return_inverse=True, return_counts=True)
            wrong = (n_alike[number] > 1).reshape(-1, 3).any(axis=1)
            if not wrong.any():
                return
            opened = self.near[wrong, :3]
            self.near = self.near[~wrong]
            self.touch(opened)


def join_rims(rims: Rims, width: float, *, narrowest: bool) -> None:
    """Contract vertices at open edges with the nearest edge across a gap.

    Parameters
    ----------
    rims : Rims
        Changed in place.
    width : float
        Widest gap to close.
    narrowest : bool
        Whether to begin with gaps of a small part of the width.
    """
    for level in range(_LEVELS - 1 if narrowest else 0, -1, -1):
        for _ in range(_MOST_ROUNDS):
            if not _join_nearest(rims, width / 2**level, width):
                break
            rims.without_conflicts()


def _join_nearest(rims: Rims, gap: float, width: float) -> int:
    """Contract pairs of a vertex and an edge up to a distance, nearest first, each vertex once; how many there were."""
    edges, face = rims.open_edges()
    if not len(edges):
        return 0
    vertices, near = rims.vertices, rims.near[:, :3]
    start, along = vertices[edges[:, 0]], vertices[edges[:, 1]] - vertices[edges[:, 0]]
    length = np.linalg.norm(along, axis=1)
    rim = np.unique(edges)
    candidates = cKDTree(vertices[rim]).query_ball_point(start + along / 2, length / 2 + gap)
    edge = np.repeat(np.arange(len(edges)), [len(found) for found in candidates])
    vertex = rim[np.concatenate(candidates).astype(np.int64)]
    apart = ~(near[face[edge]] == vertex[:, None]).any(axis=1)
    edge, vertex = edge[apart], vertex[apart]
    to_vertex = vertices[vertex] - start[edge]
    share = np.clip((to_vertex * along[edge]).sum(axis=1) / np.maximum(length[edge] ** 2, 1e-30), 0, 1)
    foot = start[edge] + share[:, None] * along[edge]
    distance = np.linalg.norm(vertices[vertex] - foot, axis=1)
    into_gap, normal = directions(vertices, near)
    edge_into, edge_normal = (_unit(of[edges].sum(axis=1)) for of in (into_gap, normal))
    across = (into_gap[vertex] * edge_into[edge]).sum(axis=1) < _ACROSS
    across &= (normal[vertex] * edge_normal[edge]).sum(axis=1) > _SAME_SIDE
    # At the end of an edge its vertex is joined, else the edge is split.
    end = np.where(share <= 0.5, edges[edge, 0], edges[edge, 1])
    to_end = np.minimum(share, 1 - share) * length[edge]
    is_end = to_end <= np.maximum(distance, np.maximum(0.05 * length[edge], 0.25 * gap))
    possible = ~is_end | ((np.hypot(distance, to_end) <= 1.5 * gap) & ~_are_neighbours(vertex, end, near, len(vertices)))
    chosen = np.flatnonzero(possible & (distance <= gap) & (across | (distance <= _COINCIDENT * width)))
    chosen = chosen[np.argsort(distance[chosen], kind="stable")]
    used, split = np.zeros(len(vertices), dtype=bool), np.zeros(len(near), dtype=bool)
    taken = []
    for row, one, at, (a, b) in zip(
        chosen.tolist(), vertex[chosen].tolist(), face[edge[chosen]].tolist(), edges[edge[chosen]].tolist(), strict=True
    ):
        if not (used[one] or used[a] or used[b] or split[at]):
            used[one] = used[a] = used[b] = split[at] = True
            taken.append(row)
    if taken:
        rows = np.array(taken)
        ends, sides = rows[is_end[rows]], rows[~is_end[rows]]
        middle = (vertices[vertex[ends]] + vertices[end[ends]]) / 2
        vertices[vertex[ends]] = vertices[end[ends]] = middle
        vertices[vertex[sides]] = (vertices[vertex[sides]] + foot[sides]) / 2
        rims.split(face[edge[sides]], edges[edge[sides]], vertex[sides])
        rims.rename(vertex[ends], end[ends])
    return len(taken)


def _are_neighbours(one: np.ndarray, other: np.ndarray, faces: np.ndarray, n_vertices: int) -> np.ndarray:
    """Whether two vertices have an edge between them, (n,) bool."""
    edges = edges_of(faces)
    key = edges[:, 0] * n_vertices + edges[:, 1]
    return np.isin(one * n_vertices + other, key) | np.isin(other * n_vertices + one, key)


def directions(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each vertex the direction away from its faces, and the mean normal of these, (n, 3) each."""
    corners = vertices[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normal, axis=1, keepdims=True)
    away = np.stack([area * _unit(corners[:, k] - corners.mean(axis=1)) for k in range(3)], axis=1)
    at = faces.ravel()
    sums = [
        np.stack([np.bincount(at, of[..., axis].ravel(), minlength=len(vertices)) for axis in range(3)], axis=1)
        for of in (away, np.repeat(normal[:, None], 3, axis=1))
    ]
    return _unit(sums[0]), _unit(sums[1])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30)
