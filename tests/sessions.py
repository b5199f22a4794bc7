"""What all processes of a test session share, since it takes long to make."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SMALL_UM = (36.0, 24.0, 38.0)
"""Extent of a scene with three of the phantom's nuclei: two with a cell, and one without a root."""


@contextmanager
def once_a_session(factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """A path that is the same in all processes of a session; one process at a time is inside, the first to make it."""
    folder = factory.getbasetemp()
    # Each of several processes has a folder of its own in one that they share.
    path = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / name
    with path.with_name(f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield path
