"""Shape of a nucleus, as published (definitions.md, "Nucleus features, published")."""

import numpy as np
import trimesh

from somatic.features import Row
from somatic.measures import measure, nucleus_columns


def measure_nucleus(mesh: trimesh.Trimesh, resolution_nm: np.ndarray) -> tuple[trimesh.Trimesh, Row]:  # noqa: ARG001
    """Measure a nucleus.

    Parameters
    ----------
    mesh : trimesh.Trimesh
        Closed, vertices in nm.
    resolution_nm : (3,) float
        Size of a voxel of its layer, which makes no difference.

    Returns
    -------
    mesh : trimesh.Trimesh
        The same.
    columns : Row

    Raises
    ------
    DegenerateMesh
        The mesh encloses no volume.
    """
    measures = measure(mesh, "nucleus mesh")
    columns = nucleus_columns(measures) | {
        "nucleus_avg_radius_nm": mean_radius_nm(mesh, measures.centre_nm),
        "nucleus_aspect_ratio": aspect_ratio(mesh),
    }
    return mesh, columns


def mean_radius_nm(mesh: trimesh.Trimesh, centre_nm: np.ndarray) -> float:
    """Mean distance of the vertices from a centre."""
    return float(np.linalg.norm(mesh.vertices - centre_nm, axis=1).mean())


def aspect_ratio(mesh: trimesh.Trimesh) -> float:
    """Largest over the mean of the two other eigenvalues of the covariance of the vertices."""
    smallest, middle, largest = np.linalg.eigvalsh(np.cov(mesh.vertices.T))
    return float(largest / ((smallest + middle) / 2))
