"""Files of a segmentation that were fetched once, in a folder that the processes of a shard share.

Cutouts of neighbouring cells overlap fourfold. A process may be killed at any moment, so a file counts only when it is
as long as it says and its checksum is right; what is not there, or not whole, is fetched.
"""

import contextlib
import fcntl
import hashlib
import os
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

LIMIT_BYTES = 2 * 2**30
_PREFIX = "somatic-files-"
_HEADER = struct.Struct("<QI")
_LOCKS = "locks"
# After this share of the limit was written by a process it looks at how much there is.
_LOOK_EVERY = 1 / 16
_KEPT = 0.75


class FileCache:
    """A folder of files, by name.

    Parameters
    ----------
    folder : path
        Must be there; anything else in it is left alone.
    limit_bytes : int
        About how much it may hold. What was not asked for the longest is left out.
    """

    def __init__(self, folder: str | Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self._folder = Path(folder)
        self._limit_bytes = limit_bytes
        self._n_bytes_written = 0

    def get(self, name: str) -> bytes | None:
        """What was put under a name, empty for a file that the store does not have; None when it is not kept."""
        path = self._path(name)
        try:
            stored = path.read_bytes()
            os.utime(path)
            length, checksum = _HEADER.unpack_from(stored)
        except (OSError, struct.error):
            return None
        content = stored[_HEADER.size :]
        return content if len(content) == length and zlib.crc32(content) == checksum else None

    def put(self, name: str, content: bytes) -> None:
        """Keep a file, empty for one that the store does not have; where there is no room it is not kept."""
        path = self._path(name)
        part = path.with_suffix(f".{os.getpid()}")
        try:
            with part.open("wb") as file:
                file.write(_HEADER.pack(len(content), zlib.crc32(content)))
                file.write(content)
            part.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink()
            return
        self._n_bytes_written += len(content)
        if self._n_bytes_written > _LOOK_EVERY * self._limit_bytes:
            self._n_bytes_written = 0
            self._make_room()

    def forget(self, name: str) -> None:
        """Keep a file no longer."""
        self._path(name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def claimed(self, names: Iterable[str]) -> Iterator[None]:
        """Let no other process fetch these files meanwhile; who dies inside lets go of them.

        Where that cannot be said, two processes may fetch the same file, which does no harm.
        """
        with contextlib.ExitStack() as held:
            with contextlib.suppress(OSError):
                locks = held.enter_context((self._folder / _LOCKS).open("ab"))
                # One byte of a file without end for each. In order, so that two processes never wait for each other.
                for place in sorted(int(_digest(name)[:15], 16) for name in names):
                    fcntl.lockf(locks, fcntl.LOCK_EX, 1, place)
            yield

    def _path(self, name: str) -> Path:
        return self._folder / f"{_digest(name)}.file"

    def _make_room(self) -> None:
        found = []
        for path in self._folder.glob("*.file"):
            with contextlib.suppress(OSError):
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        n_bytes = sum(size for _, size, _ in found)
        if n_bytes > (1 - _LOOK_EVERY) * self._limit_bytes:
            for _, size, path in sorted(found):
                if n_bytes < _KEPT * self._limit_bytes:
                    break
                path.unlink(missing_ok=True)
                n_bytes -= size


@contextlib.contextmanager
def cache_folder() -> Iterator[str]:
    """A folder for a cache, gone at the end; those of processes that were killed are taken away first."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        pid = left.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            with contextlib.suppress(OSError):
                for path in left.iterdir():
                    path.unlink(missing_ok=True)
                left.rmdir()
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-", ignore_cleanup_errors=True) as folder:
        yield folder


def _digest(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
