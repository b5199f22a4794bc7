"""Decompressing files of layers, up to a size that the reader of a file knows."""

import bz2
import lzma
import zlib

import brotli
import zstandard
from cloudfiles import compression

_GZIP_TRAILER_BYTES = 4
_GZIP = 31
"""Window and header of zlib for a gzip file."""
_MOST_MEMORY_BYTES = 2**28


def decompress(content: bytes, encoding: str | None, most_bytes: int) -> bytes:
    """Decompress a file.

    Parameters
    ----------
    content : bytes
    encoding : str or None
        As HTTP names it, or as cloud-volume does; empty or None where it is not compressed.
    most_bytes : int
        Longest content that is accepted.

    Raises
    ------
    ValueError
        The content is longer, whatever the file claims.
    Exception
        The file is damaged.
    """
    encoding = (encoding or "").lower()
    found = content if not encoding else _decompressed(content, encoding, most_bytes)
    if len(found) > most_bytes:
        raise ValueError(f"it holds more than the {most_bytes} bytes that it can have")
    return found


def _decompressed(content: bytes, encoding: str, most_bytes: int) -> bytes:
    """Content, or a little more than `most_bytes` of it."""
    if encoding == "gzip":
        # libdeflate is faster than zlib, and allocates what the trailer claims.
        claimed = int.from_bytes(content[-_GZIP_TRAILER_BYTES:], "little")
        if compression.deflate and claimed <= most_bytes:
            return compression.decompress(content, encoding)
        return _limited(zlib.decompressobj(_GZIP), content, most_bytes)
    if encoding == "br":
        brotli_reader = brotli.Decompressor()
        found = brotli_reader.process(content, output_buffer_limit=most_bytes + 1)
        return _whole(found, brotli_reader.is_finished(), most_bytes)
    if encoding == "zstd":
        if zstandard.frame_content_size(content) > most_bytes:
            raise ValueError(f"it claims more than the {most_bytes} bytes that it can have")
        with zstandard.ZstdDecompressor(max_window_size=_MOST_MEMORY_BYTES).stream_reader(content) as reader:
            return reader.read(most_bytes + 1)
    if encoding in ("bz2", "bzip2"):
        return _limited(bz2.BZ2Decompressor(), content, most_bytes)
    if encoding in ("xz", "lzma"):
        return _limited(lzma.LZMADecompressor(memlimit=_MOST_MEMORY_BYTES), content, most_bytes)
    raise ValueError(f"its compression {encoding[:40]!r} is not known")


def _limited(reader: object, content: bytes, most_bytes: int) -> bytes:
    found = reader.decompress(content, most_bytes + 1)  # type: ignore[attr-defined]
    return _whole(found, reader.eof, most_bytes)  # type: ignore[attr-defined]


def _whole(found: bytes, is_finished: bool, most_bytes: int) -> bytes:
    if not is_finished and len(found) <= most_bytes:
        raise EOFError("its compressed content is cut short")
    return found
