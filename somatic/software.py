"""Which software made a number: the version of somatic and of the libraries below it."""

import functools
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_NUMERIC_LIBRARIES = (
    "numpy",
    "scipy",
    "trimesh",
    "zmesh",
    "numba",
    "cloud-volume",
    "compressed-segmentation",
    "pyarrow",
)
"""Libraries whose version may change a number or a byte."""


@functools.cache
def code_version() -> str:
    """Version of somatic, and the commit where it is known, with `.dirty` when files differ from it.

    A checkout knows its commit; an image is told of it in SOMATIC_COMMIT when it is built.
    """
    try:
        number = version("somatic-features")
    except PackageNotFoundError:
        number = "0"
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        commit = os.environ.get("SOMATIC_COMMIT", "")
    elif commit := _git(root, "rev-parse", "--short=12", "HEAD"):
        commit += ".dirty" if _git(root, "status", "--porcelain", "--untracked-files=no") else ""
    return f"{number}+g{commit}" if commit else number


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
