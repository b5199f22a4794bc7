"""Soma meshes as a Neuroglancer Precomputed layer: segment id = nucleus id."""

import json

import numpy as np
import trimesh
from cloudvolume import Mesh

from somatic.cutout import Segmentation
from somatic.results.store import ResultStore

_MESHES = "mesh"


class MeshLayer:
    """A layer without voxels whose segments have meshes.

    Parameters
    ----------
    url : str
        Folder of the layer, any fsspec URL.
    """

    def __init__(self, url: str) -> None:
        self._store = ResultStore(url)

    def put_info(self, segmentation: Segmentation) -> None:
        """Write what Neuroglancer and cloud-volume must know: the bounds of the segmentation, and where meshes lie."""
        bounds = segmentation.bounds
        scale = {
            "key": "none",
            "encoding": "raw",
            "resolution": segmentation.resolution_nm.tolist(),
            "size": list(bounds.shape),
            "voxel_offset": bounds.lower_vx.tolist(),
            "chunk_sizes": [[64, 64, 64]],
        }
        info = {
            "@type": "neuroglancer_multiscale_volume",
            "type": "segmentation",
            "data_type": "uint64",
            "num_channels": 1,
            "scales": [scale],
            "mesh": _MESHES,
        }
        self._store.put("info", _json(info))
        self._store.put(f"{_MESHES}/info", _json({"@type": "neuroglancer_legacy_mesh"}))

    def put(self, nucleus_id: int, mesh: trimesh.Trimesh) -> None:
        """Store the mesh of a cell, vertices in nm (kept as float32, as the format wants)."""
        fragment = f"{nucleus_id}:0:0"
        data = Mesh(mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32), segid=nucleus_id)
        # The manifest comes last: who finds it finds the fragment that it names.
        self._store.put(f"{_MESHES}/{fragment}", data.to_precomputed())
        self._store.put(f"{_MESHES}/{nucleus_id}:0", _json({"fragments": [fragment]}))


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1).encode()
