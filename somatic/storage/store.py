"""Where results lie: files below one URL, in a folder or in a bucket (any fsspec URL)."""

import contextlib
import copy
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import fsspec
import tenacity
from fsspec.asyn import sync
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from somatic.errors import StoreError, StoreUnavailable, one_line
from somatic.storage.faults import is_fault_of_a_place, is_without_bucket, store_error
from somatic.urls import results_fault

PATIENCE_S = 120.0
"""A place that cannot be written for now is tried again for so long: what is to be written took longer to measure."""


class ResultStore:
    """Files below one URL, each written whole or not at all.

    Endpoint and credentials are those of the protocol's own users: for s3 the environment (AWS_ENDPOINT_URL,
    AWS_PROFILE, AWS_ACCESS_KEY_ID ...), ~/.aws, or the role of the machine.

    Parameters
    ----------
    url : str
        Any fsspec URL, or a path.

    Attributes
    ----------
    url : str
        Without a slash at its end; an absolute path for a folder of this machine.

    Raises
    ------
    StoreError
        The protocol is not known or its package is missing, or the URL holds a password.
    """

    def __init__(self, url: str) -> None:
        self._fs, self._root = _filesystem(url)
        self._local = isinstance(self._fs, LocalFileSystem)
        self.url = self._root if self._local else url.rstrip("/")

    def __repr__(self) -> str:
        return f"ResultStore({self.url!r})"

    def url_of(self, name: str) -> str:
        """URL of one file or folder below the store."""
        return f"{self.url.rstrip('/')}/{name}"

    def below(self, folder: str) -> "ResultStore":
        """The store of a folder in this one; it shares the connections."""
        found = copy.copy(self)
        found._root, found.url = self._path(folder), self.url_of(folder)
        return found

    def put(self, name: str, data: bytes, *, timeout_s: float = 300, patience_s: float = PATIENCE_S) -> None:
        """Write a whole file; who reads at the same time gets the old bytes or the new ones, never a part.

        Raises
        ------
        StoreError, StoreUnavailable
            The file was not written, for good, or for now and for `patience_s`.
        """

        def put_once() -> None:
            with _explained(self.url_of(name), "write"):
                self._write(name, data, timeout_s)

        _patiently(patience_s)(put_once)

    def put_new(self, name: str, data: bytes) -> bool:
        """Write a whole file unless one of this name exists; says whether it was written.

        Two writers at the same moment may both write. That is harmless for the files this is for: equal names
        mean equal content, or the same cells measured twice.

        Raises
        ------
        StoreError, StoreUnavailable
            It could not be looked for or not be written, for good or for now and for `PATIENCE_S`.
        """
        if _patiently(PATIENCE_S)(self.exists, name):
            return False
        self.put(name, data)
        return True

    def get(self, name: str, *, largest_bytes: int | None = None) -> bytes:
        """Bytes of a file.

        Parameters
        ----------
        name : str
        largest_bytes : int, optional
            A larger file is refused.

        Raises
        ------
        StoreError, StoreUnavailable
            There is no such file, or it could not be read, permanently or transiently; in a folder also what is not a
            regular file.
        """
        with _explained(self.url_of(name), "read"):
            n_bytes = _length_of(Path(self._path(name))) if self._local else 0
            data = self._call("cat_file", name) if not largest_bytes or n_bytes <= largest_bytes else b""
        if largest_bytes and max(n_bytes, len(data)) > largest_bytes:
            raise StoreError(f"cannot read {self.url_of(name)}: it is larger than {largest_bytes // 1024} kB")
        return data

    def copy(self, name: str, other: "ResultStore") -> None:
        """Write a file of this store under the same name to another store of the same protocol.

        Raises
        ------
        StoreError, StoreUnavailable
            There is no such file, or it was not written, for good or for now.
        """
        if self._local:
            other.put(name, self.get(name))
            return
        with _explained(self.url_of(name), "copy"):
            self._call("cp_file", name, other._path(name))

    def exists(self, name: str) -> bool:
        """Whether there is such a file or folder.

        Raises
        ------
        StoreError, StoreUnavailable
            The place could not be read, for good or for now.
        """
        with _explained(self.url_of(name), "read"):
            try:
                self._call("info", name)
            except FileNotFoundError as error:
                if is_without_bucket(error):
                    raise
                return False
            return True

    def names(self, folder: str) -> list[str]:
        """Names of the files and folders in a folder ("" for the store itself), sorted; none when there is none.

        Raises
        ------
        StoreError, StoreUnavailable
            The place could not be read, for good or for now.
        """
        with _explained(self.url_of(folder), "read"):
            try:
                found = self._call("ls", folder, detail=False)
            except FileNotFoundError as error:
                if is_without_bucket(error):
                    raise
                return []
        prefix = self._path(folder).rstrip("/") + "/"
        names = (path.rstrip("/").removeprefix(prefix) for path in found)
        return sorted(name for name in names if name and "/" not in name and not name.startswith("."))

    def check_writable(self, *, timeout_s: float = 20) -> None:
        """Write a small file and delete it.

        Raises
        ------
        StoreError, StoreUnavailable
            In one line: what is wrong with the place, within about `timeout_s`.
        """
        name = f".writable-{secrets.token_hex(4)}"
        with _explained(self.url, "write to"):
            self._write(name, b"somatic\n", timeout_s)
            self._call("rm_file", name, timeout_s=timeout_s)

    def _write(self, name: str, data: bytes, timeout_s: float) -> None:
        if self._local:
            _put_local(Path(self._path(name)), data)
        else:
            self._call("pipe_file", name, data, timeout_s=timeout_s)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _call(self, method: str, name: str, *args: Any, timeout_s: float = 300, **kwargs: Any) -> Any:
        """Call a method of the file system, with a time limit where it can have one."""
        if self._fs.async_impl:
            self._connect(timeout_s)
            call = getattr(self._fs, f"_{method}")
            return sync(self._fs.loop, call, self._path(name), *args, timeout=timeout_s, **kwargs)
        return getattr(self._fs, method)(self._path(name), *args, **kwargs)

    def _connect(self, timeout_s: float) -> None:
        """Make the client of S3 where that is not done yet: what is wrong with its settings is a ValueError."""
        if not hasattr(self._fs, "set_session"):
            return
        try:
            sync(self._fs.loop, self._fs.set_session, timeout=timeout_s)
        except ValueError as error:
            raise StoreError(
                f"{self.url}: the settings of S3 are invalid: {one_line(error)}; check AWS_ENDPOINT_URL, the other "
                "AWS_ variables and ~/.aws/config"
            ) from error


