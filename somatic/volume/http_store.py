"""Files over HTTP: what each status means, and how requests are signed where they are."""

import os
import re
from urllib.parse import quote, urlsplit

import requests
from requests.adapters import HTTPAdapter

from somatic.errors import SegmentationError, SegmentationUnavailable, one_line
from somatic.volume import patience
from somatic.volume.access import Access
from somatic.volume.local_files import LARGEST_FILE_BYTES
from somatic.volume.refusal import Refused

_CONNECTIONS = 32
_READ_BYTES = 2**22
_LONGEST_BODY = 4096
# What may be gone a little later; so may every 5xx.
_PASSING = {requests.codes.request_timeout, requests.codes.too_early, requests.codes.too_many_requests}
_OTHER_REGION = ("PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed")
"""Codes of S3 that mean a bucket in another region, which a header then names."""
_CODE = re.compile(r"<Code>([^<]*)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
_READ_ONLY = "https://www.googleapis.com/auth/devstorage.read_only"
_GOOGLE = "https://storage.googleapis.com"


class HttpStore:
    """Files below a URL. May be used by several threads.

    Parameters
    ----------
    base_url : str
        What the key of a file is appended to.
    session : requests.Session
        Signs the requests, or does not.
    """

    def __init__(self, base_url: str, session: requests.Session) -> None:
        self._base_url = base_url.rstrip("/")
        self._session = session
        adapter = HTTPAdapter(pool_maxsize=_CONNECTIONS)
        session.mount("http://", adapter)
        session.mount("https://", adapter)

    def fetch(self, key: str, start: int | None = None, end: int | None = None) -> tuple[bytes, str] | None:
        """Bytes of a file and their Content-Encoding, or of a range of it; None when there is no such file.

        Raises
        ------
        Refused
            The store refuses it.
        EOFError
            It ends before the range.
        Exception
            The store does not answer, or not with the file.
        """
        headers = {}
        if start is not None or end is not None:
            headers["Range"] = f"bytes={start or 0}-{'' if end is None else end - 1}"
        with self._get(key, headers) as response:
            if not _has_file(response, key):
                return None
            if headers and response.status_code != requests.codes.partial_content:
                raise Refused(key, "the server ignores the header Range, which reading sharded files requires")
            response.raw.decode_content = False
            most_bytes = LARGEST_FILE_BYTES if end is None else end - (start or 0)
            return _body(response, key, most_bytes), response.headers.get("Content-Encoding", "")

    def has(self, key: str) -> bool:
        """Whether there is a file; raises as `fetch`."""
        with self._get(key, {}) as response:
            return _has_file(response, key)

    def _get(self, key: str, headers: dict[str, str]) -> requests.Response:
        timeout_s = (patience.CONNECT_TIMEOUT_S, patience.READ_TIMEOUT_S)
        return self._session.get(f"{self._base_url}/{key}", headers=headers, stream=True, timeout=timeout_s)


def web_store(host: str, access: Access) -> HttpStore:
    """Files of a web server, `https://HOST`, read anonymously or with the entry of the host in ~/.netrc.

    Raises
    ------
    SegmentationError
        Credentials would travel in plain text.
    """
    session = requests.Session()
    if not access.credentials:
        # Else requests would look into ~/.netrc.
        session.auth = _unsigned
    elif not host.startswith("https://") and urlsplit(host).hostname not in ("localhost", "127.0.0.1", "::1"):
        raise SegmentationError(f"{host} is not read with credentials, which http:// would send in plain text")
    return HttpStore(host, session)


def google_store(bucket: str, access: Access) -> HttpStore:
    """Files of a bucket of Google's storage, read with the user's application default credentials.

    STORAGE_EMULATOR_HOST names another server than Google's, which is read without credentials where there are none.

    Raises
    ------
    SegmentationError
        There are no credentials, or nobody to pay for the requests.
    SegmentationUnavailable
        Google does not answer.
    """
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
    from google.auth.transport.requests import AuthorizedSession

    server = os.environ.get("STORAGE_EMULATOR_HOST", "")
    if server and "://" not in server:
        server = f"http://{server}"
    project = None
    session: requests.Session
    try:
        credentials, project = google.auth.default(scopes=[_READ_ONLY])
        session = AuthorizedSession(credentials)
    except DefaultCredentialsError:
        if not server:
            raise SegmentationError(
                f"no credentials for gs://{bucket}; set GOOGLE_APPLICATION_CREDENTIALS to the file that has them, or "
                "run `gcloud auth application-default login`"
            ) from None
        session = requests.Session()
        session.auth = _unsigned
    except GoogleAuthError as error:
        raise SegmentationUnavailable(
            f"no answer about the credentials for gs://{bucket}: {one_line(error)}"
        ) from error
    if access.requester_pays:
        if not project:
            raise SegmentationError(
                f"no project that pays for reading gs://{bucket} (requester_pays); set GOOGLE_CLOUD_PROJECT"
            )
        session.headers["x-goog-user-project"] = project
    return _GoogleStore(f"{server or _GOOGLE}/{bucket}", session)


class _GoogleStore(HttpStore):
    """Keys are any text, and a failure to get a token is told apart from one that may pass."""

    def _get(self, key: str, headers: dict[str, str]) -> requests.Response:
        from google.auth.exceptions import RefreshError

        try:
            return super()._get(quote(key, safe="/:"), headers)
        except RefreshError as error:
            if error.retryable:
                raise
            raise Refused(key, f"Google gives no token for the credentials: {one_line(error)}") from error


def _body(response: requests.Response, key: str, most_bytes: int) -> bytes:
    """Content of an answer, which may have no end; an answer that is cut off raises at its last read."""
    parts, n_bytes = [], 0
    while part := response.raw.read(_READ_BYTES):
        n_bytes += len(part)
        if n_bytes > most_bytes:
            raise Refused(key, f"{key} has more than {most_bytes} bytes")
        parts.append(part)
    return b"".join(parts)


def _unsigned(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _has_file(response: requests.Response, key: str) -> bool:
    """Whether an answer brings a file, and not the word that there is none; raises what anything else means."""
    status = response.status_code
    if status in (requests.codes.ok, requests.codes.partial_content):
        return True
    body = response.raw.read(_LONGEST_BODY, decode_content=True).decode("utf-8", "replace")
    code, message = _found(_CODE, body), _found(_MESSAGE, body)
    if status == requests.codes.not_found and code != "NoSuchBucket":
        return False
    if status == requests.codes.requested_range_not_satisfiable:
        raise EOFError(f"{key} ends before the range that was requested")
    said = f"HTTP {status}" + (f" {code}" if code else "") + (f": {one_line(message)}" if message else "")
    if status in _PASSING or status < requests.codes.multiple_choices or status >= requests.codes.server_error:
        raise requests.HTTPError(f"{said} for {key}", response=response)
    if code in _OTHER_REGION and (region := response.headers.get("x-amz-bucket-region")):
        said += f" (the bucket is in the region {region}: write https://s3.{region}.amazonaws.com/BUCKET/...)"
    raise Refused(key, said, status, code)


def _found(pattern: re.Pattern[str], body: str) -> str:
    found = pattern.search(body)
    return found[1] if found else ""
