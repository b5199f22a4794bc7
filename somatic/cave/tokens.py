"""The access token of CAVE: which token belongs to a server, and to which hosts it may be sent.

A dataset file is input from strangers. It may name any server and any graph, but the token goes only to hosts that are
trusted without it: public servers of CAVE, what CAVE's own info names for a datastack, and what the user allows in
CAVE_TOKEN_HOSTS.
"""

import ipaddress
import os
import re
import threading
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import requests
from requests.auth import AuthBase
from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

from somatic.dataset import dataset_names, load_dataset
from somatic.errors import CaveTokenError

TOKEN_VARIABLE = "CAVE_TOKEN"
HOSTS_VARIABLE = "CAVE_TOKEN_HOSTS"
PUBLIC_SERVERS = frozenset(
    {
        "global.daf-apis.com",
        "global.em.brain.allentech.org",
        "global.brain-wire-test.org",
        "prod.flywire-daf.com",
    }
)
"""Servers of CAVE that anybody can get an account at; a token in CAVE_TOKEN is taken to be one of theirs."""

_GRAPH = re.compile(r"graphene://(?:middleauth\+)?(?P<address>https?://[^/?#]+)")

_named: dict[str, frozenset[str]] = {}
_named_lock = threading.Lock()


class TokenAuth(AuthBase):
    """Adds the token of a server to requests, and refuses requests to hosts that must not get it.

    Parameters
    ----------
    server : str
        Address of the CAVE server whose token it is.

    Raises
    ------
    CaveTokenError
        As for `find_token`.
    """

    def __init__(self, server: str) -> None:
        self._server = server
        self._token = find_token(server)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the token to one request; CaveTokenError where it would go to a host that must not get it."""
        check_host(request.url or "", self._server)
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def find_token(server: str) -> str:
    """Token for a CAVE server: CAVE_TOKEN of the environment, else the files that caveclient knows.

    Raises
    ------
    CaveTokenError
        There is none, it is invalid, or it must not be sent to this server; says why and what to do.
    """
    return _find(server)[0]


def token_origin(server: str) -> str:
    """Where the token for a server comes from: CAVE_TOKEN, or a token file."""
    return _find(server)[1]


def how_to_set_a_token(server: str) -> str:
    """Where to get a token for a server, and where to put it."""
    allowed = "" if _is_trusted(server) else f" and {HOSTS_VARIABLE}={_host(server)}"
    return (
        f"get one at {server}/sticky_auth/settings/tokens and set the environment variable {TOKEN_VARIABLE}{allowed}, "
        f'or write {{"token": "..."}} into {_short(_own_file(server))}'
    )


def check_host(url: str, server: str) -> None:
    """Check that the token of a server may be sent to an address.

    Parameters
    ----------
    url : str
        What is requested.
    server : str
        Address of the CAVE server whose token it is.

    Raises
    ------
    CaveTokenError
        Not over https (or on loopback), or to a host that neither CAVE names for this server nor the user allows.
    """
    host = _check_encrypted(url)
    if host in _hosts_of(server) or _is_listed(url) or (is_loopback(url) and is_loopback(server)):
        return
    known = ", ".join(sorted(_hosts_of(server)))
    raise CaveTokenError(
        f"the token of CAVE is not sent to {host}, which is not among the hosts that CAVE at {_host(server)} names "
        f"({known}); if you trust it, add {host} to the environment variable {HOSTS_VARIABLE}"
    )


def allow_named_hosts(server: str, addresses: Iterable[str]) -> None:
    """Let the token of a server go to the hosts of some addresses, which its info service names for a datastack."""
    with _named_lock:
        _named[_host(server)] = _named.get(_host(server), frozenset()) | frozenset(map(_host, addresses))


def where_the_token_goes(server: str) -> str:
    """One line about all hosts that may get the token of a server, as far as they are known in this process."""
    hosts = [_host(server), *sorted(_hosts_of(server) - {_host(server)}), *_listed()]
    return f"the token of CAVE goes to {', '.join(dict.fromkeys(hosts))} only"


def graph_address(url: str) -> str | None:
    """Address of the server of a graph (`graphene://https://HOST/...`); None for any other layer."""
    found = _GRAPH.match(url)
    return found["address"] if found else None


def is_loopback(url: str) -> bool:
    """Whether an address is on this machine."""
    host = _host(url)
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _find(server: str) -> tuple[str, str]:
    host, trusted = _check_encrypted(server), _is_trusted(server)
    own_file = Path(_own_file(server))
    token, origin = os.environ.get(TOKEN_VARIABLE, "").strip(), TOKEN_VARIABLE
    if not token or (not trusted and own_file.is_file()):
        token, origin = _token_of_files(server), "a token file"
        trusted = trusted or own_file.is_file()
    if not trusted:
        raise CaveTokenError(
            f"the token of {origin} is not sent to {server}, which is not a CAVE server that somatic knows; if you "
            f"trust it, add {host} to the environment variable {HOSTS_VARIABLE}, or write its token into "
            f"{_short(str(own_file))}"
        )
    # requests would quote a token with such characters in its error.
    if not re.fullmatch(r"[!-~]+", token):
        raise CaveTokenError(f"{origin} holds something that cannot be a token of CAVE; {how_to_set_a_token(server)}")
    return token, origin


def _token_of_files(server: str) -> str:
    # caveclient takes a second to import.
    from caveclient.auth import AuthClient, default_token_file, deprecated_token_files

    files = ", ".join([_short(_own_file(server)), default_token_file, *deprecated_token_files])
    try:
        token = AuthClient(server_address=_address(server)).token
    except (OSError, ValueError, AttributeError) as error:
        raise CaveTokenError(
            f"a token file of CAVE cannot be read ({type(error).__name__}; it must be JSON with the key token); one of "
            f"{files}"
        ) from None
    if not isinstance(token, str) or not token.strip():
        raise CaveTokenError(
            f"no token for CAVE at {server}: neither {TOKEN_VARIABLE} is set nor is there one in {files}; "
            f"{how_to_set_a_token(server)}"
        )
    return token.strip()


def _own_file(server: str) -> str:
    """The token file of one server, as caveclient names it."""
    from caveclient.auth import server_token_filename

    return server_token_filename(_address(server))


def _short(path: str) -> str:
    home = os.path.expanduser("~")  # noqa: PTH111 -- caveclient builds its path the same way
    return path.replace(home, "~", 1) if path.startswith(home) else path


def _check_encrypted(url: str) -> str:
    """The host of an address that may get a token at all."""
    parsed, host = _parsed(url), _host(url)
    scheme = parsed.scheme if parsed else None
    if not host or not (scheme == "https" or (scheme == "http" and is_loopback(url))):
        raise CaveTokenError(
            f"the token of CAVE is only sent over https, and {scheme}://{host} is not; use https://{host or 'HOST'}"
        )
    return host


def _hosts_of(server: str) -> frozenset[str]:
    host = _host(server)
    with _named_lock:
        named = _named.get(host, frozenset())
    return frozenset({host}) | named | _bundled().get(host, frozenset())


def _is_trusted(server: str) -> bool:
    """Whether a server may get a token that is not for it alone."""
    known = _bundled()
    hosts = PUBLIC_SERVERS.union(known, *known.values())
    return _host(server) in hosts or _is_listed(server) or is_loopback(server)


def _is_listed(url: str) -> bool:
    """Whether CAVE_TOKEN_HOSTS has the host of an address, perhaps with its port."""
    parsed, host = _parsed(url), _host(url)
    return parsed is not None and any(_is_entry(entry, host, parsed.port or 443) for entry in _listed())


def _listed() -> list[str]:
    return [entry for entry in re.split(r"[\s,]+", os.environ.get(HOSTS_VARIABLE, "")) if entry]


def _is_entry(entry: str, host: str, port: int) -> bool:
    known = _parsed(entry if "://" in entry else f"https://{entry}")
    return known is not None and _host(known.url) == host and known.port in (None, port)


@cache
def _bundled() -> dict[str, frozenset[str]]:
    """Hosts of the graphs of the datasets that come with somatic, by the host of their server."""
    hosts: dict[str, frozenset[str]] = {}
    for dataset in map(load_dataset, dataset_names()):
        if dataset.cave is None:
            continue
        layers = (dataset.segmentation, *dataset.segmentations.values())
        graphs = {graph_address(layer.url) for layer in layers if layer}
        server = _host(dataset.cave.server)
        hosts[server] = hosts.get(server, frozenset()) | {_host(graph) for graph in graphs if graph}
    return hosts


def _address(url: str) -> str:
    parsed = _parsed(url)
    return f"{parsed.scheme}://{parsed.netloc}" if parsed else url


def _host(url: str) -> str:
    parsed = _parsed(url)
    return (parsed.host or "").lower() if parsed else ""


def _parsed(url: str) -> Url | None:
    """An address as requests reads it: other parsers find another host in some."""
    try:
        return parse_url(url)
    except LocationParseError:
        return None
