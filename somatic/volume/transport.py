"""How cloud-volume reaches the stores of our layers: within bounded time, and never taking a failure for a hole.

cloud-files, through which cloud-volume reads, sends HTTP requests without time-out and takes a 403 for a file that does
not exist, which becomes background. Where a layer was opened by us its files are fetched by stores of ours in place of
cloud-files' own; whatever else this process reads and writes with cloud-files stays as it is.
"""

import posixpath
from functools import partial
from typing import Any, Protocol

import cloudfiles.cloudfiles
from cloudfiles.interfaces import StorageInterface
from cloudfiles.paths import ExtractedPath
from cloudfiles.paths import extract as extract_cloudfiles

from somatic.volume.access import Access
from somatic.volume.compression import decompress
from somatic.volume.http_store import google_store, web_store
from somatic.volume.local_files import LARGEST_CONTENT_BYTES, VOXELS, LocalFiles, opened
from somatic.volume.patience import patiently
from somatic.volume.refusal import Refused

_PROTOCOLS = ("http", "https", "s3", "gs")
_FORBIDDEN = 403
# How cloud-volume names compressed files on a disk, and what they are then.
_ENDINGS = {"": None, ".gz": "gzip", ".br": "br"}
_GZIP = b"\x1f\x8b\x08"
_AS_NAMED = ("info", "provenance")


class Store(Protocol):
    """Where files come from."""

    def fetch(self, key: str, start: int | None = None, end: int | None = None) -> tuple[bytes, str] | None:
        """Bytes of a file or of a range of it, and their encoding as HTTP names it; None when there is no such file."""

    def has(self, key: str) -> bool:
        """Whether there is a file."""


class _Route:
    """A store, and in which of its folders files are known to be called what."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.endings: dict[str, str] = {}


_routes: dict[str, _Route] = {}


def route(cloudpath: str, access: Access) -> None:
    """Have the files below a path be read by a store of ours from now on; a path on this machine stays as it is.

    Parameters
    ----------
    cloudpath : str
        As cloud-volume takes it. With credentials gs:// and s3:// are the user's, else anybody's over https://.
    access : Access

    Raises
    ------
    SegmentationError, SegmentationUnavailable
        The credentials cannot be used, or could not be had.
    """
    path = extract_cloudfiles(cloudpath)
    cloudfiles.cloudfiles.INTERFACES["file"] = LocalFiles
    if path.protocol not in _PROTOCOLS:
        return
    _take_over()
    _routes[_address(path)] = _Route(_store_of(path, access))


def _store_of(path: ExtractedPath, access: Access) -> Store:
    if path.protocol == "gs":
        return google_store(path.bucket, access)
    if path.protocol == "s3":
        # boto3 takes a while to import, and most layers are public.
        from somatic.volume.s3_store import S3Store

        return S3Store(path.bucket, access)
    return web_store(path.host, access)


def _take_over() -> None:
    interfaces = cloudfiles.cloudfiles.INTERFACES
    for protocol in _PROTOCOLS:
        if not isinstance(interfaces[protocol], _Routed):
            interfaces[protocol] = _Routed(interfaces[protocol])


class _Routed:
    """Makes an interface of ours for files of layers that were opened here, and cloud-files' own for all others."""

    def __init__(self, original: type[StorageInterface]) -> None:
        self._original = original

    def __call__(self, path: ExtractedPath, **options: Any) -> StorageInterface:
        found = _route_of(path)
        return self._original(path, **options) if found is None else _Interface(path, found)

    def __getattr__(self, name: str) -> Any:
        # Asked for by pickle before there is an original.
        if name == "_original":
            raise AttributeError(name)
        return getattr(self._original, name)


class _Interface(StorageInterface):
    """What cloud-files reads a layer's files with."""

    def __init__(self, path: ExtractedPath, found: _Route) -> None:
        super().__init__()
        self._folder = path.path
        self._store = found.store
        self._endings = found.endings

    def get_file(
        self,
        file_path: str,
        start: int | None = None,
        end: int | None = None,
        part_size: int | None = None,  # noqa: ARG002 - cloud-files names it
    ) -> tuple[bytes | None, str | None, None, None]:
        """Content and encoding of a file; None for one that does not exist."""
        key = self._key(file_path)
        if start is not None or end is not None:
            part = patiently(partial(self._store.fetch, key, start, end))
            return (*(part or (None, None)), None, None)
        refused: Refused | None = None
        for ending in self._endings_of(key):
            try:
                found = patiently(partial(self._store.fetch, key + ending))
            except Refused as error:
                refused = refused or error
                continue
            if found:
                self._note(key, ending)
                content, encoding = found
                return opened(file_path, content, _ENDINGS[ending] or encoding or _unnamed_encoding(content))
        # The info file of a mesh layer is optional, and some stores do not tell whether they have one.
        if refused and not (refused.status == _FORBIDDEN and file_path.endswith("/info")):
            raise refused
        return None, None, None, None

    def exists(self, file_path: str) -> bool:
        """Whether there is a file."""
        key = self._key(file_path)
        refused: Refused | None = None
        for ending in self._endings_of(key):
            try:
                if patiently(partial(self._store.has, key + ending)):
                    return True
            except Refused as error:
                refused = refused or error
        if refused:
            raise refused
        return False

    def files_exist(self, file_paths: list[str]) -> dict[str, bool]:
        """Which of some files there are."""
        return {path: self.exists(path) for path in file_paths}

    def _key(self, file_path: str) -> str:
        return posixpath.join(self._folder, file_path)

    def _endings_of(self, key: str) -> list[str]:
        """What may follow the name of a file where a store serves files under the names that they have on a disk.

        As soon as a file of voxels was served, others of its folder are not looked for under other names.
        """
        folder, name = posixpath.split(key)
        known = self._endings.get(folder)
        if name in _AS_NAMED or (known == "" and VOXELS.fullmatch(name)):
            return [""]
        return sorted(_ENDINGS, key=lambda ending: ending != known) if known else list(_ENDINGS)

    def _note(self, key: str, ending: str) -> None:
        folder, name = posixpath.split(key)
        if VOXELS.fullmatch(name):
            self._endings[folder] = ending


def _unnamed_encoding(content: bytes) -> str | None:
    """Encoding of a file of which the store names none: some lose that it was uploaded gzipped."""
    if not content.startswith(_GZIP):
        return None
    try:
        decompress(content, "gzip", LARGEST_CONTENT_BYTES)
    except ValueError:
        # Too large for a file of a layer, which its reader says.
        return "gzip"
    except Exception:
        return None
    # Its checksum is right, so it is no other file that begins like this.
    return "gzip"


def _route_of(path: ExtractedPath) -> _Route | None:
    """The store of the layer that a path is in."""
    address = _address(path)
    while address:
        if address in _routes:
            return _routes[address]
        address = address.rpartition("/")[0]
    return None


def _address(path: ExtractedPath) -> str:
    parts = (f"{path.protocol}:", path.host or "", path.bucket or "", path.path)
    return "/".join(part for part in parts if part).rstrip("/")
