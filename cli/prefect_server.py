"""The Prefect server that is set: whether it takes our requests, of which version it is, and what its errors mean."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from somatic.errors import PermanentError, SomaticError, TransientError, one_line

if TYPE_CHECKING:
    import httpx
    from prefect.client.orchestration import SyncPrefectClient

_CONNECT_S = 5.0
"""Prefect's client tries four times to connect."""
_ANSWER_S = 20.0
_MOST_FAULTS = 3
_WITHOUT = "or unset PREFECT_API_URL (and what `prefect config view` shows for it) to run without one"


def check_server() -> None:
    """See that the Prefect server which is set, if there is one, can be used.

    Raises
    ------
    PermanentError, TransientError
        It cannot; says which it is, why, and what to do.
    """
    from prefect.settings import PREFECT_API_URL

    if PREFECT_API_URL.value():
        with server(retries=0, advice=_WITHOUT):
            pass


@contextmanager
def server(*, retries: int = 1, advice: str = "or correct PREFECT_API_URL") -> "Iterator[SyncPrefectClient]":
    """Connect to the Prefect server that is set; whatever goes wrong with it inside is one line.

    Parameters
    ----------
    retries : int
        How often a request is tried again that is not answered.
    advice : str
        What else may be done about a server that does not answer, in words that follow "start it, ".

    Raises
    ------
    PermanentError, TransientError
        There is no such server, it refuses us, does not answer, or has another major version; or a request inside
        failed.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    host = _host(PREFECT_API_URL.value())
    if not host:
        raise PermanentError(
            f"PREFECT_API_URL is not the URL of a server; correct it, as in http://127.0.0.1:4200/api, {advice}"
        )
    patience = {"timeout": httpx.Timeout(_ANSWER_S, connect=_CONNECT_S)}
    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: retries}),
            get_client(httpx_settings=patience, sync_client=True) as client,
        ):
            _check(client, host)
            yield client
    except httpx.InvalidURL as error:
        raise PermanentError(f"PREFECT_API_URL is not a valid URL ({one_line(error)}); correct it") from error
    except httpx.HTTPError as error:
        raise server_error(error, advice) from error
    except PrefectException as error:
        raise PermanentError(f"the Prefect server at {host}: {one_line(error)}") from error


def check_version(client: "SyncPrefectClient", what: str) -> None:
    """See that the server is not older than the client, which it has to know all the requests of.

    Parameters
    ----------
    client : SyncPrefectClient
    what : str
        What needs it, as the error calls it.

    Raises
    ------
    PermanentError
        It is older; names both versions.
    """
    from prefect.client.base import ServerType

    if client.server_type == ServerType.CLOUD:
        return
    theirs, ours = client.api_version(), client.client_version()
    if _release(theirs) < _release(ours):
        host, needed = _host(str(client.api_url)), ".".join(map(str, _release(ours)))
        raise PermanentError(
            f"the Prefect server at {host} is too old for {what}: it has version {theirs}, and the client here {ours}; "
            f"nothing was changed; upgrade the server to version {needed} or newer"
        )


def server_error(error: "httpx.HTTPError", advice: str) -> SomaticError:
    """What a failed request to the Prefect server means, in one line without the password of its URL.

    Parameters
    ----------
    error : httpx.HTTPError
    advice : str
        As for `server`.
    """
    import httpx
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL

    host = _host(str(error.request.url)) if _has_request(error) else _host(PREFECT_API_URL.value())
    where = f"the Prefect server at {host}"
    if not isinstance(error, httpx.HTTPStatusError):
        return TransientError(f"{where} does not answer ({_said(error)}); start it, {advice}")
    status, detail = error.response.status_code, _detail(error.response)
    answer = f"{status} {detail}".strip()
    is_cloud = _is_cloud(PREFECT_API_URL.value())
    if status == httpx.codes.UNAUTHORIZED and is_cloud:
        return PermanentError(
            f"Prefect Cloud does not accept the API key ({answer}); set PREFECT_API_KEY, or run: prefect cloud login"
        )
    if status == httpx.codes.UNAUTHORIZED:
        problem = "does not accept that of" if PREFECT_API_AUTH_STRING.value() else "requires a password;"
        todo = "PREFECT_API_AUTH_STRING" if PREFECT_API_AUTH_STRING.value() else "set PREFECT_API_AUTH_STRING"
        return PermanentError(f"{where} {problem} {todo} ({answer}); it is USER:PASSWORD, as the server was given it")
    if status == httpx.codes.FORBIDDEN and is_cloud:
        return PermanentError(
            f"Prefect Cloud refuses {error.request.url.path} to this API key ({answer}); PREFECT_API_URL must name a "
            "workspace of the key's account, and the key needs permission for it"
        )
    if status == httpx.codes.TOO_MANY_REQUESTS or error.response.is_server_error:
        return TransientError(f"{where} answered {error.request.url.path} with {answer}; try again later")
    return PermanentError(f"{where} refused {error.request.url.path}: {answer}")


def error_in_a_run(error: "httpx.HTTPError") -> SomaticError:
    """The same of a server that could be used when the run began."""
    import httpx

    kept = "what was measured is kept, and the same command goes on from there"
    if isinstance(error, httpx.HTTPStatusError):
        refused = server_error(error, _WITHOUT)
        return type(refused)(f"{refused}; {kept}")
    return TransientError(f"Prefect's server stopped answering ({_said(error)}); {kept}")


def _check(client: "SyncPrefectClient", host: str) -> None:
    """See that a server is one of Prefect, of our major version, and lets us in."""
    from prefect.client.base import ServerType

    if client.server_type == ServerType.CLOUD:
        client.read_flows(limit=1)
        return
    try:
        theirs, ours = client.api_version(), client.client_version()
        major, our_major = _release(theirs)[0], _release(ours)[0]
    # An answer that is not JSON, or not a version.
    except (ValueError, TypeError) as error:
        raise PermanentError(
            f"what answers at {host} is not the API of a Prefect server; PREFECT_API_URL is to end in /api"
        ) from error
    if major != our_major:
        raise PermanentError(
            f"the Prefect server at {host} has version {theirs}, and the client here {ours}: their major versions must "
            f"be the same; set PREFECT_API_URL to a server of version {our_major}, or upgrade this one"
        )


def _release(version: str) -> tuple[int, int]:
    """Major and minor part of a version.

    Raises
    ------
    ValueError
        It is not a version.
    """
    found = re.match(r"(\d+)\.(\d+)", version)
    if not found:
        raise ValueError(f"{version!r} is not a version")
    return int(found[1]), int(found[2])


def _said(error: "httpx.HTTPError") -> str:
    return one_line(str(error).partition("\n")[0]) or type(error).__name__


def _detail(response: "httpx.Response") -> str:
    """Why a server refused, in its own words; never what it was sent, which it repeats and which may be a secret."""
    try:
        said = response.json()
    except ValueError:
        return ""
    if not isinstance(said, dict):
        return ""
    if isinstance(faults := said.get("exception_detail"), list):
        more = f" (and {len(faults) - _MOST_FAULTS} more)" if len(faults) > _MOST_FAULTS else ""
        return one_line("; ".join(map(_fault, faults[:_MOST_FAULTS]))) + more
    detail = said.get("detail") or said.get("exception_message") or ""
    return one_line(detail if isinstance(detail, str) else json.dumps(detail))


def _fault(fault: Any) -> str:
    if not isinstance(fault, dict):
        return str(fault)
    return f"{'.'.join(map(str, fault.get('loc', ())))}: {fault.get('msg')}"


def _host(url: str | None) -> str:
    """Name and port of a server. A password may stand before them."""
    parts = urlsplit(url or "")
    return parts.netloc.rpartition("@")[2] if parts.scheme in ("http", "https") else ""


def _is_cloud(url: str | None) -> bool:
    from prefect.settings import PREFECT_CLOUD_API_URL

    return (url or "").startswith(PREFECT_CLOUD_API_URL.value())


def _has_request(error: "httpx.HTTPError") -> bool:
    try:
        return bool(error.request)
    except RuntimeError:
        return False
