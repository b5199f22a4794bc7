"""The files of a Precomputed layer at one mip: which of them a box touches, and what they hold."""

import itertools
import threading
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from cloudfiles import CloudFiles
from cloudfiles.compression import decompress
from cloudvolume import Bbox, CloudVolume, Vec
from cloudvolume.datasource.precomputed.common import compressed_morton_code

from somatic.errors import SegmentationUnavailable, typed_line
from somatic.geometry.box import Box
from somatic.volume.file_cache import FileCache
from somatic.volume.layer import read_error
from somatic.volume.sharding import ShardCheck

# Files fetched together: enough to keep the connections busy, few enough that raw ones fit in memory. A layer of
# those that a box touches is always fetched at once.
_FILES_PER_BATCH = 64
BATCH_BYTES = 16 * 2**20
# A file that is not stored raw has at most this share of the bytes of its labels.
_CODED_SHARE = 1 / 8
_CONNECTIONS = 20

FileIndex = tuple[int, ...]
"""A place in the grid of files."""
Key = str | int


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

    Attributes
    ----------
    bounds : Box
        Of the volume, in voxels of the mip.
    shape : (3,) int64
        Voxels in a file, but for those at the upper bounds.
    n_fetched, n_bytes_fetched : int
        Files that came from the store so far, and their bytes as they travel.
    """

    def __init__(self, volume: CloudVolume, url: str, cache: FileCache | None = None) -> None:
        self._volume = volume
        self._url = url
        self._mip = volume.mip
        bounds = volume.bounds
        self.bounds = Box(np.array(bounds.minpt, dtype=np.int64), np.array(bounds.maxpt, dtype=np.int64))
        self.shape = np.array(volume.chunk_size, dtype=np.int64)
        self._folder = volume.meta.key(self._mip)
        self._reader = volume.image.shard_reader(self._mip) if volume.image.is_sharded(self._mip) else None
        self._shards = ShardCheck(volume, self._mip) if self._reader else None
        # Threads hide how long an answer takes; a disk answers at once.
        on_disk = volume.meta.path.protocol == "file"
        self._store = CloudFiles(volume.meta.cloudpath, progress=False, num_threads=1 if on_disk else _CONNECTIONS)
        self._cache = cache
        self._one_at_a_time = threading.Lock()
        self.n_fetched = self.n_bytes_fetched = 0

    def read(self, box: Box) -> Iterator[tuple[Box, bytes | None]]:
        """Every file that holds a part of a box inside the volume, decompressed but not decoded.

        Yields
        ------
        Box
            What the file holds.
        bytes or None
            None for one that the store does not have.

        Raises
        ------
        SegmentationUnavailable
            A file could not be read.
        """
        for indices in self._batches(box):
            contents = self._contents([self._key(index) for index in indices])
            for index in indices:
                file_box, key = self._box(index), self._key(index)
                # Taken out, so that one batch is gone when the next is fetched.
                stored = contents.pop(key)
                if stored is None:
                    self._check_shard(key, file_box)
                yield file_box, None if stored is None else self._decompress(stored, file_box)

    def fetch_into_cache(self, box: Box) -> None:
        """Have the files that hold a part of a box inside the volume in the cache, so that reading it does not wait.

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

    def _contents(self, keys: list[Key]) -> dict[Key, Stored | None]:
        """Files, from the cache as far as it has them; it has them afterwards."""
        cache = self._cache
        if cache is None:
            return self._fetch(keys)
        contents = self._kept(cache, keys)
        missing = [key for key in keys if key not in contents]
        # Locks are those of the process, so that its threads must take turns.
        with self._one_at_a_time, cache.claimed(map(self._name, missing)):
            contents |= self._kept(cache, missing)
            missing = [key for key in missing if key not in contents]
            fetched = self._fetch(missing)
            for key, stored in fetched.items():
                if stored is None or stored.content:
                    cache.put(self._name(key), stored.to_bytes() if stored else b"")
        return contents | fetched

    def _kept(self, cache: FileCache, keys: list[Key]) -> dict[Key, Stored | None]:
        kept = ((key, cache.get(self._name(key))) for key in keys)
        return {key: Stored.of(content) if content else None for key, content in kept if content is not None}

    def _fetch(self, keys: list[Key]) -> dict[Key, Stored | None]:
        """Files from the store; None for one that it does not have."""
        if not keys:
            return {}
        try:
            if self._reader:
                compression = str(self._reader.spec.data_encoding).replace("raw", "")
                contents = self._reader.get_data(keys, self._folder, progress=False, raw=True)
                fetched = {key: _stored(content, compression) for key, content in contents.items()}
            else:
                files = self._store.get(keys, raw=True)
                fetched = {file["path"]: _stored(file["content"], file["compress"] or "") for file in files}
        except MemoryError:
            raise
        except Exception as error:
            raise read_error(self._url, error) from error
        sizes = [len(stored.content) for stored in fetched.values() if stored]
        self.n_fetched += len(sizes)
        self.n_bytes_fetched += sum(sizes)
        return fetched

    def _decompress(self, stored: Stored, file_box: Box) -> bytes:
        try:
            return decompress(stored.content, stored.compression)
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
        if self._reader:
            grid = np.ceil(np.array(self.bounds.shape) / self.shape).astype(np.uint32)
            return int(compressed_morton_code(np.array(index, dtype=np.uint32), grid))
        box = self._box(index)
        return f"{self._folder}/{Bbox(Vec(*box.lower_vx), Vec(*box.upper_vx)).to_filename()}"

    def _check_shard(self, key: Key, file_box: Box) -> None:
        """Make sure that a file which was not found is not one whose shard is cut short."""
        try:
            if self._shards:
                self._shards.check(int(key))
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


def _stored(content: bytes | None, compression: str) -> Stored | None:
    return None if content is None else Stored(content, compression)
