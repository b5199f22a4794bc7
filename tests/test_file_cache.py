"""Files kept for who reads them next: what is whole is given, what is not is fetched, the dead harm nobody."""

import gzip
import multiprocessing
import os
import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from file_server import Fault, FileServer, fast_http  # noqa: F401
from volumes import put_sharded_volume, put_volume

from somatic.cutout import Segmentation
from somatic.errors import SegmentationUnavailable
from somatic.volume import file_cache
from somatic.volume.file_cache import FileCache, cache_folder
from somatic.workers.isolation import warm_up

LABELS = np.kron(np.random.default_rng(0).integers(1, 4, (13, 10, 8)), np.ones((4, 4, 4), int)).astype(np.uint64)
LABELS[:16, :16, :16] = 0
FILE = "16-32_0-16_0-16"

pytestmark = pytest.mark.usefixtures("fast_http")


@pytest.fixture(scope="module", autouse=True)
def _fork_server() -> None:
    """Processes whose imports are done, for the tests here and whatever comes after them."""
    warm_up("published")


@pytest.fixture(params=["plain", "sharded"])
def store(request: pytest.FixtureRequest) -> str:
    """How the layer is stored."""
    return request.param


@pytest.fixture
def server(tmp_path: Path, store: str) -> Iterator[FileServer]:
    """A layer over HTTP, without a file of background."""
    if store == "plain":
        put_volume(tmp_path / "seg", LABELS, encoding="compressed_segmentation", gzip=True, file_shape=(16, 16, 16))
    else:
        put_sharded_volume(tmp_path / "seg", LABELS)
    with FileServer(tmp_path) as server:
        yield server


def read(url: str, folder: Path) -> tuple[np.ndarray, int]:
    """Mask of label 2 and the number of unlabelled voxels, with a cache."""
    segmentation = Segmentation(url, 0, cache=FileCache(folder))
    cutout = segmentation.read(segmentation.bounds, 2)
    return cutout.mask.to_array(), cutout.n_unlabelled


def files(server: FileServer) -> list[str]:
    """Requests for files of labels."""
    return [path for path in server.asked if not path.endswith(("info", "provenance"))]


def assert_whole(found: tuple[np.ndarray, int]) -> None:
    """All voxels are there, and those of the file that the store does not have are unlabelled."""
    np.testing.assert_array_equal(found[0], LABELS == 2)
    assert found[1] == 16**3


def test_each_file_is_asked_for_once(server: FileServer, tmp_path: Path) -> None:
    """The first reading fetches every file, the one that is missing too; the next ones nothing, in any process."""
    (tmp_path / "cache").mkdir()
    assert_whole(read(server.url("seg"), tmp_path / "cache"))
    asked = files(server)
    assert asked
    server.asked.clear()
    for _ in range(2):
        assert_whole(read(server.url("seg"), tmp_path / "cache"))
    # The index of a shard is read again; none of its files is.
    assert not [path for path in files(server) if not path.endswith(".shard")]
    assert len(files(server)) < len(asked) or not files(server)


@pytest.mark.parametrize("store", ["plain"], indirect=True)
def test_fetched_ahead(server: FileServer, tmp_path: Path) -> None:
    """What was fetched before it was asked for is not fetched again."""
    (tmp_path / "cache").mkdir()
    segmentation = Segmentation(server.url("seg"), 0, cache=FileCache(tmp_path / "cache"))
    segmentation.fetch_into_cache(segmentation.bounds)
    server.asked.clear()
    cutout = segmentation.read(segmentation.bounds, 2)
    assert_whole((cutout.mask.to_array(), cutout.n_unlabelled))
    assert server.asked == []


