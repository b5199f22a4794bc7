"""The folder of a cache: its own for each shard, removed at the end or by who comes next, and nobody else's."""

import errno
import fcntl
import logging
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from somatic.volume import cache_folder as folders
from somatic.volume.cache_folder import cache_folder
from somatic.volume.file_cache import FileCache

DAY_S = 24 * 3600


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder."""
    shared = tmp_path / "tmp"
    shared.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(shared))
    return shared


def use(shared: Path, channel: Connection) -> None:
    """In a process of its own: have a cache until told to end."""
    tempfile.tempdir = str(shared)
    with cache_folder() as folder:
        assert folder
        FileCache(folder).put("a", b"content")
        channel.send(folder)
        channel.recv()


@pytest.fixture
def other(shared: Path) -> Iterator[tuple[Path, multiprocessing.process.BaseProcess]]:
    """The folder of another process, which is at work, and the process."""
    context = multiprocessing.get_context("forkserver")
    here, there = context.Pipe()
    process = context.Process(target=use, args=(shared, there))
    process.start()
    yield Path(here.recv()), process
    process.kill()
    process.join()


def made(shared: Path, machine: bytes, *, age_s: float = 0) -> Path:
    """A folder with a file that nobody holds a lock on, last used some time ago."""
    folder = shared / "somatic-files-made"
    folder.mkdir()
    FileCache(folder).put("a", b"content")
    (folder / "alive").write_bytes(machine)
    then = time.time() - age_s
    for path in (*folder.iterdir(), folder):
        os.utime(path, (then, then))
    return folder


def test_a_folder_of_its_own(shared: Path) -> None:
    """It is there for the cache, readable by nobody else, and gone at the end, also after an error."""

    def use_and_fail() -> None:
        with cache_folder() as folder:
            assert folder
            FileCache(folder).put("a", b"content")
            assert FileCache(folder).get("a") == b"content"
            assert Path(folder).parent == shared
            assert Path(folder).stat().st_mode & 0o777 == 0o700
            raise KeyError

    with pytest.raises(KeyError):
        use_and_fail()
    assert list(shared.iterdir()) == []


def test_what_a_killed_process_left(other: tuple[Path, multiprocessing.process.BaseProcess]) -> None:
    """Left alone while the process lives, removed once it was killed."""
    left, process = other
    with cache_folder():
        assert FileCache(left).get("a") == b"content"
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert left.exists()
    with cache_folder() as folder:
        assert not left.exists()
        assert folder


def test_a_folder_of_another_host(shared: Path) -> None:
    """Its locks may not show here, so it must be unused for a day as well; one that is locked stays."""
    left = made(shared, b"another-boot", age_s=DAY_S / 2)
    with cache_folder():
        assert FileCache(left).get("a") == b"content"
    for path in (*left.iterdir(), left):
        os.utime(path, (0, 0))
    with (left / "alive").open("rb") as alive:
        fcntl.flock(alive, fcntl.LOCK_SH)
        with cache_folder():
            assert left.exists()
    with cache_folder():
        assert not left.exists()


@pytest.mark.parametrize(("age_s", "stays"), [(0, True), (2 * DAY_S, False)])
def test_a_folder_without_a_lock(shared: Path, age_s: float, stays: bool) -> None:
    """A process may just be making it; a day later it was killed over that."""
    left = made(shared, b"", age_s=age_s)
    (left / "alive").unlink()
    os.utime(left, (time.time() - age_s, time.time() - age_s))
    with cache_folder():
        assert left.exists() == stays


def test_a_folder_of_another_user(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays, even for a user who could remove it."""
    left = made(shared, folders._machine(), age_s=2 * DAY_S)
    monkeypatch.setattr(folders.os, "geteuid", lambda: left.stat().st_uid + 1)
    with cache_folder():
        assert FileCache(left).get("a") == b"content"
    monkeypatch.undo()
    monkeypatch.setattr(tempfile, "tempdir", str(shared))
    with cache_folder():
        assert not left.exists()


def test_a_symbolic_link_is_not_followed(shared: Path, tmp_path: Path) -> None:
    """What it points at stays, be it a folder of the user's own or one that looks like ours."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "thesis.txt").write_text("all of it")
    looks_like_ours = made(tmp_path, folders._machine(), age_s=2 * DAY_S)
    (shared / "somatic-files-a").symlink_to(own)
    (shared / "somatic-files-b").symlink_to(looks_like_ours)
    left = made(shared, folders._machine())
    (left / "link").symlink_to(own)
    (shared / "somatic-files-file").write_text("no folder")
    with cache_folder():
        assert not left.exists()
    assert (own / "thesis.txt").read_text() == "all of it"
    assert FileCache(looks_like_ours).get("a") == b"content"


def test_a_temporary_folder_that_cannot_be_written(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no cache then, and a warning that says why; the work goes on."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with caplog.at_level(logging.WARNING), cache_folder() as folder:
        assert folder is None
    (said,) = caplog.messages
    assert str(tmp_path / "gone") in said
    assert "TMPDIR" in said
    assert list(shared.iterdir()) == []


def test_a_temporary_folder_without_locks(
    shared: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no cache then either, and the folder of another process is not taken for an abandoned one."""
    left = made(shared, folders._machine(), age_s=2 * DAY_S)

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folders.fcntl, "flock", no_locks)
    with caplog.at_level(logging.WARNING), cache_folder() as folder:
        assert folder is None
    assert "No locks available" in caplog.text
    assert list(shared.iterdir()) == [left]
