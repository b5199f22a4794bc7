"""The files of one mesh in the mesh layer of a Precomputed segmentation, in each form that such a layer may have."""

import gzip
import json
import struct
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import requests
from cloudfiles import CloudFiles
from cloudfiles.compression import decompress
from cloudfiles.exceptions import DecompressionError
from cloudvolume import CloudVolume, Mesh
from cloudvolume.datasource.precomputed.mesh.common import apply_transform
from cloudvolume.datasource.precomputed.mesh.multilod import (
    MultiLevelPrecomputedMeshManifest,
    ShardedMultiLevelPrecomputedMeshSource,
    UnshardedMultiLevelPrecomputedMeshSource,
    extract_lod_meshes,
)
from cloudvolume.exceptions import DecodingError, EmptyFileException, SpecViolation

from somatic.errors import (
    BrokenNucleusMesh,
    MissingNucleusMesh,
    RefusedFile,
    RefusedLayer,
    SomaticError,
    one_line,
    typed_line,
)
from somatic.volume.access import ANONYMOUS, Access
from somatic.volume.layer import is_served, read_error
from somatic.volume.refusal import Refused

_FINEST = 0
"""Level of detail."""
_DAMAGE = (ValueError, LookupError, TypeError, OverflowError, EOFError, struct.error, zlib.error, gzip.BadGzipFile)
_DAMAGE += (SpecViolation, DecodingError, EmptyFileException, DecompressionError)
"""What decoding the index of a shard raises where it is cut or is something else."""


def read_mesh(
    volume: CloudVolume, url: str, nucleus_id: int, access: Access = ANONYMOUS
) -> tuple[np.ndarray, np.ndarray]:
    """Read the mesh of a nucleus, all its fragments in one.

    Parameters
    ----------
    volume : CloudVolume
        The layer, with meshes.
    url : str
        What it is called in an error.
    nucleus_id : int
    access : Access
        How it was opened.

    Returns
    -------
    vertices : (n, 3) float
        In nm, as they are stored; fragments share none.
    faces : (m, 3) int64

    Raises
    ------
    MissingNucleusMesh
        The layer has none for this id, or one without faces; or its store refuses it with status 403, as long as the
        layer is read anonymously and its info file is served.
    BrokenNucleusMesh
        A file that the mesh names is missing, or one does not decode.
    RefusedFile
        A part of the mesh is refused, though there is one.
    RefusedLayer
        The layer is no longer served.
    SegmentationUnavailable
        A file could not be read.
    """
    source = volume.mesh
    files = _Files(volume, url, nucleus_id, access)
    if isinstance(source, UnshardedMultiLevelPrecomputedMeshSource | ShardedMultiLevelPrecomputedMeshSource):
        fragments = _draco_fragments(source, files)
    else:
        fragments = _legacy_fragments(source, files)
    fragments = [fragment for fragment in fragments if len(fragment.faces)]
    for fragment in fragments:
        if int(fragment.faces.max()) >= len(fragment.vertices):
            raise files.broken(f"a face has vertex {fragment.faces.max()} of {len(fragment.vertices)}")
    if not fragments:
        raise MissingNucleusMesh(f"the mesh of nucleus {nucleus_id} has no faces")
    n_before = np.cumsum([0, *(len(fragment.vertices) for fragment in fragments)])
    faces = [fragment.faces.astype(np.int64) + n for fragment, n in zip(fragments, n_before, strict=False)]
    return np.concatenate([fragment.vertices for fragment in fragments]), np.concatenate(faces)


class _Files:
    """Files below the mesh folder of a layer, for the mesh of one nucleus."""

    def __init__(self, volume: CloudVolume, url: str, nucleus_id: int, access: Access) -> None:
        self.nucleus_id = nucleus_id
        self.has_manifest = False
        self._volume, self._url, self._access = volume, url, access
        self._folder = volume.mesh.meta.mesh_path
        self._store = CloudFiles(volume.meta.cloudpath, progress=False, secrets=volume.config.secrets)

    def read(self, names: Iterable[str]) -> dict[str, bytes | None]:
        """Files, decompressed; None for one that does not exist."""
        paths = {f"{self._folder}/{name}": name for name in names}
        try:
            found = self._store.get(list(paths), raw=True)
        except MemoryError:
            raise
        except Exception as error:
            raise self.unread(error) from error
        return {paths[file["path"]]: self._decompressed(file, paths[file["path"]]) for file in found}

    def read_part(self, path: str, start: int, n_bytes: int) -> bytes:
        """A part of a file, which must be as long as that."""
        try:
            found = self._store.get([{"path": path, "start": start, "end": start + n_bytes}])[0]["content"]
        except MemoryError:
            raise
        except Exception as error:
            raise self.unread(error) from error
        if found is None:
            raise self.broken(f"{path} does not exist")
        if len(found) < n_bytes:
            raise self.broken(f"{path} is cut short: {start + len(found)} of at least {start + n_bytes} bytes")
        return found

    def path(self, name: str) -> str:
        """Path of a file below the layer."""
        return f"{self._folder}/{name}"

    def missing(self) -> MissingNucleusMesh:
        """The error for a nucleus without a mesh."""
        return MissingNucleusMesh(f"the nucleus segmentation has no mesh of nucleus {self.nucleus_id}")

    def unread(self, error: Exception) -> SomaticError:
        """The error for a file that could not be read."""
        if not isinstance(error, Refused):
            return read_error(self._url, error)
        try:
            serves = is_served(self._volume, "info")
        except MemoryError:
            raise
        except Exception as other:
            return read_error(self._url, other)
        if self._access.credentials or not serves or not error.is_answer:
            return RefusedLayer(f"reading the mesh of nucleus {self.nucleus_id} in {self._url} failed: {error}")
        if self.has_manifest or not error.may_be_missing:
            return RefusedFile(f"the mesh of nucleus {self.nucleus_id} cannot be read: {error} for {error.key}")
        return MissingNucleusMesh(
            f"the nucleus segmentation has no mesh of nucleus {self.nucleus_id}, or does not serve it ({error})"
        )

    def broken(self, reason: str) -> BrokenNucleusMesh:
        """The error for a mesh whose files are damaged."""
        return BrokenNucleusMesh(f"the mesh of nucleus {self.nucleus_id} is damaged: {one_line(reason)}")

    def _decompressed(self, file: dict[str, Any], name: str) -> bytes | None:
        if file["content"] is None:
            return None
        try:
            return decompress(file["content"], file["compress"])
        except MemoryError:
            raise
        except Exception as error:
            raise self.broken(f"{name} does not decompress ({type(error).__name__})") from error


