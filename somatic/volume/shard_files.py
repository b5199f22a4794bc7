"""Voxel chunks of sharded layers, fetched with few requests.

A shard file starts with an index that gives the position of the index of each of its minishards, and that gives the
position of each voxel chunk. A cutout of minnie65 requires some hundred voxel chunks from about sixteen minishards, and
most of them are neighbours in their shard file.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from cloudfiles import CloudFiles
from cloudvolume import CloudVolume
from cloudvolume.datasource.precomputed.sharding import ShardingSpecification, ShardReader

from somatic.volume.compression import decompress
from somatic.volume.file_cache import FileCache
from somatic.volume.info import LARGEST_CHUNK_BYTES
from somatic.volume.refusal import Refused

# What a connection transfers in some milliseconds, while a request takes tens of them.
_MOST_GAP_BYTES = 2**16
_MOST_SPAN_BYTES = 2**22


_LARGEST_INDEX_BYTES = 2**26


class IndexReader(ShardReader):
    """cloud-volume's reader of shards, for indices that decompress to what an index can be."""

    def __init__(self, cloudpath: str, cache: Any, spec: ShardingSpecification) -> None:
        self._encoding = "" if spec.minishard_index_encoding == "raw" else spec.minishard_index_encoding
        raw = spec.clone()
        raw.minishard_index_encoding = "raw"
        super().__init__(cloudpath, cache, raw)

    def decode_minishard_index(self, minishard_index: bytes, filename: str = "") -> np.ndarray:
        """Labels, offsets and lengths in bytes of a minishard, (n, 3) uint64."""
        content = decompress(minishard_index, self._encoding, _LARGEST_INDEX_BYTES)
        return super().decode_minishard_index(content, filename)


class ByteRange(NamedTuple):
    """Bytes of a file, the end exclusive."""

    path: str
    start: int
    end: int


class ShardFiles:
    """The shard files of a layer at one mip.

    Parameters
    ----------
    volume : CloudVolume
        Opened at the mip, which is sharded.
    store : CloudFiles
        Fetches the byte ranges.
    url : str
        What the layer is called in the cache.
    cache : FileCache, optional
        Where indices are kept for other processes.

    Attributes
    ----------
    compression : str
        Of the voxel chunks, as HTTP names it, or empty.
    n_bytes_indices : int
        Bytes of indices that came from the store so far.
    """

    def __init__(self, volume: CloudVolume, store: CloudFiles, url: str, cache: FileCache | None = None) -> None:
        self._folder = volume.meta.key(volume.mip)
        self._store, self._url, self._cache = store, url, cache
        # Of cloud-volume's own cache the reader uses download_as alone.
        self._reader = IndexReader(volume.meta.cloudpath, self, volume.image.shard_reader(volume.mip).spec)
        self._most_bytes = LARGEST_CHUNK_BYTES
        self.compression = str(self._reader.spec.data_encoding).replace("raw", "")
        self.n_bytes_indices = 0

    def path(self, code: int) -> str:
        """Path of the shard file that a voxel chunk belongs to, by its Morton code."""
        return f"{self._folder}/{self._reader.get_filename(code)}"

    def has_index(self, path: str) -> bool:
        """Whether the index of a shard file was read."""
        indices = self._reader.shard_index_cache
        return path in indices and indices[path] is not None

    def locate(self, codes: Iterable[int]) -> "dict[int, ByteRange | None | Refused]":
        """Look voxel chunks up in the indices.

        Returns
        -------
        dict
            By Morton code: where the voxel chunk is stored; None where it is not; `Refused` where the store refuses
            its index.

        Raises
        ------
        Exception
            An index could not be read, or is damaged.
        """
        by_path: dict[str, list[int]] = {}
        for code in codes:
            by_path.setdefault(self.path(code), []).append(code)
        located: dict[int, ByteRange | None | Refused] = {}
        for path, of_shard in by_path.items():
            try:
                found = self._reader.exists(of_shard, self._folder, return_byte_range=True)
            except Refused as refused:
                if not refused.is_answer:
                    raise
                located |= dict.fromkeys(of_shard, refused)
            else:
                located |= {code: at and ByteRange(path, at[1], at[1] + at[2]) for code, at in found.items()}
        return located

    def fetch(self, codes: Iterable[int]) -> dict[int, bytes | None | Refused]:
        """Fetch voxel chunks.

        Returns
        -------
        dict
            By Morton code: the content as it is stored; None where no shard file has it; `Refused` where the store
            refuses it.

        Raises
        ------
        Exception
            The store does not answer, or a shard file is damaged.
        """
        located = self.locate(codes)
        for at in located.values():
            if isinstance(at, ByteRange) and at.end - at.start > self._most_bytes:
                raise ValueError(f"the index of {at.path} claims {at.end - at.start} bytes for a voxel chunk")
        fetched = fetch_ranges(self._store, [at for at in located.values() if isinstance(at, ByteRange)])
        return {code: fetched[at] if isinstance(at, ByteRange) else at for code, at in located.items()}

    def download_as(
        self,
        requests: list[dict[str, Any]],
        progress: bool = False,  # noqa: ARG002 - cloud-volume names it
    ) -> dict[ByteRange, bytes | None]:
        """Bytes of indices that cloud-volume's reader requests, from the cache as far as it has them."""
        ranges = [ByteRange(one["path"], one["start"], one["end"]) for one in requests]
        found = self._kept(ranges)
        for one in ranges:
            if not 0 <= one.end - one.start <= _LARGEST_INDEX_BYTES:
                raise ValueError(f"the index of {one.path} claims an index of {one.end - one.start} bytes")
        missing = [one for one in ranges if one not in found]
        for one, content in fetch_ranges(self._store, missing).items():
            if isinstance(content, Refused):
                raise content
            found[one] = content
            self.n_bytes_indices += len(content or b"")
            if self._cache:
                self._cache.put(self._name(one), content or b"")
        return found

    def _kept(self, ranges: list[ByteRange]) -> dict[ByteRange, bytes | None]:
        if self._cache is None:
            return {}
        kept = ((one, self._cache.get(self._name(one))) for one in ranges)
        return {one: content or None for one, content in kept if content is not None}

    def _name(self, one: ByteRange) -> str:
        return f"{self._url} {one.path} {one.start}-{one.end}"


