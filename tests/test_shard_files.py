"""Voxel chunks of shard files: few requests, and each index fetched once."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cloudfiles import CloudFiles
from file_server import FileServer
from hypothesis import given, settings
from hypothesis import strategies as st
from volumes import put_sharded_volume

from somatic.cutout import Segmentation
from somatic.geometry.box import Box
from somatic.volume.file_cache import FileCache
from somatic.volume.layer import open_layer
from somatic.volume.shard_files import ByteRange, ShardFiles, fetch_ranges

CONTENT = np.random.default_rng(7).bytes(400_000)
# In chunks of 8 x 8 x 8 voxels there are 8 x 8 x 8 of them, in 8 shard files.
LABELS = np.random.default_rng(8).integers(1, 5, (64, 64, 64)).astype(np.uint64)
OFFSET_VX = np.array([40, -24, 8])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileServer]:
    """A sharded layer, and a file of random bytes, over HTTP."""
    folder = tmp_path_factory.mktemp("sharded")
    put_sharded_volume(
        folder / "seg", LABELS, offset_vx=OFFSET_VX, file_shape=(8, 8, 8), preshift_bits=3, minishard_bits=3
    )
    (folder / "content").write_bytes(CONTENT)
    with FileServer(folder) as server:
        yield server


def _fetched(server: FileServer, ranges: list[ByteRange]) -> tuple[dict, int]:
    store = CloudFiles(server.url().removeprefix("precomputed://"), progress=False)
    server.asked.clear()
    return fetch_ranges(store, ranges), len(server.asked)


def test_close_ranges_are_one_request(server: FileServer) -> None:
    """Neighbours and ranges with a small gap come with one request; one far away with a second."""
    ranges = [ByteRange("content", 100, 900), ByteRange("content", 900, 1000), ByteRange("content", 3000, 3001)]
    far = ByteRange("content", 300_000, 300_010)
    found, n_requests = _fetched(server, [*ranges, far])
    assert n_requests == 2
    assert found == {one: CONTENT[one.start : one.end] for one in [*ranges, far]}


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 390_000), st.integers(1, 10_000)), max_size=12))
def test_any_ranges_are_as_stored(server: FileServer, places: list[tuple[int, int]]) -> None:
    """Ranges that overlap, repeat or contain each other hold the bytes of the file."""
    ranges = [ByteRange("content", start, start + length) for start, length in places]
    found, n_requests = _fetched(server, ranges)
    assert found == {one: CONTENT[one.start : one.end] for one in ranges}
    assert n_requests <= len(set(ranges))


def test_a_file_that_does_not_exist_has_no_bytes(server: FileServer) -> None:
    """Each range of it is None."""
    ranges = [ByteRange("nothing", 0, 10), ByteRange("nothing", 20, 30)]
    assert _fetched(server, ranges)[0] == dict.fromkeys(ranges)


def test_a_file_that_ends_early_is_an_error(server: FileServer) -> None:
    """A range that reaches beyond the end is never taken for what there is."""
    with pytest.raises(EOFError, match="content ends before"):
        _fetched(server, [ByteRange("content", len(CONTENT) - 5, len(CONTENT) + 5)])


def test_chunks_of_a_shard_need_few_requests(server: FileServer) -> None:
    """A box of 216 voxel chunks in 8 shard files takes a few requests for each of these, and has the right labels."""
    segmentation = Segmentation(server.url("seg"), 0)
    server.asked.clear()
    box = Box(OFFSET_VX + 3, OFFSET_VX + 45)
    mask = segmentation.read(box, 2).mask
    np.testing.assert_array_equal(mask.to_array(), LABELS[3:45, 3:45, 3:45] == 2)
    assert len(server.asked) <= 8 * 6


def test_indices_are_fetched_once_for_all_processes(server: FileServer, tmp_path: Path) -> None:
    """A second reader with the same cache locates every voxel chunk without a request."""
    layer = open_layer(server.url("seg"))
    codes = list(range(512))
    located = []
    for _ in range(2):
        server.asked.clear()
        store = CloudFiles(layer.cloudpath, progress=False)
        located.append(ShardFiles(layer, store, "seg", FileCache(tmp_path)).locate(codes))
    assert not server.asked
    assert located[0] == located[1]
    assert all(located[0].values())
