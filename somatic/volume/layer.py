"""Opening a Precomputed layer, and what its failures mean."""

from typing import Any

from cloudfiles import CloudFiles
from cloudfiles.exceptions import UnsupportedProtocolError as UnsupportedStoreError
from cloudfiles.paths import extract as extract_cloudfiles
from cloudvolume import CloudVolume
from cloudvolume.exceptions import ScaleUnavailableError, UnsupportedProtocolError
from cloudvolume.paths import extract, to_https_protocol

from somatic.errors import RefusedLayer, SegmentationError, SegmentationUnavailable, SomaticError, quoted, typed_line
from somatic.strict_json import load_json
from somatic.volume.access import ANONYMOUS, Access
from somatic.volume.compression import decompress
from somatic.volume.info import LARGEST_INFO_BYTES, checked_info
from somatic.volume.refusal import Refused
from somatic.volume.transport import route

_PRECOMPUTED = "precomputed://"
_WEB = ("http", "https")
_MOST_REDIRECTS = 10

_PROTOCOLS = ("file", "gs", "s3", "http", "https")


def open_layer(url: str, mip: int = 0, access: Access = ANONYMOUS, *, with_meshes: bool = False) -> CloudVolume:
    """Open a Precomputed layer for reading.

    Parameters
    ----------
    url : str
        cloud-volume path of the layer.
    mip : int
        Which of its resolutions.
    access : Access
        Whether it is read anonymously or with the user's credentials.
    with_meshes : bool
        Whether its meshes are read too; without, nothing of the mesh layer is.

    Raises
    ------
    SegmentationError
        No such layer, no such mip, or not Precomputed; `RefusedLayer` where its store refuses it.
    SegmentationUnavailable
        Its server does not answer.
    """
    if not _is_precomputed(url):
        raise SegmentationError(f"{url} is not a Precomputed layer; only precomputed://STORE://PATH can be read")
    try:
        place, info = _find_info(url, access)
        info = checked_info(info, mip)
        for key in ("skeletons",) if with_meshes else ("skeletons", "mesh"):
            info.pop(key, None)
        # The provenance file holds nothing that is read here, and a layer may lack it.
        return CloudVolume(
            place, mip=mip, info=info, provenance={}, fill_missing=True, cache_locking=False, progress=False
        )
    except ScaleUnavailableError:
        known = ", ".join(
            f"{n} ({'x'.join(f'{r:g}' for r in s['resolution'])} nm)" for n, s in enumerate(info["scales"])
        )
        raise SegmentationError(f"mip {mip} does not exist in {url}: it has {known}") from None
    except Refused as refused:
        raise RefusedLayer(f"{url} cannot be read: {refused}; {_advice(url, access)}") from refused
    except (SomaticError, MemoryError):
        raise
    except (ValueError, LookupError, TypeError) as error:
        raise SegmentationError(f"{url} is not a segmentation that can be read: {typed_line(error)}") from error
    except Exception as error:
        raise read_error(url, error) from error


def is_served(volume: CloudVolume, path: str) -> bool:
    """Whether the store of a layer serves a file of it at this moment; raises what keeps it from answering."""
    try:
        return bool(CloudFiles(volume.meta.cloudpath).exists(path))
    except Refused:
        return False


def read_error(url: str, error: Exception) -> SomaticError:
    """What a failure to read a file of a layer means that could be opened.

    A refusal, by the store or by this machine, is permanent; whatever else it is, the file may come another time.
    """
    if isinstance(error, Refused | PermissionError):
        return RefusedLayer(f"reading {url} failed: {typed_line(error) if isinstance(error, OSError) else error}")
    return SegmentationUnavailable(f"reading {url} failed: {typed_line(error)}")


def _find_info(url: str, access: Access) -> tuple[str, dict[str, Any]]:
    """Where a layer is read from, as cloud-volume takes it, and its info file; redirects in that are followed."""
    visited: list[str] = []
    place = _place(url, access)
    while True:
        route(place, access)
        info = _read_info(place)
        if info is None:
            raise SegmentationError(f"there is no Precomputed layer at {url} (no info file)")
        target = info.get("redirect")
        if target and not (isinstance(target, str) and _is_precomputed(target)):
            raise SegmentationError(f"{url} redirects to {quoted(target)}, which is not a Precomputed layer")
        if not target or _place(target, access) == place:
            return place, info
        visited.append(place)
        place = _place(target, access)
        if access.credentials:
            raise SegmentationError(f"{url} redirects to {target}; write that URL in its place")
        if place in visited or len(visited) > _MOST_REDIRECTS:
            raise SegmentationError(f"{url} redirects in a circle, by way of {target}")
        if extract(place).protocol not in _WEB:
            raise SegmentationError(f"{url} redirects to {target}, which is not on the web")


def _read_info(place: str) -> dict[str, Any] | None:
    [file] = CloudFiles(place).get(["info"], raw=True)
    if file["content"] is None:
        return None
    info = load_json(decompress(file["content"], file["compress"], LARGEST_INFO_BYTES))
    if not isinstance(info, dict):
        raise TypeError(f"its info file holds a {type(info).__name__}, expected an object")
    return info


def _place(url: str, access: Access) -> str:
    """A layer as cloud-volume takes it; without credentials a bucket is a web site, so that it never gets a key."""
    return url.rstrip("/") if access.credentials else to_https_protocol(url.rstrip("/"))


def _advice(url: str, access: Access) -> str:
    if access.credentials:
        return "check the credentials, and that they are allowed to read it"
    if url.removeprefix(_PRECOMPUTED).startswith(("gs://", "s3://")):
        return (
            "there is no such layer, or it is private: it was read without credentials (docs/datasets.md, credentials)"
        )
    return "there is no such layer, or it is not public"


def _is_precomputed(url: str) -> bool:
    try:
        place = to_https_protocol(url)
        extract_cloudfiles(place)
        path = extract(place)
        # Of others, such as middleauth+https, cloud-files would look up a token of this machine and send it there.
        return path.format == "precomputed" and path.protocol in _PROTOCOLS
    except (UnsupportedProtocolError, UnsupportedStoreError):
        return False
