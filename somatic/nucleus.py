"""Meshes of nuclei from the mesh layer of a nucleus segmentation."""

from typing import Any

import numpy as np
import trimesh
from cloudvolume import Mesh
from cloudvolume.datasource.precomputed.mesh.unsharded import UnshardedLegacyPrecomputedMeshSource

from somatic.errors import (
    MissingNucleusMesh,
    OpenNucleusMesh,
    PermanentError,
    RefusedFile,
    RefusedLayer,
    SegmentationError,
)
from somatic.geometry.mesh import is_consistent, is_watertight, largest_piece
from somatic.volume.access import ANONYMOUS, Access
from somatic.volume.layer import is_served, open_layer, read_error
from somatic.volume.refusal import Refused

_CLIPPED_WITHIN_NM = 3000.0


class NucleusLayer:
    """The meshes of a nucleus segmentation; segment id = nucleus id.

    Parameters
    ----------
    url : str
        cloud-volume path of the layer.
    access : Access
        Whether it is read anonymously or with the user's credentials.

    Attributes
    ----------
    resolution_nm : (3,) float
        Size of a voxel.
    lower_nm, upper_nm : (3,) float
        Its bounds.

    Raises
    ------
    SegmentationError, SegmentationUnavailable
        No such layer, or it has no meshes; or its server does not answer.
    """

    def __init__(self, url: str, access: Access = ANONYMOUS) -> None:
        self.url = url
        self._access = access
        self._volume = open_layer(url, access=access, with_meshes=True)
        if not self._volume.info.get("mesh"):
            raise SegmentationError(f"the nucleus segmentation {url} has no mesh layer (no 'mesh' in its info file)")
        bounds, self.resolution_nm = self._volume.bounds, np.asarray(self._volume.resolution, dtype=float)
        self.lower_nm = np.array(bounds.minpt) * self.resolution_nm
        self.upper_nm = np.array(bounds.maxpt) * self.resolution_nm

    def mesh(self, nucleus_id: int) -> trimesh.Trimesh:
        """Mesh of one nucleus, vertices in nm, duplicate vertices merged, otherwise as it is stored.

        Raises
        ------
        MissingNucleusMesh
            The layer has none for this id; so it is with one that its store refuses with status 403, as long as the
            layer is read anonymously and its info file is served.
        RefusedFile
            A part of the mesh is refused, though there is one.
        RefusedLayer
            The layer is no longer served.
        SegmentationUnavailable
            It could not be read.
        """
        missing = MissingNucleusMesh(f"the nucleus segmentation has no mesh of nucleus {nucleus_id}")
        source = self._volume.mesh
        found: Any = None
        try:
            # cloud-volume's own errors for a missing mesh differ by format and look like any other failure.
            found = source.get_manifest(nucleus_id) if hasattr(source, "get_manifest") else source.exists(nucleus_id)
            if not (any(found.values()) if isinstance(found, dict) else found):
                raise missing
            # Each fragment as it is: cloud-volume takes longer to merge vertices than all else with a nucleus takes.
            fragments = {"fuse": False} if type(source) is UnshardedLegacyPrecomputedMeshSource else {}
            mesh = source.get(nucleus_id, **fragments)
        except (MissingNucleusMesh, MemoryError):
            raise
        except Refused as refused:
            raise self._refusal(nucleus_id, refused, is_listed=bool(found)) from refused
        except Exception as error:
            raise read_error(self.url, error) from error
        if not isinstance(mesh, Mesh):
            mesh = mesh[nucleus_id]
        if not len(mesh.faces):
            raise missing
        vertices, number = _merged(mesh.vertices.astype(np.float64))
        merged = trimesh.Trimesh(vertices, number[mesh.faces], process=False)
        if not is_watertight(merged):
            # A face that two fragments have is there once.
            merged.update_faces(np.unique(merged.faces, axis=0, return_index=True)[1])
        return merged

    def _refusal(self, nucleus_id: int, refused: Refused, *, is_listed: bool) -> PermanentError:
        """What it means that a file of a mesh is refused; `is_listed` once the layer has said that there is a mesh."""
        try:
            serves = is_served(self._volume, "info")
        except Exception as error:
            raise read_error(self.url, error) from error
        if self._access.credentials or not serves or not refused.is_answer:
            return RefusedLayer(f"reading the mesh of nucleus {nucleus_id} in {self.url} failed: {refused}")
        if is_listed or not refused.may_be_missing:
            return RefusedFile(f"the mesh of nucleus {nucleus_id} cannot be read: {refused} for {refused.key}")
        return MissingNucleusMesh(
            f"the nucleus segmentation has no mesh of nucleus {nucleus_id}, or does not serve it ({refused})"
        )

    def is_clipped(self, mesh: trimesh.Trimesh) -> bool:
        """Whether the bounding box of a mesh comes within 3 um of the bounds of the layer."""
        lower, upper = mesh.bounds
        near = (lower - self.lower_nm < _CLIPPED_WITHIN_NM) | (self.upper_nm - upper < _CLIPPED_WITHIN_NM)
        return bool(near.any())


