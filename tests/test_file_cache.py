"""Files kept for who reads them next: what is whole is given, what is not is fetched, the dead harm nobody."""

import errno
import fcntl
import gzip
import multiprocessing
import os
import random
import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from file_server import Fault, FileServer, fast_http  # noqa: F401
from volumes import put_sharded_volume, put_volume

from somatic.cutout import Segmentation
from somatic.errors import SegmentationUnavailable
from somatic.volume import file_cache
from somatic.volume.file_cache import FileCache
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
@pytest.mark.parametrize("fault", [{"status": 503}, {"body": b""}, {"cut": True}], ids=str)
def test_a_failure_is_not_kept(server: FileServer, tmp_path: Path, fault: dict) -> None:
    """Broken, empty or cut short on its way: an error now, never a hole, and the file the next time."""
    (tmp_path / "cache").mkdir()
    server.faults[FILE] = Fault(**fault)
    for _ in range(2):
        with pytest.raises(SegmentationUnavailable):
            read(server.url("seg"), tmp_path / "cache")
    server.faults.clear()
    assert_whole(read(server.url("seg"), tmp_path / "cache"))


def test_a_refused_file_is_not_kept(server: FileServer, tmp_path: Path, store: str) -> None:
    """A file that is treated as missing because it is refused is requested again, and read once it is served."""
    (tmp_path / "cache").mkdir()
    server.faults[FILE if store == "plain" else "/00001.shard"] = Fault(status=403)
    _, n_unlabelled = read(server.url("seg"), tmp_path / "cache")
    assert n_unlabelled > 16**3
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


LIMIT = 400_000


def bytes_held(folder: Path) -> int:
    """Bytes of all files in a cache, those being written included, while no process can add one."""
    with (folder / "used").open("ab") as count:
        fcntl.flock(count, fcntl.LOCK_EX)
        return sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".file", ".part"))


def content_of(name: str) -> bytes:
    """Up to 40 kB that depend on the name."""
    return random.Random(name).randbytes(random.Random(name).randrange(40_000))


def put_a_few(folder: Path, number: int) -> None:
    """Put less than a tenth of the limit, as a process does that reads one chunk."""
    cache = FileCache(folder, LIMIT)
    for n in range(3):
        cache.put(f"file {number} {n}", content_of(f"file {number} {n}"))
        # One that others put too.
        cache.put(f"file {n}", content_of(f"file {n}"))


def test_the_limit_holds_for_all_processes_together(tmp_path: Path) -> None:
    """Sixty processes that put little each never hold more than the limit, and most of it at the end."""
    context, n_started, running = multiprocessing.get_context("forkserver"), 0, []
    while n_started < 60 or running:
        running = [process for process in running if process.is_alive()]
        if n_started < 60 and len(running) < 6:
            running.append(context.Process(target=put_a_few, args=(tmp_path, n_started)))
            running[-1].start()
            n_started += 1
        assert bytes_held(tmp_path) <= LIMIT
    assert bytes_held(tmp_path) > LIMIT / 2
    cache = FileCache(tmp_path, LIMIT)
    kept = [name for name in (f"file {a} {b}" for a in range(60) for b in range(3)) if cache.get(name) is not None]
    assert len(kept) >= 3
    assert all(cache.get(name) == content_of(name) for name in kept)


def test_what_was_read_last_is_kept(tmp_path: Path) -> None:
    """However much is put there it holds no more than the limit, and removes what was not read for longest."""
    cache = FileCache(tmp_path, limit_bytes=100_000)
    for n in range(200):
        cache.put(f"file {n}", bytes(2000))
        assert cache.get("file 0") == bytes(2000)
        assert bytes_held(tmp_path) <= 100_000
    assert cache.get("file 199") == bytes(2000)
    assert cache.get("file 1") is None


def test_a_file_larger_than_the_limit(tmp_path: Path) -> None:
    """It is not kept."""
    cache = FileCache(tmp_path, limit_bytes=100_000)
    cache.put("large", bytes(100_000))
    assert cache.get("large") is None
    assert bytes_held(tmp_path) == 0


def test_files_that_the_store_does_not_have_count_too(tmp_path: Path) -> None:
    """Each takes a block of the disk."""
    cache = FileCache(tmp_path, limit_bytes=100_000)
    for n in range(100):
        cache.put(f"file {n}", b"")
    assert sum(path.stat().st_blocks * 512 for path in tmp_path.glob("*.file")) <= 100_000
    assert cache.get("file 99") == b""


