"""Meshes of nuclei from the mesh layer of a nucleus segmentation."""

import numpy as np
import trimesh

from somatic.errors import BrokenNucleusMesh, SegmentationError
from somatic.geometry.edges import opposite_edges
from somatic.geometry.mesh import is_consistent, is_watertight
from somatic.nucleus.fragments import read_mesh
from somatic.repair.pieces import connected_pieces
from somatic.volume.access import ANONYMOUS, Access
from somatic.volume.layer import open_layer

_CLIPPED_WITHIN_NM = 3000.0
_MOST_UNUSED = 0.01
"""Share of the vertices of an open mesh that may belong to no face; with more its list of faces is cut short."""


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
        """Mesh of one nucleus as it is stored, vertices in nm, equal ones merged.

        Vertices of parts that are closed are merged within each part alone where the whole is not closed otherwise.

        Raises
        ------
        MissingNucleusMesh
            The layer has none for this id, or one without faces; so it is with one that its store refuses with status
            403, as long as the layer is read anonymously and its info file is served.
        BrokenNucleusMesh
            Its files are missing or damaged.
        RefusedFile, RefusedLayer
            A part of the mesh is refused, though there is one; or the layer is no longer served.
        SegmentationUnavailable
            It could not be read.
        """
        vertices, faces = read_mesh(self._volume, self.url, nucleus_id, self._access)
        vertices = vertices.astype(np.float64)
        is_used = np.zeros(len(vertices), dtype=bool)
        is_used[faces] = True
        if not np.isfinite(vertices[is_used]).all():
            raise BrokenNucleusMesh(f"the mesh of nucleus {nucleus_id} is damaged: some of its vertices are not numbers")
        faces = (np.cumsum(is_used) - 1)[faces]
        n_unused = np.count_nonzero(~is_used)
        mesh = _merged(vertices[is_used], faces)
        if n_unused > _MOST_UNUSED * len(vertices) and not is_watertight(mesh):
            raise BrokenNucleusMesh(
                f"the mesh of nucleus {nucleus_id} is damaged: {n_unused:,} of its {len(vertices):,} vertices have no "
                "face, so its list of faces is cut short"
            )
        return mesh

    def is_clipped(self, mesh: trimesh.Trimesh) -> bool:
        """Whether the bounding box of a mesh comes within 3 um of the bounds of the layer."""
        lower, upper = mesh.bounds
        near = (lower - self.lower_nm < _CLIPPED_WITHIN_NM) | (self.upper_nm - upper < _CLIPPED_WITHIN_NM)
        return bool(near.any())


def _merged(vertices: np.ndarray, faces: np.ndarray) -> trimesh.Trimesh:
    """A mesh with each vertex once.

    The order of vertices is that of cloud-volume, on which folds depend where two vertices are equally near.
    """
    merged = _mesh_of(vertices, faces, np.zeros(len(vertices), dtype=np.int64))
    if is_consistent(merged):
        return merged
    part = _closed_part(vertices, faces)
    if part.any():
        merged = _mesh_of(vertices, faces, part)
    if not is_watertight(merged):
        # A face that two fragments have is there once.
        merged.update_faces(np.unique(merged.faces, axis=0, return_index=True)[1])
    return merged


def _mesh_of(vertices: np.ndarray, faces: np.ndarray, part: np.ndarray) -> trimesh.Trimesh:
    """A mesh whose vertices are in order, equal ones of one part merged."""
    keys = np.column_stack([vertices, part])
    order = np.lexsort(keys.T[::-1])
    ordered = keys[order]
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    number = np.empty(len(order), dtype=np.int64)
    number[order] = np.cumsum(is_first) - 1
    return trimesh.Trimesh(ordered[is_first, :3], number[faces], process=False)


def _closed_part(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """For each vertex the number of the closed part that it belongs to, (n,) int; 0 where its part is open."""
    piece = connected_pieces(faces, len(vertices))
    part = np.zeros(len(vertices), dtype=np.int64)
    part[faces] = piece[:, None] + 1
    merged = np.asarray(_mesh_of(vertices, faces, part).faces)
    a, b, c = merged.T
    rows = np.flatnonzero((a != b) & (b != c) & (c != a))
    is_open = np.ones(piece.max() + 2, dtype=bool)
    if len(rows):
        open_edges = opposite_edges(merged[rows], int(merged.max()) + 1).reshape(-1, 3) < 0
        is_open[piece[rows] + 1] = False
        is_open[piece[rows[open_edges.any(axis=1)]] + 1] = True
    return np.where(is_open[part], 0, part)
