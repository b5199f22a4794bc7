"""A cache of fetched segmentation files, in a folder that several processes share.

Cutouts of neighbouring cells overlap fourfold. A process may be killed at any moment, so a file counts only when it has
the length and the checksum that its header states; anything else is fetched again.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import struct
import weakref
import zlib
from collections.abc import Iterable, Iterator
from io import BufferedWriter, FileIO
from pathlib import Path

LIMIT_BYTES = 2 * 2**30
DISK_SHARE = 1 / 4
"""Largest share of the disk that a cache takes, of what is free and what it already holds."""

_HEADER = struct.Struct("<QI")
_USED = struct.Struct("<Q")
USED_NAME, _CLAIMS_NAME = "used", "claims"
_FILE, _PART = ".file", ".part"
# Disks allocate blocks, also for the many files that the store does not have, which are empty here.
_BLOCK_BYTES = 4096
_KEPT = 0.75
# Names inside the folder are never followed elsewhere.
_OPEN = os.O_NOFOLLOW | os.O_CLOEXEC


class FileCache:
    """A folder of files by name, which never holds more than its limit.

    Every process that uses the folder reserves space before it writes, in a count that all of them share. A count that
    is too high, because a process was killed, is corrected when it reaches the limit.

    Parameters
    ----------
    folder : path
        Must exist, without being a symbolic link; other files in it are left alone. Where it cannot be used, nothing is
        kept.
    limit_bytes : int
        Most disk space for all files together. Less where the disk has little left (`DISK_SHARE`). The files that were
        read least recently are removed first.
    """

    def __init__(self, folder: str | Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._folder: int | None = None
        with contextlib.suppress(OSError):
            self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | _OPEN)
            weakref.finalize(self, os.close, self._folder)

    def get(self, name: str) -> bytes | None:
        """The content that was put under a name, empty for a file that the store does not have; None if not kept."""
        try:
            with os.fdopen(self._open(_file_name(name), os.O_RDONLY), "rb") as file:
                stored = file.read()
                with contextlib.suppress(OSError):
                    os.utime(file.fileno())
            length, checksum = _HEADER.unpack_from(stored)
        except (OSError, struct.error):
            return None
        content = stored[_HEADER.size :]
        return content if len(content) == length and zlib.crc32(content) == checksum else None

    def put(self, name: str, content: bytes) -> None:
        """Keep a file, empty for one that the store does not have; without space it is not kept."""
        part = f"{secrets.token_hex(8)}{_PART}"
        with contextlib.suppress(OSError), contextlib.ExitStack() as written:
            file = self._reserve(part, _HEADER.size + len(content))
            if file is None:
                return
            # Fails at the end, which is ignored, when it has got its final name.
            written.callback(self._remove, part)
            written.enter_context(file)
            file.write(_HEADER.pack(len(content), zlib.crc32(content)))
            file.write(content)
            file.flush()
            with self._counting():
                os.rename(part, _file_name(name), src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def forget(self, name: str) -> None:
        """Remove a file."""
        with contextlib.suppress(OSError):
            self._remove(_file_name(name))

    @contextlib.contextmanager
    def claimed(self, names: Iterable[str]) -> Iterator[None]:
        """Keep other processes from fetching these files meanwhile; a process that is killed releases its claims.

        Where the folder has no locks, two processes may fetch the same file, which does no harm.
        """
        with contextlib.ExitStack() as held:
            with contextlib.suppress(OSError):
                claims = held.enter_context(os.fdopen(self._open(_CLAIMS_NAME, os.O_RDWR | os.O_CREAT), "r+b"))
                # One byte of a file without end for each. In order, so that two processes never wait for each other.
                for place in sorted(int(_digest(name)[:15], 16) for name in names):
                    fcntl.lockf(claims, fcntl.LOCK_EX, 1, place)
            yield

    @contextlib.contextmanager
    def _counting(self) -> Iterator[FileIO]:
        """The count of bytes, locked; files appear under their final names, and are counted, only inside."""
        with FileIO(self._open(USED_NAME, os.O_RDWR | os.O_CREAT), "r+") as count:
            fcntl.flock(count, fcntl.LOCK_EX)
            yield count

    def _reserve(self, part: str, n_bytes: int) -> BufferedWriter | None:
        """Make a file of a given size to be written, others removed where it needs their space; None without space.

        It is locked until it is closed, by which others know that it is not abandoned.
        """
        needed = _on_disk(n_bytes)
        with self._counting() as count:
            noted = count.read()
            # A new count, or one that was cut short.
            used = _USED.unpack(noted)[0] if len(noted) == _USED.size else self._make_room(self._limit_bytes)
            if used + needed > self._limit(used):
                used = self._make_room(int(_KEPT * self._limit(used)))
            fits = used + needed <= self._limit(used)
            os.pwrite(count.fileno(), _USED.pack(used + needed if fits else used), 0)
            if not fits:
                return None
            file = os.fdopen(self._open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb")
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                # Parts are counted by their size.
                file.truncate(n_bytes)
            except OSError:
                file.close()
                self._remove(part)
                raise
        return file

    def _limit(self, used: int) -> int:
        disk = os.fstatvfs(self._opened())
        # Some network file systems do not report a size.
        share = int(DISK_SHARE * (used + disk.f_bavail * disk.f_frsize)) if disk.f_blocks else self._limit_bytes
        return min(self._limit_bytes, share)

    def _make_room(self, kept_bytes: int) -> int:
        """Remove abandoned parts, and the files read least recently until no more than this is left; bytes left."""
        files, used = [], 0
        with os.scandir(self._opened()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if entry.name.endswith(_FILE):
                        files.append((status.st_mtime_ns, _on_disk(status.st_size), entry.name))
                    elif entry.name.endswith(_PART) and not self._remove_abandoned(entry.name):
                        used += _on_disk(status.st_size)
        used += sum(size for _, size, _ in files)
        for _, size, name in sorted(files):
            if used <= kept_bytes:
                break
            with contextlib.suppress(FileNotFoundError):
                self._remove(name)
            used -= size
        return used

    def _remove_abandoned(self, part: str) -> bool:
        """Remove a file that was not written to its end, if its process is gone."""
        with os.fdopen(self._open(part, os.O_RDWR), "r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            self._remove(part)
        return True

    def _open(self, name: str, flags: int) -> int:
        return os.open(name, flags | _OPEN, 0o600, dir_fd=self._opened())

    def _remove(self, name: str) -> None:
        os.unlink(name, dir_fd=self._opened())

    def _opened(self) -> int:
        if self._folder is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return self._folder


def _on_disk(n_bytes: int) -> int:
    return -(-n_bytes // _BLOCK_BYTES) * _BLOCK_BYTES


def _file_name(name: str) -> str:
    return f"{_digest(name)}{_FILE}"


def _digest(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
