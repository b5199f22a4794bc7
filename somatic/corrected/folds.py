"""Infolding of a nucleus below a smooth envelope (docs/definitions.md, "Folds").

The envelope is the closing of the nucleus by a ball: where the ball, rolled around the nucleus, cannot reach lies in a
fold. Source: Edelsbrunner and Mücke, "Three-dimensional alpha shapes" (ACM Trans. Graph. 1994), whose ball it is.
"""

from dataclasses import dataclass

import numpy as np
import trimesh
from scipy import ndimage
from scipy.optimize import brentq
from scipy.spatial import cKDTree

from somatic.features import Row
from somatic.geometry.compiled import compiled

_BALL_RADIUS_NM = 2000.0
_FOLD_DEPTH_NM = 150.0
_COUNTED_DEPTH_NM = 400.0
"""Depth that a fold reaches somewhere if it is counted: four voxels of 64 nm, its roughness, below the limit.

Not an area: how deep a shallow fold is depends little on the rotation (5 nm), but how much of it is below the limit
does (by half).
"""
_LONGEST_EDGE_NM = 500.0
"""Of faces in which the depth is interpolated, with an error of up to 16 nm; few faces of a nucleus are as large."""
_SAMPLE_NM = 100.0
"""Points of the surface lie about this close, for which the ball sinks 2 nm between them, 8 nm at a sharp edge."""
_GRID_NM = 450.0
"""Of the grids on which the ball, and depths that are no fold's, are looked for."""
_NARROWEST_MOUTH_NM = 300.0
_WIDEST_MOUTH_NM = 1.9 * _BALL_RADIUS_NM
"""Mouths in which the ball's lowest place counts: into narrower ones it sinks less than 6 nm, through wider ones."""
_TOUCH_NM = 1.0
"""A ball that reaches less than this into the surface lies on it."""
_N_TRIES = 3
"""To find points of the rim on which the ball rests, and to lift it off what it still reaches into."""
_RISE_NM = 40.0
"""How far a ball may be lifted out of the surface; one that has to rise more than this belongs somewhere else."""


@dataclass(frozen=True)
class Infolding:
    """Parts of a nucleus's surface that lie more than 150 nm below its envelope.

    Attributes
    ----------
    area_um2 : float
        Their area.
    fraction : float
        Its share of the whole area.
    mean_depth_nm, depth_95_nm : float or None
        Mean depth of that area, and the depth that 5 % of it exceed; None where nothing is folded.
    n_folds : int
        Connected parts that reach a depth of 400 nm.
    """

    area_um2: float
    fraction: float
    mean_depth_nm: float | None
    depth_95_nm: float | None
    n_folds: int


def fold_columns(mesh: trimesh.Trimesh) -> Row:
    """The columns of a nucleus's folds."""
    folds = measure_infolding(mesh)
    return {
        "nuclear_folding_area_um": folds.area_um2,
        "fraction_nuclear_folding": folds.fraction,
        "avg_fold_depth_nm": folds.mean_depth_nm,
        "fold_depth_95_nm": folds.depth_95_nm,
        "n_folds": folds.n_folds,
    }


def measure_infolding(mesh: trimesh.Trimesh) -> Infolding:
    """Measure what of a nucleus lies below its envelope.

    Faces are cut where they are 150 nm deep, so that the result does not depend on their size.

    Parameters
    ----------
    mesh : trimesh.Trimesh
        Closed mesh of a nucleus in one piece, vertices in nm.

    Returns
    -------
    Infolding
    """
    mesh = _with_short_edges(mesh)
    depth_nm = fold_depth_nm(mesh)
    reaches = (depth_nm > _FOLD_DEPTH_NM)[mesh.faces].any(axis=1)
    if not reaches.any():
        return Infolding(0.0, 0.0, None, None, 0)
    faces, area = mesh.faces[reaches], mesh.area_faces[reaches]
    corners_nm = np.sort(depth_nm[faces], axis=1)
    share, excess_nm = _deeper(corners_nm, _FOLD_DEPTH_NM)
    total = area @ share

    def too_much(limit_nm: float) -> float:
        return area @ _deeper(corners_nm, limit_nm)[0] - 0.05 * total

    return Infolding(
        area_um2=float(total / 1e6),
        fraction=float(total / mesh.area),
        mean_depth_nm=float(_FOLD_DEPTH_NM + area @ excess_nm / total),
        depth_95_nm=float(brentq(too_much, _FOLD_DEPTH_NM, corners_nm.max(), xtol=0.1)),
        n_folds=_n_folds(faces, depth_nm),
    )


