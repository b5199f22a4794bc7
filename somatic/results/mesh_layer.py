"""Soma meshes as a Neuroglancer Precomputed layer: segment id = nucleus id."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import trimesh
from cloudvolume import Mesh

from somatic.cutout import Segmentation
from somatic.errors import StoreError, one_line
from somatic.storage.json_object import object_from_json
from somatic.storage.store import ResultStore

_INFO = "info"
_MESHES = "mesh"
_PROPERTIES = "segment_properties"


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
        """Write what Neuroglancer and cloud-volume must know: the bounds of the segmentation, and where meshes lie.

        Raises
        ------
        StoreError, StoreUnavailable
            They were not written, for good or for now.
        """
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
        self._store.put(_INFO, _json(info))
        self._store.put(f"{_MESHES}/info", _json({"@type": "neuroglancer_legacy_mesh"}))

    def put_properties(self, properties: Mapping[str, Any]) -> None:
        """Write segment properties of the layer (`somatic.results.segment_properties`) and say in its info where.

        Raises
        ------
        StoreError, StoreUnavailable
            The layer has no info, or a file was not written, for good or for now.
        """
        # A viewer that finds them named in the info must find them.
        self._store.put(f"{_PROPERTIES}/info", json.dumps(properties, separators=(",", ":"), allow_nan=False).encode())
        what = "info of a layer; delete it and run again"
        info = object_from_json(self._store.get(_INFO), self._store.url_of(_INFO), what)
        self._store.put(_INFO, _json(info | {"segment_properties": _PROPERTIES}))

    def put(self, nucleus_id: int, mesh: trimesh.Trimesh) -> None:
        """Store the mesh of a cell, vertices in nm (kept as float32, as the format wants).

        Raises
        ------
        StoreError, StoreUnavailable
            It was not stored, for good or for now.
        """
        data = Mesh(mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32), segid=nucleus_id)
        # The manifest comes last: who finds it finds the fragment that it names.
        fragment = _fragment(nucleus_id)
        self._store.put(fragment, data.to_precomputed())
        self._store.put(_manifest(nucleus_id), _json({"fragments": [fragment.removeprefix(f"{_MESHES}/")]}))

    def get(self, nucleus_id: int) -> trimesh.Trimesh:
        """Mesh of a cell as it is stored, vertices in nm.

        Raises
        ------
        StoreError, StoreUnavailable
            There is none, it is damaged, or it could not be read, for good or for now.
        """
        name = _fragment(nucleus_id)
        data = self._store.get(name)
        try:
            mesh = Mesh.from_precomputed(data)
            if len(mesh.faces) and mesh.faces.max() >= len(mesh.vertices):
                raise ValueError("faces name vertices that it does not have")
        except Exception as error:
            # cloud-volume raises whatever comes of reading past the end of damaged bytes.
            raise StoreError(f"{self._store.url_of(name)} is not a whole mesh ({one_line(error)})") from error
        return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)

    def copy(self, nucleus_id: int, other: "MeshLayer") -> None:
        """Store the mesh of a cell in another layer too, within the bucket where both lie in one.

        Raises
        ------
        StoreError, StoreUnavailable
            There is none, or it could not be stored, for good or for now.
        """
        for name in (_fragment(nucleus_id), _manifest(nucleus_id)):
            self._store.copy(name, other._store)


def _fragment(nucleus_id: int) -> str:
    return f"{_MESHES}/{nucleus_id}:0:0"


def _manifest(nucleus_id: int) -> str:
    return f"{_MESHES}/{nucleus_id}:0"


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1).encode()
