"""The connection to CAVE: caveclient with a token of ours, time-outs, a rate limit, and answers watched.

Importing this module imports caveclient, which takes a second.
"""

import difflib
import logging
import re
import threading
from collections.abc import Iterable
from typing import Any

import requests
from caveclient.frameworkclient import CAVEclientFull, CAVEclientGlobal
from caveclient.infoservice import InfoServiceClient
from caveclient.materializationengine import MaterializationClient
from requests.adapters import HTTPAdapter

from somatic.cave.calls import Patience, RateLimiter, call, limiter_for
from somatic.cave.counting import count_request
from somatic.cave.errors import CaveNotFound
from somatic.cave.tokens import TokenAuth, allow_named_hosts, find_token, graph_address, is_loopback
from somatic.dataset import CaveSource
from somatic.errors import CaveError

_TRUNCATED = re.compile(r'201 - "Limited query to \d+ rows')
_MATERIALIZATION_API = 3


class PatientAdapter(HTTPAdapter):
    """Waits for the rate limit before each request, counts it, and never waits for ever for an answer.

    It leaves retries to `call`.
    """

    def __init__(self, patience: Patience, limiter: RateLimiter):
        self._patience = patience
        self._limiter = limiter
        super().__init__(pool_maxsize=32, max_retries=0)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send one request, with the time-outs of our patience unless it has its own."""
        self._limiter.wait()
        count_request(request.url or "")
        answer_s = self._patience.query_s if request.method == "POST" else self._patience.answer_s
        kwargs["timeout"] = kwargs.get("timeout") or (self._patience.connect_s, answer_s)
        if is_loopback(request.url or ""):
            # Without TLS a proxy of the environment would read the token.
            kwargs["proxies"] = {}
        return super().send(request, *args, **kwargs)


class _Watched:
    """A service of caveclient whose session is ours from its first request on."""

    def _get_version(self) -> Any:
        # ClientBase.__init__ makes the session and at once asks for the version: there is no later place.
        self.fc.watch(self.session)  # type: ignore[attr-defined]
        return super()._get_version()  # type: ignore[misc]


class _Info(_Watched, InfoServiceClient):
    pass


class _Materialization(_Watched, MaterializationClient):
    pass


class _Connection:
    """What our clients share: patience, limiter, and what the last answer's headers said."""

    _info: _Info | None

    def __init__(self, *, server_address: str, patience: Patience, limiter: RateLimiter, **options: Any):
        self.patience = patience
        self.limiter = limiter
        self._last = threading.local()
        self._token_auth = TokenAuth(server_address)
        options |= {"server_address": server_address, "auth_token": find_token(server_address)}
        super().__init__(**options)

    @property
    def info(self) -> _Info:
        if self._info is None:
            self._info = _Info(
                server_address=self.server_address,  # type: ignore[attr-defined]
                datastack_name=self.datastack_name,  # type: ignore[attr-defined]
                auth_client=self.auth,  # type: ignore[attr-defined]
                over_client=self,
            )
        return self._info

    @property
    def truncated(self) -> bool:
        """Whether the last answer to this thread left out rows."""
        return getattr(self._last, "truncated", False)

    def watch(self, session: requests.Session) -> None:
        """Bound a session in time and rate, guard its token, and look at each answer before caveclient does."""
        adapter = PatientAdapter(self.patience, self.limiter)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        # caveclient sends the token as a header and as a cookie, wherever a request goes.
        session.headers.pop("Authorization", None)
        session.cookies.clear()
        session.auth = self._token_auth
        session.hooks["response"].append(self._look)

    def _look(self, response: requests.Response, **_: Any) -> None:
        # caveclient would open a web browser on a 403; requests would carry the token's cookie wherever it is sent.
        if response.status_code in (401, 403) or response.is_redirect:
            raise requests.HTTPError(response=response)
        self._last.truncated = bool(_TRUNCATED.search(response.headers.get("Warning", "")))


class _GlobalClient(_Connection, CAVEclientGlobal):
    """Asks the global server which datastacks there are."""


class Client(_Connection, CAVEclientFull):
    """A CAVEclient of one datastack, with its info and materialization services ready for several threads."""

    _materialize: _Materialization | None

    @property
    def named_servers(self) -> list[str]:
        """Servers that the info names for the datastack: of its tables, and of its graph where it has one."""
        graph = graph_address(self.info.get_datastack_info().get("segmentation_source") or "")
        return [self.local_server, *([graph] if graph else [])]

    @property
    def materialize(self) -> _Materialization:
        """Materialization service."""
        if self._materialize is None:
            # The API version is named because caveclient's probe for it has no time-out, and when it fails
            # caveclient falls back to version 2, which has no views, without a word.
            self._materialize = _Materialization(
                server_address=self.local_server,
                datastack_name=self.datastack_name,
                auth_client=self.auth,
                api_version=_MATERIALIZATION_API,
                over_client=self,
            )
        return self._materialize


def connect(cave: CaveSource, patience: Patience | None = None, limiter: RateLimiter | None = None) -> Client:
    """Connect to a datastack and see that CAVE accepts our token.

    Parameters
    ----------
    cave : CaveSource
        Server and datastack.
    patience : Patience, optional
        Time-outs and retries.
    limiter : RateLimiter, optional
        Default: the one that this process shares for the server.

    Raises
    ------
    CaveTokenError
        No token, one that CAVE does not know, or one without the permission.
    CaveError
        No such datastack; says the nearest names.
    CaveUnavailable
        The server did not answer.
    """
    # The truncation header is read by our own hook, so that caveclient's log has nothing to tell a user.
    logging.getLogger("caveclient").setLevel(logging.ERROR)
    server = cave.server.rstrip("/")
    patience = patience or Patience()
    limiter = limiter or limiter_for(server)
    what = f"datastack {cave.datastack}"
    how: dict[str, Any] = {
        "server": server,
        "patience": patience,
        "limiter": limiter,
        "give_up_s": patience.give_up_s,
    }

    def open_client() -> Client:
        client = Client(
            datastack_name=cave.datastack,
            server_address=server,
            patience=patience,
            limiter=limiter,
        )
        allow_named_hosts(server, client.named_servers)
        _ = client.materialize  # sub-clients are made on first use, which must not happen in two threads
        return client

    def list_datastacks() -> list[str]:
        everything = _GlobalClient(server_address=server, patience=patience, limiter=limiter)
        return everything.info.get_datastacks()

    try:
        return call(what, open_client, **how)
    except CaveNotFound as error:
        try:
            names = call(what, list_datastacks, **how)
        except CaveError:
            raise CaveError(f"{error}; is that the global server of a CAVE?") from None
        if cave.datastack in names:
            raise
        raise CaveError(
            f"CAVE at {server} has no datastack {cave.datastack}; {nearest(cave.datastack, names)}"
        ) from None


def nearest(name: str, names: Iterable[str], most: int = 8) -> str:
    """Say which names there are: all when they are few, else those most alike."""
    known = sorted(names)
    if not known:
        return "there is none"
    if len(known) <= most:
        return f"there are: {', '.join(known)}"
    alike = difflib.get_close_matches(name, known, n=5, cutoff=0.3) or known[:most]
    return f"of {len(known)} the nearest names are: {', '.join(alike)}"
