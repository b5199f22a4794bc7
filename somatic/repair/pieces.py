"""Connected pieces of a mesh, and the side of their faces that is outside."""

import numpy as np
import trimesh

from somatic.geometry.compiled import compiled


def connected_pieces(faces: np.ndarray, n_vertices: int) -> np.ndarray:
    """Number the pieces of a mesh that share no vertex.

    Parameters
    ----------
    faces : (m, 3) int
    n_vertices : int

    Returns
    -------
    (m,) int
        For each face the number of its piece, from 0.
    """
    label = trimesh.graph.connected_component_labels(edges_of(faces), node_count=n_vertices)
    return np.unique(label[faces[:, 0]], return_inverse=True)[1]


def edges_of(faces: np.ndarray) -> np.ndarray:
    """Directed edges of faces, (3 m, 2): rows 3 f to 3 f + 2 are those of face f."""
    return faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)


def edge_numbers(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number edges regardless of their direction.

    Returns
    -------
    number : (n,) int
        Equal for edges between the same two vertices, from 0.
    n_faces : (k,) int
        How often each number occurs.
    """
    low, high = np.minimum(*edges.T), np.maximum(*edges.T)
    key = low * (int(high.max(initial=0)) + 1) + high
    _, number, n_faces = np.unique(key, return_inverse=True, return_counts=True)
    return number, n_faces


def signed_volumes(corners: np.ndarray) -> np.ndarray:
    """Volumes of the tetrahedra between triangles, (m, 3, 3), and the origin; positive if that is behind them."""
    return np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6


def areas(corners: np.ndarray) -> np.ndarray:
    """Areas of triangles, (m, 3, 3)."""
    return np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2


def turned_outwards(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Find the faces to be reversed so that neighbours agree and pieces face away from the middle of the mesh.

    Parameters
    ----------
    vertices : (n, 3) float
    faces : (m, 3) int
        Neighbours are two faces at an edge that has no third one.

    Returns
    -------
    (m,) bool
    """
    number, n_faces = edge_numbers(edges_of(faces))
    order = np.argsort(number, kind="stable")
    first = np.cumsum(n_faces) - n_faces
    first = first[n_faces == 2]
    one, other = order[first], order[first + 1]
    start = faces.ravel()
    piece, is_reversed = _wind(len(faces), one // 3, other // 3, start[one] == start[other])
    corners = vertices[faces]
    weight = areas(corners)
    middle = np.average(corners.mean(axis=1), axis=0, weights=weight) if weight.any() else corners.mean(axis=(0, 1))
    volume = signed_volumes(corners - middle) * np.where(is_reversed, -1, 1)
    return is_reversed ^ (np.bincount(piece, volume, minlength=len(faces)) < 0)[piece]


@compiled
def _wind(n_faces, one, other, run_alike):
    """Join neighbours to pieces; for each face its piece, and whether it is wound against the piece's first face."""
    above, against = np.arange(n_faces), np.zeros(n_faces, np.bool_)
    for pair in range(len(one)):
        roots = np.zeros(2, np.int64)
        parity = run_alike[pair]
        for k in range(2):
            face = one[pair] if k == 0 else other[pair]
            while above[face] != face:
                # Each face on the way is joined to the one after the next.
                parity ^= against[face]
                next_face = above[face]
                against[face] ^= against[next_face]
                above[face] = above[next_face]
                face = next_face
            roots[k] = face
        if roots[0] != roots[1]:
            above[max(roots[0], roots[1])] = min(roots[0], roots[1])
            against[max(roots[0], roots[1])] = parity
    for face in range(n_faces):
        # Roots come first, so that what is above a face is done.
        against[face] ^= against[above[face]]
        above[face] = above[above[face]]
    return above, against
