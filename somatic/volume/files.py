"""The files of a Precomputed layer at one mip: which of them a box touches, and what they hold."""

import itertools
import threading
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from cloudfiles import CloudFiles
from cloudvolume import Bbox, CloudVolume, Vec
from cloudvolume.datasource.precomputed.common import compressed_morton_code

from somatic.errors import SegmentationUnavailable, typed_line
from somatic.geometry.box import Box
from somatic.volume.access import ANONYMOUS, Access
from somatic.volume.compression import decompress
from somatic.volume.file_cache import FileCache
from somatic.volume.layer import read_error
from somatic.volume.missing import RefusalCheck
from somatic.volume.refusal import Refused
from somatic.volume.shard_files import ShardFiles
from somatic.volume.sharding import ShardCheck

# Files fetched together: enough to keep the connections busy, few enough that raw ones fit in memory. A layer of
# those that a box touches is always fetched at once.
_FILES_PER_BATCH = 64
BATCH_BYTES = 16 * 2**20
# A file that is not stored raw has at most this share of the bytes of its labels.
_CODED_SHARE = 1 / 8
_CONNECTIONS = 20
_MOST_TIMES_RAW = 4
_ALWAYS_BYTES = 2**20

FileIndex = tuple[int, ...]
"""A place in the grid of files."""
Key = str | int
Contents = dict[Key, "Stored | None | Refused"]
"""Files by key; None for one that the store does not have."""


class Stored(NamedTuple):
    """A file as it travels, and how it is compressed: as HTTP names it, or empty where it is not."""

    content: bytes
    compression: str

    @classmethod
    def of(cls, kept: bytes) -> "Stored":
        """From what `to_bytes` gave."""
        compression, _, content = kept.partition(b"\n")
        return cls(content, compression.decode())

    def to_bytes(self) -> bytes:
        """Both as one, for the cache."""
        return self.compression.encode() + b"\n" + self.content


def _most_bytes(volume: CloudVolume) -> int:
    """Longest content that a voxel chunk can have in any encoding; the worst has its labels and as many tables."""
    return _MOST_TIMES_RAW * int(np.prod(volume.chunk_size)) * np.dtype(volume.dtype).itemsize + _ALWAYS_BYTES


