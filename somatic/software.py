"""Which software made a number: the version of somatic and of the libraries below it."""

import functools
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_NUMERIC_LIBRARIES = (
    "numpy",
    "scipy",
    "trimesh",
    "zmesh",
    "fill-voids",
    "cloud-volume",
    "compressed-segmentation",
    "pyarrow",
)
"""Libraries whose version may change a number or a byte."""


@functools.cache
def code_version() -> str:
    """Version of somatic; in a checkout also its commit, with `.dirty` when files differ from it."""
    try:
        number = version("somatic")
    except PackageNotFoundError:
        number = "0"
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return number
    commit = _git(root, "rev-parse", "--short=12", "HEAD")
    if not commit:
        return number
    dirty = ".dirty" if _git(root, "status", "--porcelain", "--untracked-files=no") else ""
    return f"{number}+g{commit}{dirty}"


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that may change a number."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in _NUMERIC_LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