def _filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    protocol = url.partition("://")[0] if "://" in url else "file"
    if fault := results_fault(url):
        # What stands before an @ may be a password.
        raise StoreError(f"{'...' + url.rpartition('@')[2] if '@' in url else url}: {fault}")
    if protocol != "file" and "@" in urlsplit(url).netloc:
        raise StoreError(f"{protocol}://...: a password does not belong in a URL; give it the way {protocol} users do")
    if "::" in url:
        raise StoreError(f"{url}: chained URLs cannot hold results; give a plain one, like s3://bucket/folder")
    # Other processes write too: a cached listing or a client of an older environment would lie.
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if protocol in ("s3", "s3a"):
        options["max_concurrency"] = 1  # spares a HEAD request before every read
    try:
        os.fsencode(url)
        fs, root = url_to_fs(url, **options)
    # The last two where a file system needs more than a URL says.
    except (ValueError, ImportError, OSError, TypeError, AttributeError) as error:
        raise StoreError(f"{url}: {one_line(error)}; results can be in a folder or at s3://...") from error
    return fs, cast(str, root)


def _patiently(patience_s: float) -> tenacity.Retrying:
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(StoreUnavailable),
        stop=tenacity.stop_after_delay(patience_s),
        wait=tenacity.wait_random_exponential(1, max=15),
        reraise=True,
    )


def _put_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with hidden.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        hidden.replace(path)
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise


def _length_of(path: Path) -> int:
    """Bytes of a regular file; a pipe would be waited for, and a device has no end."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    return status.st_size


@contextlib.contextmanager
def _explained(where: str, verb: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_fault_of_a_place(error):
            raise
        raise store_error(error, where, verb) from error
