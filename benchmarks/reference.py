"""The published features computed the plain way, to measure against.

Every step works on the whole cutout with the first function that does it: numpy and scipy.ndimage for the mask, zmesh
for the mesh, trimesh for its measures, VTK for the sphere of the folds. definitions.md says what is computed; nothing
of somatic is used but the names of the columns.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import pandas as pd
import trimesh
import vtk
import zmesh
from cloudvolume import CloudVolume
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from vtk.util.numpy_support import vtk_to_numpy

TABLE_NM = np.array([4, 4, 40])
RADIUS_NM = 15_000
MAX_SYNAPSE_NM = 150
FOLD_NM = 150


def measure_cell(
    nucleus_id: int,
    root_id: int,
    centre_vx: NDArray[np.int64],
    segmentation: str,
    nucleus_segmentation: str,
    synapses: pd.DataFrame,
    stage: Callable[[str], AbstractContextManager[None]],
) -> dict[str, float]:
    """Measure one cell.

    Parameters
    ----------
    nucleus_id, root_id : int
    centre_vx : (3,) int
        In voxels of 4 x 4 x 40 nm.
    segmentation, nucleus_segmentation : str
        Cloudpaths; the finest mip is read.
    synapses : pandas.DataFrame
        Columns post_pt_root_id and ctr_pt_position.
    stage : callable
        Entered with the name of each stage, to time it.

    Returns
    -------
    dict
        Columns of the table of features.
    """
    with stage("read"):
        volume = CloudVolume(segmentation, fill_missing=True, bounded=False, progress=False)
        resolution = np.array(volume.resolution, dtype=float)
        reach = (RADIUS_NM / TABLE_NM).astype(int)
        lower, upper = (np.trunc((centre_vx + side) / (resolution / TABLE_NM)).astype(int) for side in (-reach, reach))
        labels = np.asarray(volume[lower[0] : upper[0], lower[1] : upper[1], lower[2] : upper[2]])[..., 0]
    with stage("mask"):
        mask = labels == root_id
        row = {
            "frac_zero": 1 - np.count_nonzero(mask) / mask.size,
            "frac_unlabelled": np.count_nonzero(labels == 0) / labels.size,
        }
        mask = repair(mask)
    with stage("mesh"):
        mesher = zmesh.Mesher(tuple(resolution[::-1]))
        mesher.mesh(np.ascontiguousarray(mask).transpose(2, 1, 0), close=False)
        found = mesher.get(1, reduction_factor=100, max_error=8)
        vertices = found.vertices[:, ::-1].astype(float) + (centre_vx * TABLE_NM - RADIUS_NM)
        pieces = trimesh.Trimesh(vertices, found.faces[:, ::-1], process=False).split(only_watertight=False)
        soma = max(pieces, key=lambda piece: len(piece.vertices))
    with stage("mesh"):
        row |= shape_of(soma, "soma_{}_um", "soma_area_to_volume_ratio", "soma_center_{}_nm")
    with stage("synapses"):
        of_cell = np.stack(synapses.loc[synapses["post_pt_root_id"] == root_id, "ctr_pt_position"].to_list())
        of_cell = of_cell[(np.abs(of_cell - centre_vx) <= reach).all(axis=1)]
        distance, _ = cKDTree(soma.vertices).query(of_cell * TABLE_NM)
        row["soma_synapse_number"] = int((distance < MAX_SYNAPSE_NM).sum())
        row["soma_synapse_density_um"] = row["soma_synapse_number"] / row["soma_area_um"]
    with stage("nucleus"):
        stored = CloudVolume(nucleus_segmentation, progress=False).mesh.get(nucleus_id)
        nucleus = trimesh.Trimesh(stored.vertices, stored.faces)
        if not nucleus.is_watertight:
            raise ValueError(f"the mesh of nucleus {nucleus_id} is open; this scene is not for the reference")
        row |= shape_of(nucleus, "nucleus_{}_um", "nuclear_area_to_volume_ratio", "nucleus_center_{}_nm")
        centred = nucleus.vertices - nucleus.center_mass
        row["nucleus_avg_radius_nm"] = float(np.linalg.norm(centred, axis=1).mean())
        small, middle, large = np.linalg.eigvalsh(np.cov(nucleus.vertices.T))
        row["nucleus_aspect_ratio"] = float(large / ((small + middle) / 2))
    with stage("folds"):
        row |= folds_of(nucleus)
    centres = [np.array([row[f"{body}_center_{axis}_nm"] for axis in "xyz"]) for body in ("soma", "nucleus")]
    row["nucleus_to_soma_ratio"] = row["nucleus_volume_um"] / row["soma_volume_um"]
    row["soma_to_nucleus_center_dist"] = float(np.linalg.norm(centres[0] - centres[1]))
    return row


def repair(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Slits filled, dilated, holes filled, eroded twice, all over the whole cutout."""
    filled = np.zeros_like(mask)
    _, ny, nz = mask.shape
    for dy in (0, 1, 2):
        for dz in (-2, -1, 0, 1, 2):
            filled[:, dy:, max(dz, 0) : nz + min(dz, 0)] |= mask[:, : ny - dy, max(-dz, 0) : nz + min(-dz, 0)]
    grown = ndimage.binary_fill_holes(ndimage.binary_dilation(filled))
    return ndimage.binary_erosion(grown, iterations=2)


def shape_of(mesh: trimesh.Trimesh, size: str, ratio: str, centre: str) -> dict[str, float]:
    """Volume, area, area to volume and centre of mass, under the names of columns."""
    radius = (3 * mesh.volume / (4 * np.pi)) ** (1 / 3)
    row = {
        size.format("volume"): float(mesh.volume) / 1e9,
        size.format("area"): float(mesh.area) / 1e6,
        ratio: float(mesh.area / mesh.volume * radius / 3),
    }
    return row | {centre.format(a): float(c) for a, c in zip("xyz", mesh.center_mass, strict=True)}


def folds_of(mesh: trimesh.Trimesh) -> dict[str, float | None]:
    """Fold features: a sphere of VTK's is laid on the nucleus."""
    vertices = mesh.vertices - mesh.vertices.mean(axis=0)
    sphere = vtk.vtkSphereSource()
    sphere.SetRadius(12_000)
    sphere.SetThetaResolution(256)
    sphere.SetPhiResolution(8)
    sphere.Update()
    wrap = vtk_to_numpy(sphere.GetOutput().GetPoints().GetData()).astype(float)
    faces = vtk_to_numpy(sphere.GetOutput().GetPolys().GetData()).reshape(-1, 4)[:, 1:]
    tree = cKDTree(vertices)
    wrap = vertices[tree.query(wrap)[1]]
    for _ in range(2):
        wrap, faces = trimesh.remesh.subdivide_to_size(wrap, faces, 1000, max_iter=20)
        wrap = vertices[tree.query(wrap)[1]]
    wrap, _ = trimesh.remesh.subdivide_to_size(wrap, faces, 300, max_iter=20)
    depth, _ = cKDTree(wrap).query(vertices)
    folded = depth > FOLD_NM
    area = mesh.area - mesh.area_faces[~folded[mesh.faces].any(axis=1)].sum()
    return {
        "nuclear_folding_area_um": float(area) / 1e6,
        "fraction_nuclear_folding": float(area / mesh.area),
        "avg_fold_depth_nm": float(depth[folded].mean()) if folded.any() else None,
    }