def die_while_writing(folder: Path) -> None:
    """Be killed between the last byte of a file and its name."""

    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    file_cache.os.rename = die  # type: ignore[assignment]
    FileCache(folder, 100_000).put("a", bytes(60_000))


def test_parts_of_killed_processes(tmp_path: Path) -> None:
    """They count, and are removed when their space is needed; a part that is being written stays."""
    process = multiprocessing.get_context("forkserver").Process(target=die_while_writing, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [path.stat().st_size > 60_000 for path in tmp_path.glob("*.part")] == [True]
    cache = FileCache(tmp_path, 100_000)
    writing = cache._reserve("writing.part", 20_000)
    assert writing is not None
    for n in range(10):
        cache.put(f"file {n}", bytes(20_000))
        assert cache.get(f"file {n}") == bytes(20_000)
        assert bytes_held(tmp_path) <= 100_000
    assert [path.name for path in tmp_path.glob("*.part")] == ["writing.part"]
    writing.close()


def test_a_count_that_is_damaged(tmp_path: Path) -> None:
    """It is made anew from what there is."""
    cache = FileCache(tmp_path, 100_000)
    for n in range(15):
        cache.put(f"file {n}", bytes(4000))
    (tmp_path / "used").write_bytes(b"cut")
    for n in range(15):
        cache.put(f"another {n}", bytes(4000))
        assert bytes_held(tmp_path) <= 100_000
    assert cache.get("another 14") == bytes(4000)


def test_a_disk_with_little_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a quarter of what is free, and gives space back when others take theirs."""
    free = 4_000_000

    def disk(_: int) -> SimpleNamespace:
        return SimpleNamespace(f_blocks=10**6, f_frsize=1, f_bavail=max(0, free - bytes_in_files()))

    def bytes_in_files() -> int:
        return sum(path.stat().st_blocks * 512 for path in tmp_path.iterdir())

    monkeypatch.setattr(file_cache.os, "fstatvfs", disk)
    cache = FileCache(tmp_path)
    for n in range(100):
        cache.put(f"file {n}", bytes(20_000))
    assert 0.5 * free / 4 < bytes_in_files() <= free / 4 + 4096
    free = 400_000
    for n in range(10):
        cache.put(f"file {n}", bytes(20_000))
    assert bytes_in_files() <= free / 4 + 4096
    free = 0
    for n in range(10):
        cache.put(f"file {n}", bytes(20_000))
    assert bytes_held(tmp_path) == 0


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    """It keeps nothing, and what is claimed is fetched all the same."""
    cache = FileCache(tmp_path / "gone")
    with cache.claimed(["a"]):
        cache.put("a", b"content")
    assert cache.get("a") is None
    cache.forget("a")
    there = tmp_path / "there"
    there.mkdir()
    cache = FileCache(there)
    there.rmdir()
    with cache.claimed(["a"]):
        cache.put("a", b"content")
    assert cache.get("a") is None


def test_without_space(tmp_path: Path) -> None:
    """A file that finds no space is not kept, and nothing of it stays."""
    cache = FileCache(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        cache.put("a", bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert cache.get("a") is None
    assert bytes_held(tmp_path) == 0


def test_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system has none, the limit could not be kept, so nothing is."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(file_cache.fcntl, "flock", no_locks)
    cache = FileCache(tmp_path)
    cache.put("a", b"content")
    assert cache.get("a") is None


def test_symbolic_links_are_not_followed(tmp_path: Path) -> None:
    """Neither one in place of the folder nor one inside leads to a file elsewhere."""
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "folder"
    elsewhere.mkdir()
    folder.mkdir()
    FileCache(elsewhere).put("a", b"content")
    (kept,) = elsewhere.glob("*.file")
    before = {path: path.read_bytes() for path in elsewhere.iterdir()}

    (tmp_path / "link").symlink_to(elsewhere)
    cache = FileCache(tmp_path / "link")
    assert cache.get("a") is None
    cache.put("b", b"content")
    cache.forget("a")

    for name in (kept.name, "used", "claims", "1234.part"):
        (folder / name).symlink_to(kept)
    cache = FileCache(folder)
    assert cache.get("a") is None
    with cache.claimed(["a"]):
        cache.put("a", b"other")
    (folder / "used").unlink()
    cache.put("a", b"other")
    assert cache.get("a") == b"other"
    assert {path: path.read_bytes() for path in elsewhere.iterdir()} == before
