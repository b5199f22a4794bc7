"""Files of layers on this machine, which may be copies of what a stranger made."""

import re
import stat
from pathlib import Path

from cloudfiles.interfaces import FileInterface, read_file

from somatic.volume.compression import decompress
from somatic.volume.refusal import Refused

LARGEST_FILE_BYTES = 2**30
"""Of a file of a layer as it is stored; a shard is larger, and is read in parts."""
LARGEST_CONTENT_BYTES = 2**28
"""Of a file that holds no voxels, decompressed."""
VOXELS = re.compile(r"-?\d+--?\d+_-?\d+--?\d+_-?\d+--?\d+")
"""Name of a file of voxels in a layer without shards."""

Content = tuple[bytes | None, str | None, None, None]


class LocalFiles(FileInterface):
    """cloud-files' own way to read a disk, for regular files alone and up to their real length."""

    def get_file(
        self,
        file_path: str,
        start: int | None = None,
        end: int | None = None,
        part_size: int | None = None,  # noqa: ARG002 - cloud-files names it
    ) -> Content:
        """Content and encoding of a file; None for one that does not exist."""

        def read(path: str, encoding: str | None) -> Content:
            n_bytes = _length_of(path)
            if start is None and end is None:
                if n_bytes > LARGEST_FILE_BYTES:
                    raise Refused(path, f"{path} has {n_bytes} bytes, more than {LARGEST_FILE_BYTES}")
                content, encoding, _, _ = read_file(path, encoding, None, None)
                return opened(file_path, content, encoding)
            # Python allocates what it is asked to read.
            first = min(start or 0, n_bytes)
            last = max(min(n_bytes if end is None else end, n_bytes), first)
            return read_file(path, encoding, first, last)

        return self._try_extensions(file_path, read, (None, None, None, None))


def opened(file_path: str, content: bytes | None, encoding: str | None) -> Content:
    """A file as it is handed on: of voxels as it is stored, any other decompressed.

    Raises
    ------
    ValueError
        It decompresses to more than `LARGEST_CONTENT_BYTES`.
    """
    if content is None or not encoding or VOXELS.fullmatch(Path(file_path).name):
        return content, encoding, None, None
    return decompress(content, encoding, LARGEST_CONTENT_BYTES), None, None, None


def _length_of(path: str) -> int:
    """Bytes of a regular file; a pipe would be waited for, and a device has no end."""
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):
        raise (
            FileNotFoundError(path) if stat.S_ISDIR(status.st_mode) else Refused(path, f"{path} is not a regular file")
        )
    return status.st_size
