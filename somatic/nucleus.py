"""Meshes of nuclei from the mesh layer of a nucleus segmentation."""

import numpy as np
import trimesh
from cloudvolume import Mesh

from somatic.errors import MissingNucleusMesh, OpenNucleusMesh, SegmentationError
from somatic.layer import open_layer, read_error
from somatic.mesh import largest_piece

_CLIPPED_WITHIN_NM = 3000.0


class NucleusLayer:
    """The meshes of a nucleus segmentation; segment id = nucleus id.

    Parameters
    ----------
    url : str
        cloud-volume path of the layer.

    Raises
    ------
    SegmentationError
        No such layer, or it has no meshes.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._volume = open_layer(url)
        if not self._volume.info.get("mesh"):
            raise SegmentationError(f"the nucleus segmentation {url} has no mesh layer (no 'mesh' in its info file)")
        bounds, resolution_nm = self._volume.bounds, np.asarray(self._volume.resolution, dtype=float)
        self.lower_nm = np.array(bounds.minpt) * resolution_nm
        self.upper_nm = np.array(bounds.maxpt) * resolution_nm

    def mesh(self, nucleus_id: int) -> trimesh.Trimesh:
        """Mesh of one nucleus, vertices in nm, duplicate vertices merged, otherwise as it is stored.

        Raises
        ------
        MissingNucleusMesh
            The layer has none for this id.
        SegmentationUnavailable
            It could not be read.
        """
        missing = MissingNucleusMesh(f"the nucleus segmentation has no mesh of nucleus {nucleus_id}")
        source = self._volume.mesh
        try:
            # cloud-volume's own errors for a missing mesh differ by format and look like any other failure.
            found = source.get_manifest(nucleus_id) if hasattr(source, "get_manifest") else source.exists(nucleus_id)
            if not (any(found.values()) if isinstance(found, dict) else found):
                raise missing
            mesh = source.get(nucleus_id)
        except (MissingNucleusMesh, MemoryError):
            raise
        except Exception as error:
            raise read_error(self.url, error) from error
        if not isinstance(mesh, Mesh):
            mesh = mesh[nucleus_id]
        if not len(mesh.faces):
            raise missing
        return trimesh.Trimesh(mesh.vertices.astype(np.float64), mesh.faces.astype(np.int64))

    def is_clipped(self, mesh: trimesh.Trimesh) -> bool:
        """Whether the bounding box of a mesh comes within 3 um of the bounds of the layer."""
        lower, upper = mesh.bounds
        near = (lower - self.lower_nm < _CLIPPED_WITHIN_NM) | (self.upper_nm - upper < _CLIPPED_WITHIN_NM)
        return bool(near.any())


def closed(mesh: trimesh.Trimesh) -> tuple[trimesh.Trimesh, bool]:
    """The mesh with its holes closed, and whether that was needed.

    Holes are closed with fans and the largest body is kept.

    Raises
    ------
    OpenNucleusMesh
        The mesh stays open.
    """
    if mesh.is_watertight:
        return mesh, False
    repaired = mesh.copy()
    repaired.update_faces(repaired.unique_faces() & repaired.nondegenerate_faces())
    trimesh.repair.fill_holes(repaired, use_fan=True)
    repaired, _ = largest_piece(repaired)
    trimesh.repair.fix_normals(repaired)
    if not repaired.is_watertight:
        raise OpenNucleusMesh("the nucleus mesh has holes that cannot be closed")
    return repaired, True


def mean_radius_nm(mesh: trimesh.Trimesh, centre_nm: np.ndarray) -> float:
    """Mean distance of the vertices from a centre."""
    return float(np.linalg.norm(mesh.vertices - centre_nm, axis=1).mean())


def aspect_ratio(mesh: trimesh.Trimesh) -> float:
    """Largest over the mean of the two other eigenvalues of the covariance of the vertices."""
    smallest, middle, largest = np.linalg.eigvalsh(np.cov(mesh.vertices.T))
    return float(largest / ((smallest + middle) / 2))