class LayerFiles:
    """The files of a layer at one mip.

    Parameters
    ----------
    volume : CloudVolume
        Opened at the mip.
    url : str
        What the layer is called in an error.
    cache : FileCache, optional
        Where files are kept for who reads them next.
    access : Access
        As the volume was opened with.

    Attributes
    ----------
    bounds : Box
        Of the volume, in voxels of the mip.
    shape : (3,) int64
        Voxels in a file, but for those at the upper bounds.
    n_fetched, n_bytes_fetched : int
        Files that came from the store so far, and their bytes as they travel.
    """

    def __init__(
        self, volume: CloudVolume, url: str, cache: FileCache | None = None, access: Access = ANONYMOUS
    ) -> None:
        self._volume = volume
        self._url = url
        self._mip = volume.mip
        bounds = volume.bounds
        self.bounds = Box(np.array(bounds.minpt, dtype=np.int64), np.array(bounds.maxpt, dtype=np.int64))
        self.shape = np.array(volume.chunk_size, dtype=np.int64)
        self._folder = volume.meta.key(self._mip)
        self._most_bytes = _most_bytes(volume)
        # Threads hide how long an answer takes; a disk answers at once.
        on_disk = volume.meta.path.protocol == "file"
        self._store = CloudFiles(volume.meta.cloudpath, progress=False, num_threads=1 if on_disk else _CONNECTIONS)
        is_sharded = volume.image.is_sharded(self._mip)
        self._shards = ShardFiles(volume, self._store, url, cache) if is_sharded else None
        self._shard_check = ShardCheck(volume, self._mip) if is_sharded else None
        self._cache = cache
        self._one_at_a_time = threading.Lock()
        self._refusals = RefusalCheck(volume, url, access)
        self.n_fetched = self.n_bytes_fetched = 0

    @property
    def n_refused(self) -> int:
        """Files so far that the store refused and that were treated as missing."""
        return self._refusals.n_missing

    def read(self, box: Box, centre_vx: np.ndarray) -> Iterator[tuple[Box, bytes | None]]:
        """Every file that holds a part of a box inside the volume, decompressed but not decoded.

        Parameters
        ----------
        box : Box
            In voxels of the mip, inside the volume.
        centre_vx : (3,) int
            A voxel whose file the store must have, if it is inside the volume; it need not be in the box.

        Yields
        ------
        Box
            What the file holds.
        bytes or None
            None for one that is missing, or refused in a way that counts as missing (`RefusalCheck.check`).

        Raises
        ------
        SegmentationUnavailable
            A file could not be read.
        RefusedFile
            A file is refused that cannot be missing, and others are served.
        RefusedLayer
            A file is refused, and no other is served, or the layer is read with credentials.
        """
        for indices in self._batches(box):
            contents = self._contents([self._key(index) for index in indices])
            refused = {key: content for key, content in contents.items() if isinstance(content, Refused)}
            if refused:
                centre = self._key_at(centre_vx)
                by_path = {self._path(key): one for key, one in refused.items()}
                self._refusals.check(by_path, None if centre is None else self._path(centre))
                contents |= dict.fromkeys(refused)
            for index in indices:
                file_box, key = self._box(index), self._key(index)
                # Taken out, so that one batch is gone when the next is fetched.
                stored = contents.pop(key)
                assert not isinstance(stored, Refused)
                if stored is None and key not in refused:
                    self._check_shard(key, file_box)
                yield file_box, None if stored is None else self._decompress(stored, file_box)

    def fetch_into_cache(self, box: Box) -> None:
        """Have the files that hold a part of a box inside the volume in the cache, so that reading it does not wait.

        Those that the store refuses are not kept.

        Raises
        ------
        SegmentationUnavailable
            A file could not be read.
        """
        for indices in self._batches(box):
            self._contents([self._key(index) for index in indices])

    def forget(self, file_box: Box) -> None:
        """Have a file that turned out to be broken be fetched again the next time."""
        if self._cache:
            index = (file_box.lower_vx - self.bounds.lower_vx) // self.shape
            self._cache.forget(self._name(self._key(tuple(index.tolist()))))

    def _batches(self, box: Box) -> Iterator[list[FileIndex]]:
        """Grid indices of the files of a box, a few layers at once."""
        if box.n_voxels == 0:
            return
        first = (box.lower_vx - self.bounds.lower_vx) // self.shape
        last = (box.upper_vx - 1 - self.bounds.lower_vx) // self.shape
        along_x, along_y, along_z = (range(a, b + 1) for a, b in zip(first.tolist(), last.tolist(), strict=True))
        layers_per_batch = max(1, self._files_per_batch() // (len(along_x) * len(along_y)))
        for start in range(0, len(along_z), layers_per_batch):
            yield list(itertools.product(along_x, along_y, along_z[start : start + layers_per_batch]))

    def _files_per_batch(self) -> int:
        volume = self._volume
        file_bytes = int(np.prod(self.shape)) * np.dtype(volume.dtype).itemsize
        if volume.meta.encoding(self._mip) != "raw":
            file_bytes = int(file_bytes * _CODED_SHARE)
        return int(np.clip(BATCH_BYTES // max(file_bytes, 1), 1, _FILES_PER_BATCH))

    def _contents(self, keys: list[Key]) -> Contents:
        """Files, from the cache as far as it has them; it has them afterwards, but for those that were refused."""
        cache = self._cache
        if cache is None:
            return self._fetch(keys)
        contents = self._kept(cache, keys)
        missing = [key for key in keys if key not in contents]
        if missing and self._shards:
            self._load_indices(cache, missing)
        # Locks are those of the process, so that its threads must take turns.
        with self._one_at_a_time, cache.claimed(map(self._name, missing)):
            contents |= self._kept(cache, missing)
            missing = [key for key in missing if key not in contents]
            fetched = self._fetch(missing)
            for key, stored in fetched.items():
                if stored is None or (isinstance(stored, Stored) and stored.content):
                    cache.put(self._name(key), stored.to_bytes() if stored else b"")
        return contents | fetched

    def _kept(self, cache: FileCache, keys: list[Key]) -> Contents:
        kept = ((key, cache.get(self._name(key))) for key in keys)
        return {key: Stored.of(content) if content else None for key, content in kept if content is not None}

    def _fetch(self, keys: list[Key]) -> Contents:
        """Files from the store."""
        if not keys:
            return {}
        try:
            fetched = self._fetch_from_shards(keys) if self._shards else self._fetch_files(keys)
        except MemoryError:
            raise
        except Exception as error:
            raise read_error(self._url, error) from error
        served = {key: stored for key, stored in fetched.items() if isinstance(stored, Stored)}
        if served:
            self._refusals.served = self._path(next(iter(served)))
        self.n_fetched += len(served)
        self.n_bytes_fetched += sum(len(stored.content) for stored in served.values())
        return fetched

    def _fetch_files(self, keys: list[Key]) -> Contents:
        fetched: Contents = {}
        for file in self._store.get(keys, raw=True, raise_errors=False):
            error = file["error"]
            if error is not None and not (isinstance(error, Refused) and error.is_answer):
                raise error
            content = file["content"]
            fetched[file["path"]] = error or (None if content is None else Stored(content, file["compress"] or ""))
        return fetched

    def _fetch_from_shards(self, keys: list[Key]) -> Contents:
        assert self._shards is not None
        fetched: Contents = {}
        for code, content in self._shards.fetch(map(int, keys)).items():
            if isinstance(content, bytes):
                fetched[code] = Stored(content, self._shards.compression)
            elif isinstance(content, Refused) and self._shards.has_index(self._shards.path(code)):
                said = f"{content}, after its index was served"
                fetched[code] = Refused(content.key, said, content.status, "served")
            else:
                fetched[code] = content
        return fetched

    def _load_indices(self, cache: FileCache, keys: list[Key]) -> None:
        """Read the indices that voxel chunks are located by; the cache has them afterwards."""
        assert self._shards is not None
        codes = [int(key) for key in keys]
        names = {f"{self._url} {self._shards.path(code)}" for code in codes}
        with self._one_at_a_time, cache.claimed(names):
            try:
                self._shards.locate(codes)
            except MemoryError:
                raise
            except Exception as error:
                raise read_error(self._url, error) from error

    def _key_at(self, voxel: np.ndarray) -> Key | None:
        """Key of the file of a voxel; None outside the volume."""
        if Box(voxel, voxel + 1).clipped_to(self.bounds).n_voxels == 0:
            return None
        index = (voxel - self.bounds.lower_vx) // self.shape
        return self._key(tuple(index.tolist()))

    def _path(self, key: Key) -> str:
        """The file that is requested for a key: itself, or the shard that it is in."""
        return self._shards.path(int(key)) if self._shards else str(key)

    def _decompress(self, stored: Stored, file_box: Box) -> bytes:
        try:
            return decompress(stored.content, stored.compression, self._most_bytes)
        except MemoryError:
            raise
        except Exception as error:
            self.forget(file_box)
            raise self.broken(file_box, error) from error

    def _name(self, key: Key) -> str:
        return f"{self._url} {self._folder} {key}"

    def _box(self, index: FileIndex) -> Box:
        lower = self.bounds.lower_vx + np.array(index) * self.shape
        return Box(lower, np.minimum(lower + self.shape, self.bounds.upper_vx))

    def _key(self, index: FileIndex) -> Key:
        """What the file of a grid index is called in its store: a path, or in shards a number."""
        if self._shards:
            grid = np.ceil(np.array(self.bounds.shape) / self.shape).astype(np.uint32)
            return int(compressed_morton_code(np.array(index, dtype=np.uint32), grid))
        box = self._box(index)
        return f"{self._folder}/{Bbox(Vec(*box.lower_vx), Vec(*box.upper_vx)).to_filename()}"

    def _check_shard(self, key: Key, file_box: Box) -> None:
        """Make sure that a file which was not found is not one whose shard is cut short."""
        try:
            if self._shard_check:
                self._shard_check.check(int(key))
        except MemoryError:
            raise
        except Exception as error:
            raise self.broken(file_box, error) from error

    def broken(self, file_box: Box, error: Exception) -> SegmentationUnavailable:
        """What a file that does not decode means: it may be whole another time."""
        name = f"{file_box.lower_vx.tolist()} to {file_box.upper_vx.tolist()}"
        return SegmentationUnavailable(
            f"the file of voxels {name} at mip {self._mip} of {self._url} does not decode: {typed_line(error)}"
        )