def fetch_ranges(store: CloudFiles, ranges: Iterable[ByteRange]) -> dict[ByteRange, bytes | None | Refused]:
    """Fetch byte ranges, those that are close to each other in one file with one request.

    Returns
    -------
    dict
        By range: its bytes; None where there is no such file; `Refused` where the store refuses it.

    Raises
    ------
    EOFError
        A file ends before a range.
    Exception
        The store does not answer.
    """
    fetched: dict[ByteRange, bytes | None | Refused] = {}
    spans = _spans(ranges)
    requests = [{"path": span.path, "start": span.start, "end": span.end} for span in spans]
    if not requests:
        return {}
    for answer in store.get(requests, raw=True, raise_errors=False):
        span, content, error = ByteRange(answer["path"], *answer["byte_range"]), answer["content"], answer["error"]
        if error is not None and not (isinstance(error, Refused) and error.is_answer):
            raise error
        if content is not None and len(content) != span.end - span.start:
            raise EOFError(f"{span.path} ends before byte {span.end}")
        for one in spans[span]:
            part = None if content is None else content[one.start - span.start : one.end - span.start]
            fetched[one] = error or part
    return fetched


def _spans(ranges: Iterable[ByteRange]) -> dict[ByteRange, list[ByteRange]]:
    """Ranges to request, each with the ranges inside it that are required."""
    spans: dict[ByteRange, list[ByteRange]] = {}
    last: ByteRange | None = None
    for one in sorted(set(ranges)):
        if last and one.path == last.path and one.start - last.end <= _MOST_GAP_BYTES:
            merged = ByteRange(one.path, last.start, max(last.end, one.end))
            if merged.end - merged.start <= _MOST_SPAN_BYTES:
                spans[merged] = [*spans.pop(last), one]
                last = merged
                continue
        spans[one] = [one]
        last = one
    return spans
