"""Soma meshes as a layer that cloud-volume, and with it Neuroglancer, reads back."""

import json
import os
from pathlib import Path

import boto3
import numpy as np
import pytest
import trimesh
from cloudvolume import CloudVolume
from volumes import put_volume

from somatic.cutout import Segmentation
from somatic.errors import StoreError
from somatic.results.mesh_layer import MeshLayer

ID = 2**53 + 1


@pytest.fixture
def segmentation(tmp_path: Path) -> Segmentation:
    """A volume at an odd offset, with voxels that are no whole nanometres."""
    labels = np.ones((30, 20, 10), np.uint64)
    return Segmentation(put_volume(tmp_path / "seg", labels, resolution_nm=(9.7, 9.7, 45), offset_vx=(-5, 6, 700)), 0)


def readable(store_url: str, s3_endpoint: str) -> str:
    """cloud-volume's path of what was put into a folder, or into a bucket, where everybody may read it then."""
    if "://" not in store_url:
        return f"precomputed://file://{store_url}"
    if store_url.startswith("gs://"):
        return f"precomputed://{os.environ['STORAGE_EMULATOR_HOST']}/{store_url.removeprefix('gs://')}"
    bucket, prefix = store_url.removeprefix("s3://").split("/", 1)
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    for item in client.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]:
        client.put_object_acl(Bucket=bucket, Key=item["Key"], ACL="public-read")
    return f"precomputed://{s3_endpoint}/{bucket}/{prefix}"


def test_meshes_are_read_back(store_url: str, s3_endpoint: str, segmentation: Segmentation) -> None:
    """Ids beyond floats each have their own mesh, every vertex exact to float32 and every face as it was."""
    layer = MeshLayer(store_url)
    layer.put_info(segmentation)
    meshes = {
        nucleus_id: trimesh.creation.icosphere(2, 1000 + 100 * n).apply_translation((1_234_567.8, -987_654.3, 5e5))
        for n, nucleus_id in enumerate((ID, ID - 1, 2**63 - 1, 7))
    }
    for nucleus_id, mesh in meshes.items():
        layer.put(nucleus_id, mesh)

    volume = CloudVolume(readable(store_url, s3_endpoint), progress=False)
    assert volume.resolution.tolist() == pytest.approx([9.7, 9.7, 45])
    assert volume.bounds.minpt.tolist() == [-5, 6, 700]
    assert volume.bounds.maxpt.tolist() == [25, 26, 710]
    for nucleus_id, mesh in meshes.items():
        found = volume.mesh.get(nucleus_id, remove_duplicate_vertices=False)
        np.testing.assert_array_equal(found.vertices, mesh.vertices.astype(np.float32))
        np.testing.assert_array_equal(found.faces, mesh.faces)


def test_a_mesh_put_again_replaces_the_first(store_url: str, s3_endpoint: str, segmentation: Segmentation) -> None:
    """A cell that is measured again has one mesh, the last."""
    layer = MeshLayer(store_url)
    layer.put_info(segmentation)
    for radius in (3000, 2000):
        layer.put(ID, trimesh.creation.icosphere(3, radius))
    found = CloudVolume(readable(store_url, s3_endpoint), progress=False).mesh.get(ID)
    np.testing.assert_allclose(np.linalg.norm(found.vertices, axis=1), 2000, rtol=1e-6)
    assert len(found.faces) == 1280


def test_the_info_is_what_neuroglancer_wants(tmp_path: Path, segmentation: Segmentation) -> None:
    """Types and keys of the Precomputed format, by its description."""
    MeshLayer(str(tmp_path / "meshes")).put_info(segmentation)
    info = json.loads((tmp_path / "meshes" / "info").read_text())
    assert info["@type"] == "neuroglancer_multiscale_volume"
    assert (info["type"], info["data_type"], info["num_channels"]) == ("segmentation", "uint64", 1)
    (scale,) = info["scales"]
    assert set(scale) >= {"key", "size", "resolution", "voxel_offset", "chunk_sizes", "encoding"}
    assert all(isinstance(value, int) for value in [*scale["size"], *scale["voxel_offset"]])
    mesh_info = json.loads((tmp_path / "meshes" / info["mesh"] / "info").read_text())
    assert mesh_info == {"@type": "neuroglancer_legacy_mesh"}


def test_a_mesh_in_another_layer_too(store_url: str, s3_endpoint: str, segmentation: Segmentation) -> None:
    """A mesh that is copied is read back there byte for byte; one that is not there is said not to be."""
    first, second = MeshLayer(f"{store_url}/first"), MeshLayer(f"{store_url}/second")
    second.put_info(segmentation)
    mesh = trimesh.creation.icosphere(2, 1000).apply_translation((1_234_567.8, -987_654.3, 5e5))
    first.put(ID, mesh)
    first.copy(ID, second)
    volume = CloudVolume(readable(f"{store_url}/second", s3_endpoint), progress=False)
    found = volume.mesh.get(ID)
    # cloud-volume sorts the vertices.
    stored = mesh.vertices.astype(np.float32)
    assert np.array_equal(np.unique(found.vertices, axis=0), np.unique(stored, axis=0))
    again = second.get(ID)
    assert np.array_equal(again.vertices, stored)
    assert np.array_equal(again.faces, mesh.faces)
    with pytest.raises(StoreError, match="no such file|cannot copy|cannot read"):
        first.copy(ID - 1, second)
    with pytest.raises(StoreError, match="cannot read"):
        first.get(ID - 1)
