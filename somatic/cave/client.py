"""The connection to CAVE: caveclient with a token of ours, time-outs, a rate limit, and answers watched.

Importing this module imports caveclient, which takes a second.
"""

import difflib
import logging
import os
import re
import threading
from collections.abc import Iterable
from typing import Any

import requests
from caveclient.auth import AuthClient, default_token_file, deprecated_token_files, server_token_filename
from caveclient.frameworkclient import CAVEclientFull, CAVEclientGlobal
from caveclient.infoservice import InfoServiceClient
from caveclient.materializationengine import MaterializationClient
from requests.adapters import HTTPAdapter

from somatic.cave.calls import Patience, RateLimiter, call, limiter_for
from somatic.cave.counting import count_request
from somatic.cave.errors import TOKEN_VARIABLE, CaveNotFound, how_to_set_a_token
from somatic.dataset import CaveSource
from somatic.errors import CaveError, CaveTokenError

_TRUNCATED = re.compile(r'201 - "Limited query to \d+ rows')
_MATERIALIZATION_API = 3


def find_token(server: str) -> str:
    """Token for a CAVE server: CAVE_TOKEN of the environment, else the files that caveclient knows.

    Raises
    ------
    CaveTokenError
        There is none, or it cannot be one; says where it was looked for.
    """
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    origin = f"the environment variable {TOKEN_VARIABLE}"
    if not token:
        token, origin = _token_of_files(server)
    # requests would quote a token with such characters in its error.
    if not re.fullmatch(r"[!-~]+", token):
        raise CaveTokenError(f"{origin} holds something that cannot be a token of CAVE; {how_to_set_a_token(server)}")
    return token


def _token_of_files(server: str) -> tuple[str, str]:
    files = ", ".join([_short(server_token_filename(server)), default_token_file, *deprecated_token_files])
    try:
        token = AuthClient(server_address=server).token
    except (OSError, ValueError, AttributeError) as error:
        problem = f"{type(error).__name__}"
        raise CaveTokenError(
            f"a token file of CAVE cannot be read ({problem}; it must be JSON with the key token); one of {files}"
        ) from None
    if not isinstance(token, str) or not token.strip():
        raise CaveTokenError(
            f"no token for CAVE at {server}: neither {TOKEN_VARIABLE} is set nor is there one in {files}; "
            f"{how_to_set_a_token(server)}"
        )
    return token.strip(), "a token file of CAVE"


def _short(path: str) -> str:
    home = os.path.expanduser("~")  # noqa: PTH111 -- caveclient builds its path the same way
    return path.replace(home, "~", 1) if path.startswith(home) else path


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

    def __init__(self, *, patience: Patience, limiter: RateLimiter, **options: Any):
        self.patience = patience
        self.limiter = limiter
        self._last = threading.local()
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
        """Put time-outs and rate limit under a session, and look at each answer before caveclient does."""
        adapter = PatientAdapter(self.patience, self.limiter)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
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
            auth_token=find_token(server),
            patience=patience,
            limiter=limiter,
        )
        _ = client.materialize  # sub-clients are made on first use, which must not happen in two threads
        return client

    def list_datastacks() -> list[str]:
        token = find_token(server)
        everything = _GlobalClient(server_address=server, auth_token=token, patience=patience, limiter=limiter)
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
