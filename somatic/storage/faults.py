"""What the errors of file systems mean: which are errors of a place, and which of those may be gone a little later."""

import errno
from typing import Any

import botocore.exceptions as boto

from somatic.errors import StoreError, StoreUnavailable, one_line

_PASSING = {errno.EREMOTEIO, errno.EBUSY, errno.EAGAIN, errno.EIO, errno.ESTALE, errno.ETIMEDOUT}
"""Error numbers that may be gone a little later; s3fs gives EREMOTEIO for a 500 and EBUSY for 409 and 503."""

_NO_CREDENTIALS = (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError)

_CLIENTS = {
    "adlfs",
    "aiobotocore",
    "aiohttp",
    "azure",
    "botocore",
    "fsspec",
    "gcsfs",
    "google",
    "requests",
    "s3fs",
    "urllib3",
}
"""Packages whose own errors are those of the places that they connect to."""


def is_fault_of_a_place(error: Exception) -> bool:
    """Whether a place or the way to it is at fault, and not a lack of memory or a mistake in a program."""
    # The second where a place can be read and not written.
    return isinstance(error, OSError | NotImplementedError) or type(error).__module__.partition(".")[0] in _CLIENTS


def store_error(error: Exception, where: str, verb: str) -> StoreError | StoreUnavailable:
    """Turn what a file system raised into our error of its kind."""
    start = f"cannot {verb} {where}"
    bucket = "/".join(where.split("/", 3)[:3])
    if isinstance(error, _NO_CREDENTIALS):
        return StoreError(f"{start}: no credentials for {bucket}; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and its secret")
    if isinstance(error, boto.ParamValidationError):
        return StoreError(f"{start}: S3 allows no such name of a bucket or file; choose another place")
    if is_without_bucket(error):
        return StoreError(f"{start}: there is no bucket {bucket}; create it or choose another place")
    if is_passing(error):
        return StoreUnavailable(f"{start} for now: {_said(error)}; try again later")
    advice = "check its permissions and your credentials" if isinstance(error, PermissionError) else "check it"
    return StoreError(f"{start}: {_said(error)}; {advice} or choose another place")


def is_passing(error: Exception) -> bool:
    """Whether a fault of a place may be gone a little later."""
    if isinstance(error, TimeoutError | ConnectionError | boto.HTTPClientError | boto.ConnectionError):
        return True
    # s3fs keeps the answer of S3; an error of gcsfs has the status itself.
    status = _s3_answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode") or getattr(error, "code", None)
    if status is not None:
        return status in (408, 409, 429, 500, 502, 503, 504)
    if isinstance(error, OSError) and error.errno in _PASSING:
        return True
    return type(error).__module__.startswith(("aiohttp", "requests"))


def is_without_bucket(error: BaseException) -> bool:
    """Whether S3 says that there is no such bucket."""
    return _s3_answer(error).get("Error", {}).get("Code") == "NoSuchBucket"


def _s3_answer(error: BaseException) -> dict[str, Any]:
    """What S3 answered, behind an error of s3fs; empty where there is none."""
    answer = getattr(error.__cause__, "response", None)
    return answer if isinstance(answer, dict) else {}


def _said(error: Exception) -> str:
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    text = one_line(error.strerror) if isinstance(error, OSError) and error.strerror else one_line(error)
    return text.rstrip(".")