def _legacy_fragments(source: Any, files: _Files) -> list[Mesh]:
    manifest_name = f"{files.nucleus_id}:0"
    manifest = files.read([manifest_name])[manifest_name]
    if manifest is None:
        raise files.missing()
    files.has_manifest = True
    try:
        names = json.loads(manifest)["fragments"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise files.broken(f"{manifest_name} is not a manifest ({type(error).__name__})") from error
    if not isinstance(names, list) or not all(isinstance(name, str) and _is_below(name) for name in names):
        raise files.broken(f"{manifest_name} must name its fragments, files of the same folder")
    fragments = []
    # cloud-volume decodes them in this order, on which that of the faces depends.
    for name, content in sorted(files.read(dict.fromkeys(names)).items()) if names else []:
        if content is None:
            raise files.broken(f"its fragment {name} does not exist")
        try:
            fragment = Mesh.from_precomputed(content)
        except MemoryError:
            raise
        except Exception as error:
            raise files.broken(f"its fragment {name} of {len(content)} bytes does not decode") from error
        fragment.vertices = apply_transform(fragment.vertices, source.transform)
        fragments.append(fragment)
    return fragments


def _draco_fragments(source: Any, files: _Files) -> list[Mesh]:
    is_sharded = isinstance(source, ShardedMultiLevelPrecomputedMeshSource)
    manifest, path = _sharded_manifest(source, files) if is_sharded else _manifest(files)
    files.has_manifest = True
    try:
        sizes = [int(np.sum(of_level, dtype=np.int64)) for of_level in manifest.fragment_offsets]
        # In a shard the fragments of all levels come before their manifest.
        start = manifest.shard_offset - sum(sizes) if is_sharded else 0
        n_bytes = sizes[_FINEST]
    except (ValueError, LookupError) as error:
        raise files.broken("its manifest has no level of detail") from error
    if start < 0:
        raise files.broken("its manifest names more bytes than its shard has")
    content = files.read_part(path, start, n_bytes) if n_bytes else b""
    try:
        fragments = extract_lod_meshes(
            manifest, _FINEST, content, source.vertex_quantization_bits, source.transform
        ).get(manifest.segment_id, [])
    except MemoryError:
        raise
    except Exception as error:
        raise files.broken(f"a fragment does not decode ({one_line(error)})") from error
    return fragments


def _manifest(files: _Files) -> tuple[MultiLevelPrecomputedMeshManifest, str]:
    name = f"{files.nucleus_id}.index"
    content = files.read([name])[name]
    if content is None:
        raise files.missing()
    return _decoded_manifest(content, files), files.path(str(files.nucleus_id))


def _sharded_manifest(source: Any, files: _Files) -> tuple[MultiLevelPrecomputedMeshManifest, str]:
    """The manifest of a sharded mesh, and the path of its shard."""
    try:
        place = source.reader.exists(files.nucleus_id, source.path, return_byte_range=True)
        content = None if place is None else source.reader.get_data(files.nucleus_id, source.path)
    except MemoryError:
        raise
    except _DAMAGE as error:
        if isinstance(error, requests.RequestException):  # some are ValueErrors too
            raise files.unread(error) from error
        raise files.broken(f"its shard does not decode ({typed_line(error)})") from error
    except Exception as error:
        raise files.unread(error) from error
    if place is None or content is None:
        raise files.missing()
    path, shard_offset, _ = place
    return _decoded_manifest(content, files, shard_offset), path


def _decoded_manifest(content: bytes, files: _Files, shard_offset: int = 0) -> MultiLevelPrecomputedMeshManifest:
    try:
        return MultiLevelPrecomputedMeshManifest.from_binary(content, files.nucleus_id, shard_offset)
    except MemoryError:
        raise
    except Exception as error:
        raise files.broken(f"its manifest of {len(content)} bytes does not decode") from error


def _is_below(name: str) -> bool:
    """Whether a file name stays in its folder."""
    return bool(name) and not name.startswith("/") and ".." not in name.split("/") and "://" not in name
