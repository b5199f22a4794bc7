"""Limits on memory of the control groups that this process is in, as containers, Slurm and systemd set them."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_PROC = Path("/proc/self")


class _Kind(NamedTuple):
    """Files of a control group, by the version of the kernel's interface."""

    limits: tuple[str, ...]
    used: str
    file_pages: tuple[str, ...]
    """In memory.stat: cached files, which the kernel drops when memory is short."""


_VERSION_1 = _Kind(("memory.limit_in_bytes",), "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
# Beyond memory.high a group is slowed down until it hardly runs.
_VERSION_2 = _Kind(("memory.max", "memory.high"), "memory.current", ("inactive_file", "active_file"))


class CgroupMemory(NamedTuple):
    """A limit on memory, and how much of it is used without cached files."""

    limit_bytes: int
    used_bytes: int


def cgroup_memory() -> Iterator[CgroupMemory]:
    """Read the limit and the use of each group that this process is in, from its own up to the root of the tree.

    Groups without a limit, and those that cannot be read, are left out.

    Yields
    ------
    CgroupMemory
    """
    for folder, kind in _groups():
        limits = [limit for name in kind.limits if (limit := _limit(folder / name)) is not None]
        if not limits:
            continue
        try:
            stat = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
            cached = sum(int(stat[name]) for name in kind.file_pages)
            used = int(_read(folder / kind.used)) - cached
        except (OSError, KeyError, ValueError):
            continue
        # Version 1 also states the limits of groups above the root that this process sees.
        limits.append(int(stat.get("hierarchical_memory_limit", limits[0])))
        yield CgroupMemory(min(limits), max(0, used))


def _groups() -> Iterator[tuple[Path, _Kind]]:
    """Folders of the groups, and how to read them."""
    try:
        mounts = list(_mounts())
        lines = _read(_PROC / "cgroup").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        kind = _VERSION_1 if controllers else _VERSION_2
        for folder, root in (mount[1:] for mount in mounts if mount[0] is kind):
            inside = PurePosixPath(path)
            # A container may see its own group as the root of the tree, and its path from elsewhere.
            visible = inside.is_relative_to(root) and ".." not in inside.parts
            inside = inside.relative_to(root) if visible else PurePosixPath()
            for group in (inside, *inside.parents):
                yield folder / group, kind


def _mounts() -> Iterator[tuple[_Kind, Path, str]]:
    """Where hierarchies with a control of memory are mounted, and the group at the root of each mount."""
    for line in _read(_PROC / "mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        root, folder = before.split()[3:5]
        file_system, _, options = after.split(maxsplit=2)
        if file_system == "cgroup2":
            yield _VERSION_2, Path(_unescaped(folder)), _unescaped(root)
        elif file_system == "cgroup" and "memory" in options.split(","):
            yield _VERSION_1, Path(_unescaped(folder)), _unescaped(root)


def _unescaped(path: str) -> str:
    """A path of mountinfo, in which blanks are written as octal numbers."""
    return path.encode().decode("unicode_escape").encode("latin-1").decode(errors="surrogateescape")


def _limit(path: Path) -> int | None:
    """A limit in bytes; None without one, which is a word, or where the kernel has no such file."""
    try:
        text = _read(path)
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _read(path: Path) -> str:
    return path.read_text().strip()
