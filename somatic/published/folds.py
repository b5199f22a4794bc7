"""Infolding of the nuclear envelope, as published (definitions.md, "Folds")."""

from dataclasses import dataclass

import numpy as np
import trimesh
from scipy.spatial import cKDTree

from somatic.features import Row

_SPHERE_RADIUS_NM = 12_000.0
_N_THETA = 256
_N_PHI = 8
_COARSE_EDGE_NM = 1000.0
_FINE_EDGE_NM = 300.0
_N_SHRINKS = 2
_FOLD_DEPTH_NM = 150.0
# trimesh stops subdividing after this many halvings; the longest edge of the sphere needs five.
_MAX_HALVINGS = 20


@dataclass(frozen=True)
class Folds:
    """Folded area (um^2), its share of the whole area, and mean depth of folded vertices (nm; None without folds)."""

    area_um2: float
    fraction: float
    mean_depth_nm: float | None


def measure_folds(mesh: trimesh.Trimesh) -> Folds:
    """Compare a nucleus with a wrap that is laid on it and does not follow into its folds.

    A vertex is folded where it is farther than 150 nm from the nearest vertex of the wrap.

    Parameters
    ----------
    mesh : trimesh.Trimesh
        Closed mesh of a nucleus, vertices in nm.

    Returns
    -------
    Folds
    """
    depth_nm = fold_depth_nm(mesh)
    folded = depth_nm > _FOLD_DEPTH_NM
    folded_area = float(mesh.area_faces[folded[mesh.faces].any(axis=1)].sum())
    mean_depth = float(depth_nm[folded].mean()) if folded.any() else None
    return Folds(folded_area / 1e6, folded_area / float(mesh.area), mean_depth)


def fold_columns(mesh: trimesh.Trimesh) -> Row:
    """The columns of a nucleus's folds."""
    folds = measure_folds(mesh)
    return {
        "nuclear_folding_area_um": folds.area_um2,
        "fraction_nuclear_folding": folds.fraction,
        "avg_fold_depth_nm": folds.mean_depth_nm,
    }


def fold_depth_nm(mesh: trimesh.Trimesh) -> np.ndarray:
    """Distance of each vertex of a nucleus, (n,) in nm, from the nearest vertex of its wrap."""
    vertices = mesh.vertices - mesh.vertices.mean(axis=0)
    # The kind of tree that is built and asked fastest for points near its own.
    return cKDTree(_wrap(vertices), balanced_tree=False, compact_nodes=False).query(vertices)[0]


def _wrap(vertices: np.ndarray) -> np.ndarray:
    """Vertices of a sphere laid on a centred nucleus: shrunk, refined, shrunk, refined, shrunk, refined."""
    # Balanced, since which of two vertices equally near is the nearest depends on it.
    tree = cKDTree(vertices)
    wrap, faces = _laid_on(tree, *sphere())
    for _ in range(_N_SHRINKS):
        wrap, faces = _laid_on(tree, *_refined(wrap, faces, _COARSE_EDGE_NM))
    return _refined(wrap, faces, _FINE_EDGE_NM)[0]


def _laid_on(tree: cKDTree, wrap: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The wrap with each vertex where the nearest of the nucleus is, each place once, each face once.

    Many vertices of the wrap come to lie on one. Only the places matter in the end, and faces only as far as they are
    refined; one without extent is not.
    """
    used, place = np.unique(tree.query(wrap)[1], return_inverse=True)
    faces = np.unique(np.sort(place[faces], axis=1), axis=0)
    return tree.data[used], faces[faces[:, 0] < faces[:, 2]]


def _refined(wrap: np.ndarray, faces: np.ndarray, edge_nm: float) -> tuple[np.ndarray, np.ndarray]:
    """The wrap with edges of at most a length."""
    if not len(faces):
        return wrap, faces
    return trimesh.remesh.subdivide_to_size(wrap, faces, edge_nm, max_iter=_MAX_HALVINGS)


def sphere() -> tuple[np.ndarray, np.ndarray]:
    """The start of the wrap: VTK's sphere source with 256 x 8 points, poles on z.

    Returns
    -------
    vertices : (1538, 3) float
        North pole, south pole, then meridian by meridian from north to south, in nm.
    faces : (3072, 3) int
        The published fold features depend on how VTK splits its quadrilaterals.
    """
    n_rings = _N_PHI - 2
    theta = 2 * np.pi * np.arange(_N_THETA) / _N_THETA
    phi = np.pi * np.arange(1, n_rings + 1) / (_N_PHI - 1)
    x = np.cos(theta)[:, None] * np.sin(phi)
    y = np.sin(theta)[:, None] * np.sin(phi)
    z = np.broadcast_to(np.cos(phi), x.shape)
    rings = np.stack([x, y, z], axis=-1).reshape(-1, 3)
    vertices = _SPHERE_RADIUS_NM * np.vstack([[0, 0, 1], [0, 0, -1], rings])

    index = 2 + np.arange(_N_THETA * n_rings).reshape(_N_THETA, n_rings)
    following = np.roll(index, -1, axis=0)
    north = np.stack([index[:, 0], following[:, 0], np.zeros(_N_THETA, int)], axis=1)
    south = np.stack([index[:, -1], np.ones(_N_THETA, int), following[:, -1]], axis=1)
    a, b = index[:, :-1].ravel(), index[:, 1:].ravel()
    c, d = following[:, 1:].ravel(), following[:, :-1].ravel()
    return vertices, np.vstack([north, south, np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