@pytest.mark.parametrize("damage", ["cut", "empty", "a bit", "longer", "gone"])
def test_what_is_damaged_is_fetched(server: FileServer, tmp_path: Path, damage: str) -> None:
    """A file in the cache that is cut short or changed is never trusted."""
    (tmp_path / "cache").mkdir()
    assert_whole(read(server.url("seg"), tmp_path / "cache"))
    for path in (tmp_path / "cache").glob("*.file"):
        content = bytearray(path.read_bytes())
        if damage == "gone":
            path.unlink()
            continue
        if damage == "cut":
            content = content[:-1]
        elif damage == "empty":
            content = content[:0]
        elif damage == "longer":
            content += b"x"
        else:
            content[len(content) // 2] ^= 1
        path.write_bytes(content)
    assert_whole(read(server.url("seg"), tmp_path / "cache"))


@pytest.mark.parametrize("store", ["plain"], indirect=True)
@pytest.mark.parametrize("fault", [{"status": 403}, {"status": 503}, {"body": b""}, {"cut": True}], ids=str)
def test_a_failure_is_not_kept(server: FileServer, tmp_path: Path, fault: dict) -> None:
    """Refused, empty or cut short on its way: an error now, never a hole, and the file the next time."""
    (tmp_path / "cache").mkdir()
    server.faults[FILE] = Fault(**fault)
    for _ in range(2):
        with pytest.raises(SegmentationUnavailable):
            read(server.url("seg"), tmp_path / "cache")
    server.faults.clear()
    assert_whole(read(server.url("seg"), tmp_path / "cache"))


@pytest.mark.parametrize("store", ["plain"], indirect=True)
def test_a_file_that_does_not_decode_is_not_kept(server: FileServer, tmp_path: Path) -> None:
    """Bytes that came whole but are no file of labels are asked for again the next time."""
    (tmp_path / "cache").mkdir()
    server.faults[FILE] = Fault(body=gzip.compress(b"not what it should be"), encoding="gzip")
    with pytest.raises(SegmentationUnavailable, match="does not decode"):
        read(server.url("seg"), tmp_path / "cache")
    server.faults.clear()
    assert_whole(read(server.url("seg"), tmp_path / "cache"))


def read_in_process(url: str, folder: Path) -> None:
    """Read with the cache, in a process of its own."""
    read(url, folder)


@pytest.mark.parametrize("store", ["plain"], indirect=True)
def test_two_processes_share_the_work(server: FileServer, tmp_path: Path) -> None:
    """At the same time they ask for each file once between them."""
    (tmp_path / "cache").mkdir()
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=read_in_process, args=(server.url("seg"), tmp_path / "cache")) for _ in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert set(Counter(files(server)).values()) == {1}


@pytest.mark.parametrize("store", ["plain"], indirect=True)
def test_a_process_that_is_killed_lets_go(server: FileServer, tmp_path: Path) -> None:
    """Killed while it fetches, it keeps nobody from fetching the same files."""
    (tmp_path / "cache").mkdir()
    server.faults[FILE] = Fault(wait=threading.Event(), times=1)
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=read_in_process, args=(server.url("seg"), tmp_path / "cache"))
    process.start()
    while not any(FILE in path for path in server.asked):
        assert process.is_alive()
        time.sleep(0.01)
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert_whole(read(server.url("seg"), tmp_path / "cache"))


def test_it_is_bounded(tmp_path: Path) -> None:
    """However much is put there it holds no more than the limit, and what was asked for last."""
    cache = FileCache(tmp_path, limit_bytes=100_000)
    for n in range(200):
        cache.put(f"file {n}", bytes(2000))
        assert cache.get("file 0") is not None or n < 1
        assert sum(path.stat().st_size for path in tmp_path.glob("*.file")) <= 110_000
    assert cache.get("file 199") == bytes(2000)
    assert cache.get("file 1") is None


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    """It keeps nothing, and what is claimed is fetched all the same."""
    cache = FileCache(tmp_path / "gone")
    with cache.claimed(["a"]):
        cache.put("a", b"content")
    assert cache.get("a") is None
    cache.forget("a")


def test_without_room(tmp_path: Path) -> None:
    """A file that finds no room is not kept, and nothing of it stays."""
    cache = FileCache(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        cache.put("a", bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert cache.get("a") is None
    assert not list(tmp_path.iterdir())


def test_what_killed_processes_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of a process that is gone is taken away, that of a living one stays; our own is gone in the end."""
    monkeypatch.setattr(file_cache.tempfile, "tempdir", str(tmp_path))
    child = multiprocessing.get_context("forkserver").Process(target=os.getpid)
    child.start()
    child.join()
    left = tmp_path / f"somatic-files-{child.pid}-x"
    living = tmp_path / f"somatic-files-{os.getpid()}-x"
    for folder in (left, living):
        folder.mkdir()
        FileCache(folder).put("a", b"content")
    with cache_folder() as folder:
        assert Path(folder).is_dir()
        assert not left.exists()
    assert not Path(folder).exists()
    assert living.exists()
