"""A chunked graph: which supervoxels of a watershed make up a root id, and which root id a supervoxel had when.

Importing this module imports caveclient, which takes a second.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import requests

from somatic.cave.calls import Patience, RateLimiter, call, limiter_for
from somatic.cave.client import PatientAdapter
from somatic.cave.errors import CaveNotFound
from somatic.cave.tokens import TokenAuth, check_host
from somatic.errors import CaveError, SegmentationError, UnknownRoot
from somatic.geometry.box import Box

# As cloud-volume reads them: the table's address of today, and those of older servers.
_URL = re.compile(
    r"graphene://(?:middleauth\+)?(?P<server>https?://[^/?#@]+)/(?P<service>\w+)/(?:table|api/v\d+(?:/table)?|1\.0)/"
    r"(?P<table>[\w.-]+)/?"
)
_API = "api/v1/table"

Answer = TypeVar("Answer")


class Graph:
    """A chunked graph and its watershed. May be used by several threads.

    It holds the token: open it where it is needed, it can be neither pickled nor sent. The token goes to the server of
    the graph alone, where that may have it (`somatic.cave.tokens`), never to where the watershed is stored.

    Parameters
    ----------
    url : str
        `graphene://https://HOST/segmentation/table/NAME`.
    cave_server : str, optional
        Address of the CAVE server whose token and rate limit are meant; default: the graph's own.
    patience : Patience, optional
        Time-outs and retries.
    limiter : RateLimiter, optional
        Default: the one that this process shares for the server.

    Attributes
    ----------
    watershed_url : str
        The Precomputed layer of the supervoxels.
    resolution_nm : (3,) float
        Size of the voxels in which the graph counts.
    bounds : Box
        Of the volume, in these voxels.
    chunk_shape : (3,) int64
        Voxels in a chunk of the graph.

    Raises
    ------
    SegmentationError
        Not the URL of a graph, or its info does not say what is needed.
    CaveTokenError
        No token, one that the server does not know, one without the permission, or one that must not be sent there.
    CaveError
        There is no such graph.
    CaveUnavailable
        The server did not answer.
    """

    def __init__(
        self,
        url: str,
        cave_server: str | None = None,
        patience: Patience | None = None,
        limiter: RateLimiter | None = None,
    ) -> None:
        found = _URL.fullmatch(url)
        if not found:
            raise SegmentationError(
                f"{url} is not the URL of a graph; write graphene://https://HOST/segmentation/table/NAME"
            )
        self.url = url
        self._what = f"graph {found['table']}"
        self._host = found["server"]
        self._service = f"{self._host}/{found['service']}"
        self._table = found["table"]
        self._server = (cave_server or found["server"]).rstrip("/")
        self._patience = patience or Patience()
        self._limiter = limiter or limiter_for(self._server)
        self._session = _session(TokenAuth(self._server), self._patience, self._limiter)
        check_host(self._host, self._server)
        try:
            info = self._ask(self._what, self._info, self._patience.give_up_s)
        except CaveNotFound as error:
            raise CaveError(f"{error}; there is no such graph: check its name in {url}") from None
        try:
            graph = info["graph"]
            scale = info["scales"][int(graph.get("cv_mip", 0))]
            self.watershed_url = f"precomputed://{info['data_dir'].removeprefix('precomputed://')}"
            self.resolution_nm = np.array(scale["resolution"], dtype=float)
            lower = np.array(scale.get("voxel_offset", (0, 0, 0)), dtype=np.int64)
            self.bounds = Box(lower, lower + np.array(scale["size"], dtype=np.int64))
            self.chunk_shape = np.array(graph["chunk_size"], dtype=np.int64)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            problem = f"{type(error).__name__}: {error}"
            raise SegmentationError(f"{url}: its info is not that of a graph ({problem})") from None

    def __repr__(self) -> str:
        return f"Graph({self.url!r})"

    def leaves(self, root_id: int, box: Box) -> np.ndarray:
        """Supervoxels of a root id in the chunks of the graph that a box touches.

        Parameters
        ----------
        root_id : int
            Of any time: the supervoxels of a root id never change.
        box : Box
            In voxels of the graph; the part outside the volume is passed over.

        Returns
        -------
        (n,) uint64
            Sorted, each once. Nothing is asked for a box outside the volume, which has none.

        Raises
        ------
        UnknownRoot
            The graph has no such root id.
        CaveError, CaveUnavailable
            The server refused, or did not answer.
        """
        inside = box.clipped_to(self.bounds)
        if inside.n_voxels == 0:
            return np.empty(0, dtype=np.uint64)
        sides = zip(inside.lower_vx.tolist(), inside.upper_vx.tolist(), strict=True)
        bounds = "_".join(f"{lower}-{upper}" for lower, upper in sides)
        address = f"{self._api}/node/{int(root_id)}/leaves"
        # A large cell has many leaves, which take as long as a query of rows.
        timeout_s = (self._patience.connect_s, self._patience.query_s)

        def ask() -> np.ndarray:
            answer = self._session.get(address, params={"bounds": bounds}, timeout=timeout_s, allow_redirects=False)
            return np.unique(np.array(_good(answer).json()["leaf_ids"], dtype=np.uint64))

        what = f"root id {root_id} of {self._what}"
        try:
            leaves = self._ask(what, ask)
        except CaveNotFound as error:
            raise UnknownRoot(str(error)) from None
        if not leaves.size and not self._has_root(int(root_id), what):
            raise UnknownRoot(f"{what}: the graph has no such root id, and never had")
        return leaves

    def _has_root(self, root_id: int, what: str) -> bool:
        """Whether a root id is or was one; a graph answers that an unknown one has no leaves, like one elsewhere."""

        def ask() -> bool:
            return bool(self._post(f"{self._api}/root_timestamps", {"node_ids": [root_id]}, None).json()["timestamp"])

        try:
            return self._ask(what, ask)
        except CaveNotFound:
            return True  # a server that is too old to say

    def roots_of(self, supervoxel_ids: npt.ArrayLike, timestamp: datetime | None = None) -> np.ndarray:
        """Root ids of supervoxels at a moment (UTC; now when left out), (n,) uint64; 0 of 0 and of unknown ones.

        Raises
        ------
        CaveError, CaveUnavailable
            The server refused, or did not answer.
        """
        supervoxels = np.asarray(supervoxel_ids, dtype=np.uint64)
        known = supervoxels != 0
        roots = np.zeros_like(supervoxels)
        if known.any():
            body = supervoxels[known].tobytes()

            def ask() -> np.ndarray:
                found = np.frombuffer(self._post(f"{self._api}/roots_binary", body, timestamp).content, dtype=np.uint64)
                return _as_many(found, int(np.count_nonzero(known)))

            roots[known] = self._ask(f"roots of {self._what}", ask)
        # Where a graph knows not one of them, it sends them back as they are.
        roots[roots == supervoxels] = 0
        return roots

    def latest(self, root_ids: npt.ArrayLike, timestamp: datetime | None = None) -> np.ndarray:
        """Whether root ids were root ids at a moment (UTC; now when left out), (n,) bool; not for unknown ones.

        Raises
        ------
        CaveError, CaveUnavailable
            The server refused, or did not answer.
        """
        roots = np.asarray(root_ids, dtype=np.uint64).tolist()
        if not roots:
            return np.empty(0, dtype=bool)
        # A graph keeps edits by the millisecond. Those of the moment's own count for the roots of supervoxels, and so
        # in the tables of a version, but here only those before it.
        until = timestamp and timestamp + timedelta(microseconds=-timestamp.microsecond % 1000)

        def ask() -> np.ndarray:
            answer = self._post(f"{self._api}/is_latest_roots", {"node_ids": roots}, until).json()
            return _as_many(np.array(answer["is_latest"], dtype=bool), len(roots))

        return self._ask(f"root ids of {self._what}", ask)

    @property
    def _api(self) -> str:
        return f"{self._service}/{_API}/{self._table}"

    def _ask(self, what: str, ask: Callable[[], Answer], give_up_s: float | None = None) -> Answer:
        patience = self._patience
        return call(
            what,
            ask,
            server=self._server,
            patience=patience,
            limiter=self._limiter,
            give_up_s=give_up_s or patience.query_give_up_s,
        )

    def _info(self) -> Any:
        address = f"{self._service}/table/{self._table}/info"
        return _good(self._session.get(address, allow_redirects=False)).json()

    def _post(self, address: str, body: bytes | dict[str, Any], timestamp: datetime | None) -> requests.Response:
        how: dict[str, Any] = {"data": body} if isinstance(body, bytes) else {"json": body}
        if timestamp is not None:
            aware = timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=UTC)
            how["params"] = {"timestamp": aware.timestamp()}
        return _good(self._session.post(address, allow_redirects=False, **how))


def _session(auth: TokenAuth, patience: Patience, limiter: RateLimiter) -> requests.Session:
    session = requests.Session()
    adapter = PatientAdapter(patience, limiter)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    # As a header of the session it would give way to what ~/.netrc has for the host.
    session.auth = auth
    return session


def _good(response: requests.Response) -> requests.Response:
    if response.is_redirect:
        raise requests.HTTPError(response=response)
    response.raise_for_status()
    return response


def _as_many(answers: np.ndarray, n_asked: int) -> np.ndarray:
    if answers.shape != (n_asked,):
        raise ValueError(f"{answers.size} answers to {n_asked} questions")
    return answers
