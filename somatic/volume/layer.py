"""Opening a Precomputed layer, and what its failures mean."""

import requests
from cloudvolume import CloudVolume
from cloudvolume.exceptions import (
    InfoUnavailableError,
    ScaleUnavailableError,
    UnsupportedFormatError,
    UnsupportedProtocolError,
)
from cloudvolume.paths import extract

from somatic.errors import SegmentationError, SegmentationUnavailable, typed_line
from somatic.volume.transport import bound_http

_PROTOCOLS = ("file", "gs", "s3", "http", "https")


def open_layer(url: str, mip: int = 0) -> CloudVolume:
    """Open a Precomputed layer for reading; public buckets without credentials.

    Raises
    ------
    SegmentationError
        No such layer, no such mip, or not Precomputed.
    SegmentationUnavailable
        Its server does not answer.
    """
    bound_http()
    if not _is_precomputed(url):
        raise SegmentationError(f"{url} is not a Precomputed layer; only precomputed://STORE://PATH can be read")
    # A token or key of this machine must never be sent to a public bucket.
    anonymous = url.removeprefix("precomputed://").startswith(("gs://", "s3://"))
    try:
        return CloudVolume(url, mip=mip, fill_missing=True, use_https=anonymous, progress=False)
    except ScaleUnavailableError:
        scales = CloudVolume(url, use_https=anonymous, progress=False).scales
        known = ", ".join(f"{n} ({'x'.join(f'{r:g}' for r in s['resolution'])} nm)" for n, s in enumerate(scales))
        raise SegmentationError(f"mip {mip} does not exist in {url}: it has {known}") from None
    except (InfoUnavailableError, FileNotFoundError):
        raise SegmentationError(f"there is no Precomputed layer at {url} (no info file)") from None
    except (UnsupportedFormatError, ValueError, LookupError, TypeError) as error:
        raise SegmentationError(f"{url} is not a segmentation that can be read: {typed_line(error)}") from error
    except requests.HTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            refused = f"{url} may not be read (HTTP {error.response.status_code})"
            raise SegmentationError(f"{refused}; gs:// and s3:// are read without credentials") from error
        raise read_error(url, error) from error
    except MemoryError:
        raise
    except Exception as error:
        raise read_error(url, error) from error


def read_error(url: str, error: Exception) -> SegmentationUnavailable:
    """A failure to read a file of a layer that could be opened; whatever it is, the file may come another time."""
    return SegmentationUnavailable(f"reading {url} failed: {typed_line(error)}")


def _is_precomputed(url: str) -> bool:
    try:
        path = extract(url)
        # Of others, such as middleauth+https, cloud-files would look up a token of this machine and send it there.
        return path.format == "precomputed" and path.protocol in _PROTOCOLS
    except UnsupportedProtocolError:
        return False
