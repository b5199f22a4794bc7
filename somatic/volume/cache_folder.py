"""The folder of a `FileCache` for the time of a shard, and the removal of those that killed processes left.

Several hosts and several users may share the temporary folder. A folder is abandoned when the lock in it is free. Some
network file systems do not show locks to other hosts, so the folder of another host must also be unused for a day.
"""

import contextlib
import fcntl
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from somatic.volume.file_cache import USED_NAME

logger = logging.getLogger(__name__)

PREFIX = "somatic-files-"
ALIVE_NAME = "alive"
_UNUSED_S = 24 * 3600
# Differs between machines and between boots, and is the same in all containers of a machine.
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@contextlib.contextmanager
def cache_folder() -> Iterator[str | None]:
    """A new folder for a cache, removed at the end, after those that killed processes left.

    Yields
    ------
    str or None
        None where the temporary folder cannot be written or has no locks; a warning says so.
    """
    with contextlib.ExitStack() as held:
        folder = None
        try:
            parent = Path(tempfile.gettempdir())
            _remove_abandoned(parent)
            folder = held.enter_context(_new_folder(parent))
        except OSError as error:
            logger.warning(
                "segmentation files are not cached (%s), so some are read several times; set TMPDIR to a folder on a "
                "local disk",
                error,
            )
        yield folder


@contextlib.contextmanager
def _new_folder(parent: Path) -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix=PREFIX, dir=parent)
    try:
        with (Path(folder) / ALIVE_NAME).open("xb", buffering=0) as alive:
            fcntl.flock(alive, fcntl.LOCK_EX)
            alive.write(_machine())
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders of this user whose processes are gone; symbolic links are not followed."""
    with contextlib.ExitStack() as held:
        shared = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        held.callback(os.close, shared)
        for entry in held.enter_context(os.scandir(shared)):
            if entry.name.startswith(PREFIX):
                with contextlib.suppress(OSError):
                    _remove_if_abandoned(entry.name, shared)


def _remove_if_abandoned(name: str, shared: int) -> None:
    status = os.stat(name, dir_fd=shared, follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        return
    folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=shared)
    try:
        abandoned = _is_abandoned(folder)
    finally:
        os.close(folder)
    if abandoned:
        # Refuses a symbolic link, also one that takes the folder's place meanwhile.
        shutil.rmtree(name, dir_fd=shared)


def _is_abandoned(folder: int) -> bool:
    try:
        alive = os.open(ALIVE_NAME, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        # Its process was killed when it had just made the folder, or is about to lock it.
        return _is_unused(folder)
    try:
        fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
        of_this_machine = os.read(alive, 64) == _machine() != b""
        return of_this_machine or _is_unused(folder)
    except BlockingIOError:
        return False
    finally:
        os.close(alive)


def _is_unused(folder: int) -> bool:
    """Whether nothing was put there for a day."""
    changed = [os.fstat(folder).st_mtime]
    for name in (ALIVE_NAME, USED_NAME):
        with contextlib.suppress(FileNotFoundError):
            changed.append(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime)
    return time.time() - max(changed) > _UNUSED_S


def _machine() -> bytes:
    """What tells this machine from others that may share its folders; empty where nobody knows."""
    try:
        return _BOOT_ID.read_bytes().strip()
    except OSError:
        return b""
