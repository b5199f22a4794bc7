"""Distances from triangles."""

import numpy as np

from somatic.geometry.compiled import compiled


@compiled
def squared_distance(point, p, q, r):
    """Of a point from a triangle: from its plane where the point is above it, else from the nearest of its edges."""
    u, v, w = q - p, r - p, point - p
    normal = np.cross(u, v)
    squared = np.dot(normal, normal)
    if squared > 0:
        b, c = np.dot(np.cross(w, v), normal) / squared, np.dot(np.cross(u, w), normal) / squared
        if b >= 0 and c >= 0 and b + c <= 1:
            return np.dot(w, normal) ** 2 / squared
    return min(_from_edge(point, p, q), _from_edge(point, q, r), _from_edge(point, r, p))


@compiled
def distance_from_surface(point, vertices, faces):
    """Of a point, (3,) float64, from the nearest of some faces, (m, 3) int, of vertices, (n, 3) float64."""
    nearest = np.inf
    for face in faces:
        nearest = min(nearest, squared_distance(point, vertices[face[0]], vertices[face[1]], vertices[face[2]]))
    return np.sqrt(nearest)


@compiled
def _from_edge(point, p, q):
    along, to = q - p, point - p
    squared = np.dot(along, along)
    share = min(max(np.dot(to, along) / squared, 0.0), 1.0) if squared > 0 else 0.0
    rest = to - share * along
    return np.dot(rest, rest)
