"""Opening the file of a table, in a folder or at a URL, which a stranger may have named and written."""

import gzip
import io
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import fsspec
import psutil

from somatic.errors import DatasetError
from somatic.protocols import READABLE, protocol_fault, protocol_of

_MOST_TIMES = 100
"""A table of ids shrinks to a tenth; what grows by more than this is no table."""
_ALWAYS_BYTES = 2**24


@contextmanager
def open_table(place: str) -> Iterator[IO[bytes]]:
    """Open a file for reading; of one that ends in .gz, what it decompresses to.

    Parameters
    ----------
    place : str
        A path, or a URL of a protocol in `somatic.protocols.READABLE`.

    Raises
    ------
    DatasetError
        The URL is of another kind, or the path that of a pipe, a device or a folder.
    OSError
        It cannot be opened; while reading, that it decompresses to far more than its length or to more than this
        machine's memory.
    """
    if fault := protocol_fault(place, READABLE):
        raise DatasetError(f"a table cannot be read: its address {fault}")
    with _opened(place) as file:
        if not place.partition("?")[0].lower().endswith(".gz"):
            yield file
            return
        yield unzipped(file)


def unzipped(file: IO[bytes]) -> IO[bytes]:
    """What a gzip file holds, to be read on.

    Raises
    ------
    OSError
        While reading: it is no gzip file, or holds far more than its length or than the memory of this machine.
    """
    return io.BufferedReader(_Unzipped(file), 2**20)


@contextmanager
def _opened(place: str) -> Iterator[IO[bytes]]:
    if protocol_of(place) != "file":
        with fsspec.open(place, "rb") as remote:
            yield remote
        return
    path = Path(place.removeprefix("file://")).expanduser()
    # A pipe would be waited for, and a device has no end.
    if not stat.S_ISREG(path.stat().st_mode):
        raise DatasetError(f"{place}: not a regular file")
    with path.open("rb") as file:
        yield file


class _Unzipped(io.RawIOBase):
    """What a gzip file holds, as long as that is not many times its length."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._unzipped = gzip.GzipFile(fileobj=file)
        self._n_bytes = 0
        self._most_bytes = psutil.virtual_memory().total

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, as `io.RawIOBase` has it."""
        n_bytes = self._unzipped.readinto(buffer)
        self._n_bytes += n_bytes
        if self._n_bytes > min(_ALWAYS_BYTES + _MOST_TIMES * self._file.tell(), self._most_bytes):
            raise OSError(f"it decompresses to more than {_MOST_TIMES} times its length")
        return n_bytes
