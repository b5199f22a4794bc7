"""The layers of the phantom as Neuroglancer Precomputed, through cloud-volume."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from cloudvolume import CloudVolume
from cloudvolume.mesh import Mesh
from numpy.typing import NDArray
from zmesh import Mesher

from sandbox.phantom.cells import NucleusMask
from sandbox.phantom.layout import VOXEL_OFFSET, VOXEL_SIZE_NM

CHUNK = (128, 128, 32)


def layer_url(folder: Path) -> str:
    """Cloudpath of a layer on this machine."""
    return f"precomputed://file://{folder.resolve()}"


def create_layer(folder: Path, data_type: str, shape: NDArray[np.int64], mesh: str | None = None) -> None:
    """Write the info of a segmentation of one mip with the phantom's voxels and offset.

    Parameters
    ----------
    folder : Path
    data_type : str
        uint32 or uint64.
    shape : (3,) int
        Size in voxels.
    mesh : str, optional
        Directory of legacy meshes within the layer.
    """
    info = CloudVolume.create_new_info(
        num_channels=1,
        layer_type="segmentation",
        data_type=data_type,
        encoding="compressed_segmentation",
        resolution=VOXEL_SIZE_NM,
        voxel_offset=VOXEL_OFFSET,
        volume_size=shape.tolist(),
        chunk_size=CHUNK,
        mesh=mesh,
    )
    layer = CloudVolume(layer_url(folder), info=info)
    layer.commit_info()
    if mesh:
        layer.mesh.meta.commit_info()


def write_labels(folder: Path, labels: NDArray[np.unsignedinteger], lower_vx: NDArray[np.int64]) -> None:
    """Write labels of a box of voxels that whole files cover; files of background only are left out.

    Parameters
    ----------
    folder : Path
        Of a layer that `create_layer` made.
    labels : (nx, ny, nz) uint32 or uint64
        Best in Fortran order.
    lower_vx : (3,) int
        Lower corner of the box, from the lower corner of the volume.
    """
    layer = CloudVolume(layer_url(folder), compress="gzip", compress_level=6, delete_black_uploads=True)
    lower = lower_vx + VOXEL_OFFSET
    layer[tuple(slice(int(a), int(a) + n) for a, n in zip(lower, labels.shape, strict=True))] = labels


def write_meshes(folder: Path, nuclei: Iterable[tuple[int, NucleusMask]]) -> None:
    """Mesh nuclei and put them into the layer's mesh directory.

    Parameters
    ----------
    folder : Path
        Of a layer that `create_layer` made with a mesh directory.
    nuclei : iterable of (int, NucleusMask)
        Segment ids and voxels.
    """
    layer = CloudVolume(layer_url(folder))
    layer.mesh.put([nucleus_mesh(segment_id, nucleus) for segment_id, nucleus in nuclei], skip_delete=True)


def nucleus_mesh(segment_id: int, nucleus: NucleusMask) -> Mesh:
    """Closed mesh of a nucleus; vertices in nm, where voxel i reaches from i to i + 1 voxel sizes."""
    mesher = Mesher(VOXEL_SIZE_NM)
    mesher.mesh(np.pad(nucleus.mask, 1).astype(np.uint8))
    mesh = mesher.get(1, voxel_centered=True)
    lower_nm = (nucleus.lower_vx - 1 + VOXEL_OFFSET) * np.array(VOXEL_SIZE_NM)
    vertices = (mesh.vertices + lower_nm).astype(np.float32)
    return Mesh(vertices, mesh.faces.astype(np.uint32), segid=segment_id)
