"""Faces that are stored more than once, and walls between pieces that were closed one by one."""

import numpy as np
import scipy.sparse as sparse

from somatic.repair.pieces import edge_numbers, edges_of


def needed_faces(faces: np.ndarray) -> np.ndarray:
    """Find which faces to keep of those with the same three corners.

    Copies that are wound alike are one face. Copies wound both ways are either a face and its reversed copy, of which
    one is kept, or the two sides of a wall between closed pieces, of which none is: whichever leaves two faces at more
    of the edges around them.

    Parameters
    ----------
    faces : (m, 3) int

    Returns
    -------
    (k,) int
        Rows of `faces`, ascending.
    """
    corners = np.sort(faces, axis=1)
    _, first, copy_of, n_copies = np.unique(
        corners, axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    if len(first) == len(faces):
        return np.arange(len(faces))
    n_even = np.bincount(copy_of, _is_even(faces), minlength=len(first))
    both_ways = (n_even > 0) & (n_even < n_copies)
    keep = np.ones(len(first), dtype=bool)
    if both_ways.any():
        keep[both_ways] = ~_are_walls(faces[first], both_ways)
    return np.sort(first[keep])


def _is_even(faces: np.ndarray) -> np.ndarray:
    """Whether the corners of each face ascend, but for a rotation."""
    a, b, c = faces.T
    return ((a < b) & (b < c)) | ((b < c) & (c < a)) | ((c < a) & (a < b))


def _are_walls(faces: np.ndarray, both_ways: np.ndarray) -> np.ndarray:
    """For each face that is stored both ways, in a patch of such faces, whether the patch is a wall."""
    edge, n_faces = edge_numbers(edges_of(faces))
    edge = edge.reshape(-1, 3)
    of_patch = edge[both_ways]
    n_in_patch = np.bincount(of_patch.ravel(), minlength=len(n_faces))
    n_patch_faces = len(of_patch)
    at_edge = sparse.coo_matrix(
        (np.ones(of_patch.size), (np.repeat(np.arange(n_patch_faces), 3), of_patch.ravel())),
        shape=(n_patch_faces, len(n_faces)),
    ).tocsr()
    n_patches, patch = sparse.csgraph.connected_components(at_edge @ at_edge.T, directed=False)
    n_beyond = np.where(n_in_patch == 1, n_faces - 1, 0)[of_patch].reshape(-1, 3)
    # With one other face at an edge the patch belongs to the surface; with two the surface is whole without it.
    n_open_without = np.bincount(patch, (n_beyond == 1).sum(axis=1), minlength=n_patches)
    n_closed_without = np.bincount(patch, (n_beyond == 2).sum(axis=1), minlength=n_patches)
    return (n_closed_without > n_open_without)[patch]
