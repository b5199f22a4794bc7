"""Edges of the faces of a mesh: edge 3 f + k runs from corner k of face f to its next corner."""

import numpy as np

from somatic.geometry.compiled import compiled


@compiled
def next_edge(edge):
    """The edge of the same face that begins where an edge ends."""
    return edge + 1 if edge % 3 < 2 else edge - 2


@compiled
def edge_before(edge):
    """The edge of the same face that ends where an edge begins."""
    return edge - 1 if edge % 3 > 0 else edge + 2


@compiled
def opposite_edges(faces, n_vertices):
    """For each edge the one that runs back along it; -1 where there is none, or more than one.

    Parameters
    ----------
    faces : (m, 3) int
    n_vertices : int

    Returns
    -------
    (3 m,) int32
    """
    start = faces.ravel()
    n_edges = len(start)
    # Edges by the vertex that they leave.
    first = np.zeros(n_vertices + 2, np.int32)
    for vertex in start:
        first[vertex + 2] += 1
    for vertex in range(n_vertices):
        first[vertex + 2] += first[vertex + 1]
    leaving = np.empty(n_edges, np.int32)
    for edge in range(n_edges):
        leaving[first[start[edge] + 1]] = edge
        first[start[edge] + 1] += 1
    opposite = np.full(n_edges, -1, np.int32)
    for edge in range(n_edges):
        end, n_back = start[next_edge(edge)], 0
        for back in leaving[first[end] : first[end + 1]]:
            if start[next_edge(back)] == start[edge]:
                opposite[edge] = back
                n_back += 1
        if n_back != 1:
            opposite[edge] = -1
    return opposite