def _with_short_edges(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """The same surface, its large faces divided, since the depth is linear in small ones only."""
    while (is_large := _longest_edge(mesh) > _LONGEST_EDGE_NM).any():
        mesh = mesh.subdivide(np.flatnonzero(is_large))
    return mesh


def _longest_edge(mesh: trimesh.Trimesh) -> np.ndarray:
    """Length of the longest edge of each face."""
    return _longest(mesh.vertices.view(np.ndarray), mesh.faces.view(np.ndarray))


@compiled
def _longest(vertices, faces):
    longest = np.zeros(len(faces))
    for n, face in enumerate(faces):
        for k in range(3):
            p, q = vertices[face[k]], vertices[face[k - 1]]
            squared = (p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2 + (p[2] - q[2]) ** 2
            longest[n] = max(longest[n], np.sqrt(squared))
    return longest


def _deeper(corners_nm: np.ndarray, limit_nm: float) -> tuple[np.ndarray, np.ndarray]:
    """Share of each face that is deeper than a limit, and the mean over the face of how much deeper (0 elsewhere).

    The depth is linear within a face; `corners_nm` (n, 3) is sorted along its rows.
    """
    low, middle, high = corners_nm.T
    # A corner is cut off: the lowest where the limit is below the middle one, else the highest.
    below, above = limit_nm - low, high - limit_nm
    cuts_lowest = middle > limit_nm
    with np.errstate(divide="ignore", invalid="ignore"):
        cut = np.where(cuts_lowest, below**2 / (middle - low), above**2 / (high - middle)) / (high - low)
    cut = np.where((below > 0) & (above > 0), cut, 0)
    is_deep = cuts_lowest | (below <= 0)
    share = np.where(is_deep, 1 - cut, cut)
    excess_nm = np.where(is_deep, (low + middle + high) / 3 - limit_nm + cut * below / 3, cut * above / 3)
    return share, excess_nm


def _n_folds(faces: np.ndarray, depth_nm: np.ndarray) -> int:
    """Number of connected parts of the folded surface that are deep somewhere."""
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    edges = edges[(depth_nm[edges] > _FOLD_DEPTH_NM).all(axis=1)]
    part = trimesh.graph.connected_component_labels(edges, node_count=len(depth_nm))
    return len(np.unique(part[depth_nm > _COUNTED_DEPTH_NM]))


def fold_depth_nm(mesh: trimesh.Trimesh) -> np.ndarray:
    """Distance of each vertex of a nucleus from its envelope.

    Parameters
    ----------
    mesh : trimesh.Trimesh
        Closed mesh of a nucleus in one piece, vertices in nm.

    Returns
    -------
    (n,) float
        In nm, right to 2 nm on average and 10 nm at worst. About 0 where the surface is not folded, and 0 for a vertex
        without a face.
    """
    in_use = mesh.referenced_vertices
    vertices = mesh.vertices - mesh.bounds[0]
    centres = _ball_centres(_surface_points(mesh) - mesh.bounds[0])
    depth_nm = np.zeros(len(vertices))
    depth_nm[in_use] = np.maximum(_depth(vertices[in_use], centres), 0)
    return depth_nm


def _surface_points(mesh: trimesh.Trimesh) -> np.ndarray:
    """Points of the surface, (n, 3): one for each cube of the sample length that it passes through, or nearly so."""
    n_parts = np.ceil(_longest_edge(mesh) / _SAMPLE_NM).astype(int)
    found = [mesh.vertices[mesh.referenced_vertices]]
    for n in np.unique(n_parts[n_parts > 1]):
        weights = np.array([(i, j, n - i - j) for i in range(n) for j in range(n - i + 1) if j < n and i + j > 0]) / n
        found.append((weights @ mesh.triangles[n_parts == n]).reshape(-1, 3))
    # Any point of a cube will do. To prefer vertices, which stick out, would make the depth depend on their number.
    points = np.concatenate(found)
    cube = ((points - mesh.bounds[0]) / _SAMPLE_NM).astype(np.int64)
    of_cube = np.full(cube.max(axis=0) + 1, -1, dtype=np.int32)
    of_cube[tuple(cube.T)] = np.arange(len(points))
    return points[of_cube[of_cube >= 0]]


def _ball_centres(points: np.ndarray) -> np.ndarray:
    """Places of the centre of a ball that is rolled around points of a surface and touches it, (n, 3).

    They lie about as close as the nodes of a grid, and wherever the ball touches both sides of a mouth.
    """
    number, nodes = _nodes_outside(points)
    tree = _tree(points)
    distance, nearest = tree.query(nodes)
    # Towards its nearest point a node comes to no other; away from it, it may.
    touched = points[nearest]
    centres = touched + (nodes - touched) * (_BALL_RADIUS_NM / distance)[:, None]
    is_outside = distance >= _BALL_RADIUS_NM
    steps = (number[1:], number[:-1]), (number[:, 1:], number[:, :-1]), (number[..., 1:], number[..., :-1])
    pairs = np.concatenate([np.stack(step, axis=-1).reshape(-1, 2) for step in steps])
    pairs = pairs[(pairs >= 0).all(axis=1)]
    return np.concatenate([centres[is_outside], _in_mouths(tree, centres[pairs], touched[pairs])])


def _nodes_outside(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nodes of a grid at the edge of where the centre of the ball can be: just inside of it, and beside that.

    Returns
    -------
    number : (x, y, z) int32
        Grid of the rows of `nodes`, -1 for others.
    nodes : (n, 3) float
    """
    origin = points.min(axis=0) - (_BALL_RADIUS_NM + 2 * _GRID_NM)
    cell = np.rint((points - origin) / _GRID_NM).astype(np.int64)
    shape = cell.max(axis=0) + cell.min(axis=0) + 1
    point_of = np.full(shape, -1, dtype=np.int32)
    point_of[tuple(cell.T)] = np.arange(len(points))
    distance, nearest_cell = ndimage.distance_transform_edt(point_of < 0, _GRID_NM, return_indices=True)
    # Better than half a grid length only near the ball's radius, where it matters: to the point instead of its cell.
    shell = np.nonzero(np.abs(distance - _BALL_RADIUS_NM) < 2 * _GRID_NM)
    nodes = origin + _GRID_NM * np.stack(shell, axis=1)
    nearest = points[point_of[tuple(axis[shell] for axis in nearest_cell)]]
    distance[shell] = np.linalg.norm(nodes - nearest, axis=1)
    # The ball comes from outside: it is not in a hollow that it cannot enter, nor in the nucleus.
    place, _ = ndimage.label(distance >= _BALL_RADIUS_NM)
    beside = ndimage.binary_dilation(place == place[0, 0, 0], ndimage.generate_binary_structure(3, 3))
    kept = beside[shell] & (distance[shell] < _BALL_RADIUS_NM + 1.3 * _GRID_NM)
    number = np.full(shape, -1, dtype=np.int32)
    number[tuple(axis[kept] for axis in shell)] = np.arange(kept.sum())
    return number, nodes[kept]


def _in_mouths(tree: cKDTree, centres: np.ndarray, touched: np.ndarray) -> np.ndarray:
    """Centres of the ball where it has sunk into a mouth as far as it can, (m, 3).

    Between two places near each other, in which it touches points far apart, is one where it rests on both of these,
    or on others of the same rim, or on three. Nodes of a grid miss such places, and the ball would seem to sink less
    than it does.

    Parameters
    ----------
    tree : cKDTree
        Of the points of the surface.
    centres, touched : (n, 2, 3) float
        Pairs of centres, and the point of the surface that the ball touches from each.
    """
    above, a, b = centres.mean(axis=1), touched[:, 0], touched[:, 1]
    found = []
    for _ in range(_N_TRIES):
        width = np.linalg.norm(b - a, axis=1)
        is_mouth = (width > _NARROWEST_MOUTH_NM) & (width < _WIDEST_MOUTH_NM)
        above, a, b = above[is_mouth], a[is_mouth], b[is_mouth]
        on_two = _on_two(a, b, above)
        distance, nearest = tree.query(on_two)
        sinks_in = distance < _BALL_RADIUS_NM - _TOUCH_NM
        found.append(on_two[~sinks_in])
        above, a, b, third = above[sinks_in], a[sinks_in], b[sinks_in], tree.data[nearest[sinks_in]]
        found.append(_lifted(tree, _on_three(a, b, third, above)))
        # Where the third point is of the same rim as one of the two, the ball touches the rim there.
        to_a, to_b = np.linalg.norm(third - a, axis=1), np.linalg.norm(third - b, axis=1)
        is_same_rim = np.minimum(to_a, to_b) < _NARROWEST_MOUTH_NM
        instead_of_a = (to_a < to_b)[:, None]
        a, b = np.where(instead_of_a, third, a)[is_same_rim], np.where(instead_of_a, b, third)[is_same_rim]
        above = above[is_same_rim]
    return np.concatenate(found)


def _on_two(a: np.ndarray, b: np.ndarray, above: np.ndarray) -> np.ndarray:
    """Centres of balls that rest on two points each, as near as can be below a third."""
    middle, across = (a + b) / 2, b - a
    width_2 = (across**2).sum(axis=1)
    up = above - middle
    up -= across * ((up * across).sum(axis=1) / width_2)[:, None]
    return middle + up * (np.sqrt(_BALL_RADIUS_NM**2 - width_2 / 4) / np.linalg.norm(up, axis=1))[:, None]


def _on_three(a: np.ndarray, b: np.ndarray, c: np.ndarray, above: np.ndarray) -> np.ndarray:
    """Centres of balls that rest on three points each, on the side of a fourth; none where there is no such ball."""
    to_b, to_c = b - a, c - a
    normal = np.cross(to_b, to_c)
    normal *= np.sign((normal * (above - a)).sum(axis=1))[:, None]
    to_b_2, to_c_2, normal_2 = ((edge**2).sum(axis=1)[:, None] for edge in (to_b, to_c, normal))
    with np.errstate(divide="ignore", invalid="ignore"):
        # From the first point to the centre of the circle through the three.
        to_centre = np.cross(np.cross(to_b, to_c), to_b * to_c_2 - to_c * to_b_2) / (2 * normal_2)
        height = np.sqrt(_BALL_RADIUS_NM**2 - (to_centre**2).sum(axis=1))[:, None]
        centres = a + to_centre + normal * (height / np.sqrt(normal_2))
    return centres[height[:, 0] > 0]


def _lifted(tree: cKDTree, centres: np.ndarray) -> np.ndarray:
    """Centres of balls lifted out of the surface, without those that lie deep in it."""
    distance, nearest = tree.query(centres)
    fits = distance > _BALL_RADIUS_NM - _RISE_NM
    centres, distance, nearest = centres[fits], distance[fits], nearest[fits]
    sinking = np.arange(len(centres))
    for _ in range(_N_TRIES):
        is_in = distance < _BALL_RADIUS_NM - _TOUCH_NM
        sinking, touched = sinking[is_in], tree.data[nearest[is_in]]
        centres[sinking] = touched + (centres[sinking] - touched) * (_BALL_RADIUS_NM / distance[is_in])[:, None]
        distance, nearest = tree.query(centres[sinking])
    return centres


def _depth(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """How much farther than a radius each point is from the nearest centre of the ball.

    Most points are not folded. For them it is interpolated between the nodes of a grid, which are fewer.
    """
    tree = _tree(centres)
    place = (points - points.min(axis=0)) / _GRID_NM
    cell = place.astype(np.int64)
    near = np.zeros(cell.max(axis=0) + 2, dtype=bool)
    for x, y, z in np.ndindex(2, 2, 2):
        near[cell[:, 0] + x, cell[:, 1] + y, cell[:, 2] + z] = True
    nodes = points.min(axis=0) + _GRID_NM * np.argwhere(near)
    on_grid = np.zeros(near.shape)
    on_grid[near] = tree.query(nodes)[0] - _BALL_RADIUS_NM
    depth = ndimage.map_coordinates(on_grid, place.T, order=1)
    may_be_folded = depth > _FOLD_DEPTH_NM / 2
    depth[may_be_folded] = tree.query(points[may_be_folded])[0] - _BALL_RADIUS_NM
    return depth


def _tree(points: np.ndarray) -> cKDTree:
    """The kind of tree that answers soonest about places that are equally far from many of its points."""
    return cKDTree(points, leafsize=32, balanced_tree=False, compact_nodes=False)
