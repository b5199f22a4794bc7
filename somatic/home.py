"""A home folder that cannot be written: another user id in a container, a service without a home, a full quota.

cloud-volume makes `~/.cloudvolume` when it is imported, and other libraries keep caches, locks and settings in the home
folder. Each of them can be told another folder.
"""

import contextlib
import os
import stat
import tempfile
from pathlib import Path

_NOWHERE = "/nonexistent"
"""The home folder of users without one, as Debian has it."""


def settle_home() -> None:
    """Have libraries that are imported later use a temporary folder where the home folder cannot be written.

    Nothing changes where it can be written, and variables that are set stay as they are.
    """
    home = _home()
    if not home.is_absolute():
        # Else libraries would make a folder named ~ in the current one.
        os.environ["HOME"] = _NOWHERE
    folder = substitute_home()
    if folder is None:
        return
    if not (home / ".cloudvolume").is_dir():
        # It must be there, even if nothing can be written into it.
        os.environ.setdefault("CLOUD_VOLUME_DIR", f"{folder}/cloudvolume" if folder.is_dir() else os.devnull)
    os.environ.setdefault("CLOUD_FILES_LOCK_DIR", f"{folder}/locks")
    os.environ.setdefault("XDG_CACHE_HOME", f"{folder}/cache")
    os.environ.setdefault("MPLCONFIGDIR", f"{folder}/matplotlib")


def substitute_home() -> Path | None:
    """A folder for what belongs into the home folder, in the temporary folder; None where the home folder is writable.

    It is the same for all processes of a user, and nobody else can write into it: it will hold compiled code.
    """
    if _can_be_written(_home()):
        return None
    try:
        folder = Path(tempfile.gettempdir()) / f"somatic-home-{os.geteuid()}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077:
            return folder
        return Path(tempfile.mkdtemp(prefix="somatic-home-"))
    except OSError:
        # There is no temporary folder either, so nothing can be kept.
        return Path(os.devnull)


def _home() -> Path:
    return Path(os.path.expanduser("~"))  # noqa: PTH111 - pathlib raises where a user has no home folder


def _can_be_written(home: Path) -> bool:
    if not home.is_absolute() or not os.access(home, os.W_OK | os.X_OK):
        return False
    try:
        # As cloud-volume does; a quota may be full, or a file system read-only.
        (home / ".cloudvolume").mkdir(exist_ok=True)
    except OSError:
        return False
    return True