def _merged(vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices in order, each once, (m, 3), and for each that was there, (n, 3), which of them it is, (n,) int.

    The order is that of cloud-volume, on which folds depend where two vertices are equally near.
    """
    order = np.lexsort(vertices.T[::-1])
    ordered = vertices[order]
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    number = np.empty(len(order), dtype=np.int64)
    number[order] = np.cumsum(is_first) - 1
    return ordered[is_first], number


def closed(mesh: trimesh.Trimesh) -> tuple[trimesh.Trimesh, bool]:
    """The mesh with its holes closed, and whether that was needed.

    Each hole is closed with a fan around the mean of its edge, and the largest body is kept. Faces point outwards.

    Raises
    ------
    OpenNucleusMesh
        Nothing is left to be closed.
    """
    if is_watertight(mesh):
        return _outwards(mesh), False
    repaired = _with_simple_holes(mesh)
    if len(repaired.faces) and not repaired.is_watertight:
        repaired = _with_fans(repaired)
    repaired, _ = largest_piece(repaired)
    if not len(repaired.faces) or not repaired.is_watertight:
        raise OpenNucleusMesh("the nucleus mesh has holes that cannot be closed")
    return _outwards(repaired), True


def _with_simple_holes(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """Without the faces that keep the edge of a hole from being a simple loop."""
    repaired = mesh.copy()
    repaired.update_faces(repaired.unique_faces() & repaired.nondegenerate_faces())
    while len(repaired.faces):
        edges_of_faces = repaired.edges_sorted.reshape(-1, 3, 2)
        _, edge, n_faces = np.unique(repaired.edges_sorted, axis=0, return_inverse=True, return_counts=True)
        n_faces = n_faces[edge].reshape(-1, 3)
        n_open = np.bincount(edges_of_faces[n_faces == 1].ravel(), minlength=len(repaired.vertices))
        # An edge of more than two faces, or a vertex where a hole meets itself or another.
        wrong = (n_faces > 2).any(axis=1) | (n_open > 2)[repaired.faces].any(axis=1)
        if not wrong.any():
            break
        repaired.update_faces(~wrong)
    return repaired


def _with_fans(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """With a vertex in the middle of each hole, which must be a simple loop, and faces from there to its edge."""
    open_edges = mesh.edges[trimesh.grouping.group_rows(mesh.edges_sorted, require_count=1)]
    rim, ends = np.unique(open_edges, return_inverse=True)
    ends = ends.reshape(open_edges.shape)
    hole = trimesh.graph.connected_component_labels(ends, node_count=len(rim))
    sums = np.stack([np.bincount(hole, mesh.vertices[rim, axis]) for axis in range(3)], axis=1)
    centres = sums / np.bincount(hole)[:, None]
    fans = np.column_stack([open_edges[:, ::-1], len(mesh.vertices) + hole[ends[:, 0]]])
    return trimesh.Trimesh(np.vstack([mesh.vertices, centres]), np.vstack([mesh.faces, fans]), process=False)


def _outwards(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """A closed mesh whose faces point outwards, so that its volume is positive."""
    if is_consistent(mesh) and mesh.volume > 0:
        return mesh
    turned = mesh.copy()
    trimesh.repair.fix_normals(turned)
    return turned
