"""Files of a bucket of S3, read with the user's credentials as AWS's own library finds them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import botocore.exceptions as boto
from botocore.config import Config

from somatic.errors import SegmentationError, one_line
from somatic.volume import patience
from somatic.volume.access import Access
from somatic.volume.local_files import LARGEST_FILE_BYTES
from somatic.volume.refusal import Refused

_CONNECTIONS = 32
_PASSING = {408, 425, 429}
_PASSING_CODES = {"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "RequestTimeTooSkewed"}
_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.SSOError,
    boto.TokenRetrievalError,
)


class S3Store:
    """Files of a bucket. May be used by several threads.

    Endpoint, region, credentials and what else AWS's users set come from where they set it: the environment
    (AWS_ENDPOINT_URL_S3, AWS_PROFILE, AWS_ACCESS_KEY_ID ...), ~/.aws, or the role of the machine.

    Parameters
    ----------
    bucket : str
        Its name.
    access : Access
        Says who pays.

    Raises
    ------
    SegmentationError
        There are no credentials, or AWS's settings cannot be used.
    """

    def __init__(self, bucket: str, access: Access) -> None:
        self._bucket = bucket
        self._options = {"RequestPayer": "requester"} if access.requester_pays else {}
        config = Config(
            connect_timeout=patience.CONNECT_TIMEOUT_S,
            read_timeout=patience.READ_TIMEOUT_S,
            # Who calls tries again.
            retries={"mode": "standard", "total_max_attempts": 1},
            max_pool_connections=_CONNECTIONS,
        )
        try:
            session = boto3.session.Session()
            credentials = session.get_credentials()
            self._client: Any = session.client("s3", config=config)
        except (boto.BotoCoreError, ValueError) as error:
            raise SegmentationError(f"s3://{bucket} cannot be read with credentials: {one_line(error)}") from error
        if credentials is None:
            raise SegmentationError(
                f"no credentials for s3://{bucket}; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )

    def fetch(self, key: str, start: int | None = None, end: int | None = None) -> tuple[bytes, str] | None:
        """Bytes of a file and their Content-Encoding, or of a range of it; None when there is no such file.

        Raises
        ------
        Refused
            The store refuses it, or there are no valid credentials.
        EOFError
            It ends before the range.
        Exception
            The store does not answer, or not with the file.
        """
        ranged = {}
        if start is not None or end is not None:
            ranged["Range"] = f"bytes={start or 0}-{'' if end is None else end - 1}"
        answer = self._call(self._client.get_object, key, ranged)
        if answer is None:
            return None
        with answer["Body"] as body:
            content = body.read(LARGEST_FILE_BYTES + 1)
        if len(content) > LARGEST_FILE_BYTES:
            raise Refused(key, f"{key} has more than {LARGEST_FILE_BYTES} bytes")
        # What the uploading client split the body into is no encoding of the file.
        encodings = [part for part in answer.get("ContentEncoding", "").split(",") if part.strip() != "aws-chunked"]
        return content, ",".join(encodings).strip()

    def has(self, key: str) -> bool:
        """Whether there is a file; raises as `fetch`."""
        return self._call(self._client.head_object, key, {}) is not None

    def _call(self, method: Callable[..., dict[str, Any]], key: str, options: dict[str, Any]) -> dict[str, Any] | None:
        with _told_apart(key):
            try:
                return method(Bucket=self._bucket, Key=key, **self._options, **options)
            except boto.ClientError as error:
                status, code = _status(error), _code(error)
                if status == 404 and code != "NoSuchBucket":
                    return None
                raise


@contextmanager
def _told_apart(key: str) -> Iterator[None]:
    """Make a refusal of what would fail again, and leave what may pass as it is."""
    try:
        yield
    except boto.ClientError as error:
        status, code = _status(error), _code(error)
        if status == 416:
            raise EOFError(f"{key} ends before the range that was requested") from error
        if status in _PASSING or status >= 500 or code in _PASSING_CODES:
            raise
        message = error.response.get("Error", {}).get("Message", "")
        said = f"HTTP {status} {code}" + (f": {one_line(message)}" if message else "")
        raise Refused(key, said, status, code) from error
    except (*_NO_CREDENTIALS, boto.ParamValidationError) as error:
        raise Refused(key, one_line(error)) from error


def _status(error: boto.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: boto.ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "")
