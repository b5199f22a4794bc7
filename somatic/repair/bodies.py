"""Closed bodies of a mesh: which of them belong to the largest, and which of their faces others cover."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from somatic.repair.lines import crossings
from somatic.repair.pieces import areas, connected_pieces, signed_volumes

_SAMPLES = 32
"""Faces of a body that show what it is inside of."""


@dataclass(frozen=True, eq=False)
class Bodies:
    """Closed bodies in order of their volume, the largest first.

    Attributes
    ----------
    of_face : (m,) int
        The body of each face.
    volume, area : (k,) float
    is_cavity : (k,) bool
        Inside the largest, and stored inside out if that is not.
    is_inner : (k,) bool
        Inside the largest, and stored the same way round.
    is_touching : (k,) bool
        So near to the largest, or to another one that touches it, that there is no gap between them.
    """

    of_face: np.ndarray
    volume: np.ndarray
    area: np.ndarray
    is_cavity: np.ndarray
    is_inner: np.ndarray
    is_touching: np.ndarray

    @property
    def is_apart(self) -> np.ndarray:
        """Neither the largest nor inside or beside it, (k,) bool."""
        apart = ~(self.is_cavity | self.is_inner | self.is_touching)
        apart[0] = False
        return apart


def find_bodies(vertices: np.ndarray, faces: np.ndarray, is_reversed: np.ndarray, gap: float) -> Bodies:
    """Tell the closed bodies of a mesh apart.

    Parameters
    ----------
    vertices : (n, 3) float
    faces : (m, 3) int
        Each body facing outwards.
    is_reversed : (m,) bool
        Whether the face was stored the other way round.
    gap : float
        Distance at which bodies still touch.
    """
    piece = connected_pieces(faces, len(vertices))
    corners = vertices[faces]
    volume = np.bincount(piece, signed_volumes(corners - corners.mean(axis=(0, 1))))
    order = np.argsort(-volume, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    of_face, face_area = rank[piece], areas(corners)
    reversed_area = np.bincount(of_face, np.where(is_reversed, face_area, -face_area))
    inner, outer = _containers(vertices, faces, of_face, gap)
    is_in_largest = np.zeros(len(order), dtype=bool)
    is_in_largest[inner[outer == 0]] = True
    is_cavity = is_in_largest & ((reversed_area > 0) != (reversed_area[0] > 0))
    # What is inside a cavity is outside the body.
    is_in_cavity = np.zeros(len(order), dtype=bool)
    is_in_cavity[inner[is_cavity[outer]]] = True
    is_cavity &= ~is_in_cavity
    is_inner = is_in_largest & ~is_cavity & ~is_in_cavity
    is_touching = _touching(vertices, faces, of_face, ~(is_cavity | is_inner), gap)
    return Bodies(of_face, volume[order], np.bincount(of_face, face_area), is_cavity, is_inner, is_touching)


def _containers(
    vertices: np.ndarray, faces: np.ndarray, body: np.ndarray, gap: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of a body and one that most of it, and the space around it, is inside of, (c,) int each."""
    order = np.argsort(body, kind="stable")
    n_faces = np.bincount(body)
    if len(n_faces) == 1:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    n_samples = np.minimum(n_faces, _SAMPLES)
    sampled = np.repeat(np.cumsum(n_faces) - n_faces, n_samples)
    sampled += np.concatenate([np.arange(n) * total // n for n, total in zip(n_samples, n_faces, strict=True)])
    rows = order[sampled]
    middle, normal = _middles(vertices[faces[rows]])
    point, outer = bodies_around(middle + gap * normal, vertices, faces, body)
    inner = body[rows[point]]
    inner, outer = inner[inner != outer], outer[inner != outer]
    pair, n = np.unique(inner * len(n_faces) + outer, return_counts=True)
    inner, outer = np.divmod(pair, len(n_faces))
    return inner[2 * n > n_samples[inner]], outer[2 * n > n_samples[inner]]


def _touching(vertices: np.ndarray, faces: np.ndarray, body: np.ndarray, outside: np.ndarray, gap: float) -> np.ndarray:
    """Which bodies outside the largest are within a gap of it, or of another one that is, (k,) bool."""
    is_touching = np.zeros(len(outside), dtype=bool)
    used, first = np.unique(faces, return_index=True)
    of_vertex = body[first // 3]
    reached = np.array([0])
    while True:
        left = np.flatnonzero((outside & ~is_touching)[of_vertex] & (of_vertex != 0))
        if not len(left):
            return is_touching
        tree = cKDTree(vertices[used[np.isin(of_vertex, reached)]])
        distance, _ = tree.query(vertices[used[left]], distance_upper_bound=gap)
        reached = np.unique(of_vertex[left[np.isfinite(distance)]])
        if not len(reached):
            return is_touching
        is_touching[reached] = True


def bodies_around(
    points: np.ndarray, vertices: np.ndarray, faces: np.ndarray, body: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find the closed bodies that points are inside of.

    Parameters
    ----------
    points : (k, 3) float
    vertices : (n, 3) float
    faces : (m, 3) int
        Facing outwards.
    body : (m,) int
        The body of each face.

    Returns
    -------
    point, body : (c,) int
        Pairs of a point and a body around it.
    """
    point, face, place, sign = crossings(points, 0, vertices, faces)
    beyond = place > points[point, 0]
    point, around, sign = point[beyond], body[face[beyond]], sign[beyond]
    n_bodies = int(body.max(initial=0)) + 1
    pair, number = np.unique(point * n_bodies + around, return_inverse=True)
    is_inside = np.bincount(number, sign, minlength=len(pair)) > 0
    found = np.divmod(pair[is_inside], n_bodies)
    return found[0], found[1]


def covered_faces(
    vertices: np.ndarray, faces: np.ndarray, body: np.ndarray, depth: float
) -> tuple[np.ndarray, np.ndarray]:
    """Find faces that are no part of the surface of all bodies together.

    Parameters
    ----------
    vertices : (n, 3) float
    faces : (m, 3) int
        Of closed bodies, facing outwards.
    body : (m,) int
        The body of each face. Of a surface that two bodies have, that of the one with the lower number is needed.
    depth : float
        Bodies that are so far apart touch, and surfaces that are so near to each other are the same.

    Returns
    -------
    is_inside : (m,) bool
        Whether the space in front of the face belongs to another body.
    is_copy : (m,) bool
        Whether the surface there is that of another body too.
    """
    middle, normal = _middles(vertices[faces])
    in_another, in_lower = np.zeros((2, len(faces)), dtype=bool), np.zeros((2, len(faces)), dtype=bool)
    for side, step in enumerate((depth, -depth)):
        face, around = bodies_around(middle + step * normal, vertices, faces, body)
        in_another[side, face[around != body[face]]] = True
        in_lower[side, face[around < body[face]]] = True
    return in_another[0], ~in_another[0] & in_lower[1]


def _middles(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middles and normals of triangles, (m, 3) each."""
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return corners.mean(axis=1), normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)
