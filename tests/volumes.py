"""Small Precomputed layers for tests, written by cloud-volume, and phantoms whose size is known without code."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import DracoPy
import numpy as np
import trimesh
from cloudfiles import CloudFiles
from cloudvolume import Bbox, CloudVolume, Mesh
from cloudvolume.datasource.precomputed.mesh.multilod import MultiLevelPrecomputedMeshManifest
from cloudvolume.datasource.precomputed.sharding import ShardingSpecification


def put_volume(
    folder: Path,
    labels: np.ndarray,
    *,
    resolution_nm: Sequence[float] = (256, 256, 200),
    offset_vx: Sequence[int] = (0, 0, 0),
    file_shape: Sequence[int] = (32, 32, 16),
    encoding: str = "raw",
    gzip: bool = False,
    layer_type: str = "segmentation",
    mesh: str | None = None,
) -> str:
    """Write labels, (nx, ny, nz), as an unsharded layer and return its URL; files without labels are left out."""
    info = _info(labels, resolution_nm, offset_vx, file_shape, encoding, layer_type, mesh)
    volume = CloudVolume(
        _url(folder), info=info, compress="gzip" if gzip else False, delete_black_uploads=True, progress=False
    )
    volume.commit_info()
    volume[:] = labels[..., np.newaxis]
    return f"precomputed://{_url(folder)}"


def put_sharded_volume(
    folder: Path,
    labels: np.ndarray,
    *,
    resolution_nm: Sequence[float] = (256, 256, 200),
    offset_vx: Sequence[int] = (0, 0, 0),
    file_shape: Sequence[int] = (16, 16, 16),
    encoding: str = "compressed_segmentation",
    data_encoding: str = "gzip",
    index_encoding: str = "gzip",
    preshift_bits: int = 1,
    minishard_bits: int = 2,
) -> str:
    """Write labels as a sharded layer and return its URL; empty chunks are left out.

    Shard files have 2 x 2 x 2 chunks, or as many as the two numbers of bits say.
    """
    info = _info(labels, resolution_nm, offset_vx, file_shape, encoding, "segmentation", None)
    info["scales"][0]["sharding"] = {
        "@type": "neuroglancer_uint64_sharded_v1",
        "hash": "identity",
        "preshift_bits": preshift_bits,
        "minishard_bits": minishard_bits,
        "shard_bits": 20,
        "minishard_index_encoding": index_encoding,
        "data_encoding": data_encoding,
    }
    volume = CloudVolume(_url(folder), info=info, delete_black_uploads=True, progress=False)
    volume.commit_info()
    files = CloudFiles(_url(folder))
    shard_shape = np.array(volume.image.shard_shape(0), dtype=int)
    for corner in np.ndindex(*(-(-np.array(labels.shape) // shard_shape))):
        lower = np.array(corner) * shard_shape
        upper = np.minimum(lower + shard_shape, labels.shape)
        part = labels[lower[0] : upper[0], lower[1] : upper[1], lower[2] : upper[2], np.newaxis]
        if part.any():
            name, shard = volume.image.make_shard(part, Bbox(lower + offset_vx, upper + offset_vx), mip=0)
            files.put(f"{volume.key}/{name}", shard, compress=None, cache_control="no-cache")
    return f"precomputed://{_url(folder)}"


def put_nuclei(
    folder: Path,
    meshes: Mapping[int, Sequence[trimesh.Trimesh]],
    *,
    lower_nm: Sequence[float] = (-100_000, -100_000, -100_000),
    upper_nm: Sequence[float] = (100_000, 100_000, 100_000),
    resolution_nm: Sequence[float] = (1000, 1000, 1000),
) -> str:
    """Write a nucleus layer with legacy meshes, one fragment for each mesh of a nucleus, and return its URL."""
    lower = np.array(lower_nm) / resolution_nm
    size = np.array(upper_nm) / resolution_nm - lower
    info = _info(
        np.empty(size.astype(int), np.uint8), resolution_nm, lower.astype(int), (64, 64, 64), "raw", mesh="mesh"
    )
    info["data_type"] = "uint64"
    CloudVolume(_url(folder), info=info, progress=False).commit_info()
    files = CloudFiles(_url(folder))
    files.put_json("mesh/info", {"@type": "neuroglancer_legacy_mesh"})
    for nucleus_id, fragments in meshes.items():
        names = [f"{nucleus_id}:0:{n}" for n in range(len(fragments))]
        for name, fragment in zip(names, fragments, strict=True):
            data = Mesh(fragment.vertices.astype(np.float32), fragment.faces.astype(np.uint32)).to_precomputed()
            files.put(f"mesh/{name}", data, compress="gzip")
        files.put_json(f"mesh/{nucleus_id}:0", {"fragments": names})
    return f"precomputed://{_url(folder)}"


def put_multilod_nuclei(folder: Path, nucleus_id: int, mesh: trimesh.Trimesh, *, sharded: bool) -> str:
    """Write a nucleus layer with one multi-resolution mesh around the origin, and return its URL.

    The mesh has one level of detail in 2 x 2 x 2 fragments, as igneous cuts them; it must reach less than 10 um.
    """
    put_nuclei(folder, {})
    half_nm, bits = 10_000.0, 16
    fragments, positions = [], []
    for z, y, x in np.ndindex(2, 2, 2):
        piece = mesh
        for axis, upper in enumerate((x, y, z)):
            piece = cut_by_plane(piece, np.eye(3)[axis] * (1 if upper else -1), np.zeros(3))
        lower_nm = np.array([x, y, z]) * half_nm - half_nm
        stored = np.rint((piece.vertices - lower_nm) / half_nm * (2**bits - 1))
        fragments.append(
            DracoPy.encode(
                stored.astype(np.float32),
                piece.faces.astype(np.uint32),
                quantization_bits=bits,
                quantization_range=2**bits - 1,
                quantization_origin=np.zeros(3),
                preserve_order=True,
            )
        )
        positions.append((x, y, z))
    manifest = MultiLevelPrecomputedMeshManifest(
        nucleus_id,
        chunk_shape=[half_nm] * 3,
        grid_origin=[-half_nm] * 3,
        num_lods=1,
        lod_scales=[1],
        vertex_offsets=[[0, 0, 0]],
        num_fragments_per_lod=[len(fragments)],
        fragment_positions=[positions],
        fragment_offsets=[len(fragment) for fragment in fragments],
    ).to_binary()
    data = b"".join(fragments)
    info = {
        "@type": "neuroglancer_multilod_draco",
        "vertex_quantization_bits": bits,
        "lod_scale_multiplier": 1,
        "transform": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0],
    }
    files = CloudFiles(_url(folder))
    if sharded:
        spec = ShardingSpecification("neuroglancer_uint64_sharded_v1", 0, "murmurhash3_x86_128", 1, 0, "gzip", "raw")
        info["sharding"] = spec.to_dict()
        # The manifest follows the fragments; the shard's index points at it alone.
        shards = spec.synthesize_shards({nucleus_id: data + manifest}, data_offset={nucleus_id: len(manifest)})
        for name, shard in shards.items():
            files.put(f"mesh/{name}", shard, compress=None)
    else:
        files.put(f"mesh/{nucleus_id}", data, compress=None)
        files.put(f"mesh/{nucleus_id}.index", manifest, compress=None)
    files.put_json("mesh/info", info)
    return f"precomputed://{_url(folder)}"


def cut_by_plane(mesh: trimesh.Trimesh, normal: Sequence[float], origin_nm: Sequence[float]) -> trimesh.Trimesh:
    """The part of a mesh on the side of a plane that its normal points to, open where it was cut."""
    vertices, faces, _ = trimesh.intersections.slice_faces_plane(
        mesh.vertices, mesh.faces, np.asarray(normal, float), np.asarray(origin_nm, float)
    )
    return trimesh.Trimesh(vertices, faces)


def ellipsoid(
    shape: Sequence[int],
    resolution_nm: Sequence[float],
    semi_axes_nm: Sequence[float],
    centre_nm: Sequence[float] | None = None,
) -> np.ndarray:
    """Voxels whose centres, at whole multiples of the resolution, lie in an ellipsoid; (nx, ny, nz) bool."""
    if centre_nm is None:
        centre_nm = [(n // 2) * r for n, r in zip(shape, resolution_nm, strict=True)]
    axes = [
        (np.arange(n) * r - c) / a for n, r, c, a in zip(shape, resolution_nm, centre_nm, semi_axes_nm, strict=True)
    ]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    return x**2 + y**2 + z**2 <= 1


def _info(
    labels: np.ndarray,
    resolution_nm: Sequence[float],
    offset_vx: Sequence[int],
    file_shape: Sequence[int],
    encoding: str,
    layer_type: str = "segmentation",
    mesh: str | None = None,
) -> dict:
    info = CloudVolume.create_new_info(
        num_channels=1,
        layer_type=layer_type,
        data_type=labels.dtype.name,
        encoding=encoding,
        resolution=list(resolution_nm),
        voxel_offset=[int(v) for v in offset_vx],
        volume_size=list(labels.shape),
        chunk_size=list(file_shape),
        mesh=mesh,
    )
    return json.loads(json.dumps(info, default=float))


def _url(folder: Path) -> str:
    return f"file://{folder}"
