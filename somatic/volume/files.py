"""The files of a Precomputed layer at one mip: which of them a box touches, and what they hold."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from cloudvolume import Bbox, CloudVolume, Vec
from cloudvolume.datasource.precomputed.common import compressed_morton_code

from somatic.errors import SegmentationUnavailable
from somatic.volume.box import Box
from somatic.volume.layer import one_line, read_error
from somatic.volume.sharding import ShardCheck

# Files fetched together: enough to keep the connections busy, few enough that raw ones fit in memory. A layer of
# those that a box touches is always fetched at once.
_FILES_PER_BATCH = 64
BATCH_BYTES = 16 * 2**20
# A file that is not stored raw has at most this share of the bytes of its labels.
_CODED_SHARE = 1 / 8


class LayerFiles:
    """The files of a layer at one mip.

    Parameters
    ----------
    volume : CloudVolume
        Opened at the mip.
    url : str
        What the layer is called in an error.

    Attributes
    ----------
    bounds : Box
        Of the volume, in voxels of the mip.
    shape : (3,) int64
        Voxels in a file, but for those at the upper bounds.
    """

    def __init__(self, volume: CloudVolume, url: str) -> None:
        self._volume = volume
        self._url = url
        self._mip = volume.mip
        bounds = volume.bounds
        self.bounds = Box(np.array(bounds.minpt, dtype=np.int64), np.array(bounds.maxpt, dtype=np.int64))
        self.shape = np.array(volume.chunk_size, dtype=np.int64)
        self._shards = ShardCheck(volume, self._mip) if volume.image.is_sharded(self._mip) else None

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
        if box.n_voxels == 0:
            return
        first = (box.lower_vx - self.bounds.lower_vx) // self.shape
        last = (box.upper_vx - 1 - self.bounds.lower_vx) // self.shape
        n_x, n_y, n_z = (last - first + 1).tolist()
        layers_per_batch = max(1, self._files_per_batch() // (n_x * n_y))
        for start in range(0, n_z, layers_per_batch):
            lower, upper = first.copy(), last.copy()
            lower[2] = first[2] + start
            upper[2] = min(last[2], lower[2] + layers_per_batch - 1)
            contents = self._fetch(lower, upper)
            for cell in itertools.product(*(range(a, b + 1) for a, b in zip(lower, upper, strict=True))):
                file_box = self._box(np.array(cell))
                key = self._key(cell, file_box)
                # Taken out, so that one batch is gone when the next is fetched.
                content = contents.pop(key)
                if content is None and self._shards:
                    self._check_shard(key, file_box)
                yield file_box, content

    def _files_per_batch(self) -> int:
        volume = self._volume
        file_bytes = int(np.prod(self.shape)) * np.dtype(volume.dtype).itemsize
        if volume.meta.encoding(self._mip) != "raw":
            file_bytes = int(file_bytes * _CODED_SHARE)
        return int(np.clip(BATCH_BYTES // max(file_bytes, 1), 1, _FILES_PER_BATCH))

    def _fetch(self, lower: np.ndarray, upper: np.ndarray) -> dict[Any, bytes | None]:
        """Files of the grid cells `lower` to `upper` (inclusive)."""
        corner, opposite = self._box(lower).lower_vx, self._box(upper).upper_vx
        try:
            return self._volume.image.download_files(Bbox(Vec(*corner), Vec(*opposite)), self._mip)
        except MemoryError:
            raise
        except Exception as error:
            raise read_error(self._url, error) from error

    def _box(self, cell: np.ndarray) -> Box:
        lower = self.bounds.lower_vx + cell * self.shape
        return Box(lower, np.minimum(lower + self.shape, self.bounds.upper_vx))

    def _key(self, cell: tuple[int, ...], file_box: Box) -> Any:
        """Under which key `download_files` returns the file of a grid cell."""
        image = self._volume.image
        if image.is_sharded(self._mip):
            size = np.array(self.bounds.shape)
            grid = np.ceil(size / self.shape).astype(np.uint32)
            return compressed_morton_code(np.array(cell, dtype=np.uint32), grid)
        name = Bbox(Vec(*file_box.lower_vx), Vec(*file_box.upper_vx)).to_filename()
        return self._volume.meta.join(self._volume.meta.key(self._mip), name)

    def _check_shard(self, key: int, file_box: Box) -> None:
        assert self._shards
        try:
            self._shards.check(key)
        except Exception as error:
            raise self.broken(file_box, error) from error

    def broken(self, file_box: Box, error: Exception) -> SegmentationUnavailable:
        """What a file that does not decode means: it may be whole another time."""
        name = f"{file_box.lower_vx.tolist()} to {file_box.upper_vx.tolist()}"
        return SegmentationUnavailable(
            f"the file of voxels {name} at mip {self._mip} of {self._url} does not decode: {one_line(error)}"
        )
