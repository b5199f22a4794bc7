"""A small chunked graph over HTTP on this machine, made of the labels of a flat segmentation at several moments."""

import json
import math
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from volumes import put_volume

CHUNK = (32, 32, 16)


@dataclass
class Watershed:
    """Supervoxels on disk, and which root id each has from a moment on: (n,) uint64 for the sorted `ids`."""

    url: str
    ids: np.ndarray
    roots: Mapping[datetime, np.ndarray]
    offset_vx: tuple[int, ...]
    shape: tuple[int, ...]
    resolution_nm: tuple[float, ...]


def put_watershed(
    folder: Path,
    labels: Mapping[datetime, np.ndarray],
    *,
    resolution_nm: Sequence[float] = (256, 256, 200),
    offset_vx: Sequence[int] = (0, 0, 0),
    **how: Any,
) -> Watershed:
    """Cut the segments of all moments at the faces of the chunks, which count from the origin, and write the pieces."""
    volumes = list(labels.values())
    offset = np.array(offset_vx)
    supervoxels = np.zeros(volumes[0].shape, np.uint64)
    ids: list[int] = []
    roots: list[list[np.ndarray]] = [[] for _ in volumes]
    first, last = offset // CHUNK, (offset + supervoxels.shape - 1) // CHUNK
    for chunk in np.ndindex(*(last - first + 1)):
        x, y, z = (first + chunk).tolist()
        lower = np.maximum(np.array((x, y, z)) * CHUNK - offset, 0)
        part = tuple(slice(a, b) for a, b in zip(lower, np.array((x + 1, y + 1, z + 1)) * CHUNK - offset, strict=True))
        pieces = np.stack([volume[part].ravel() for volume in volumes])
        # One column for each piece; voxels without a root at every moment are not segmented.
        distinct, inverse = np.unique(pieces, axis=1, return_inverse=True)
        base = 1 << 56 | x << 46 | y << 36 | z << 26
        new = np.arange(base + 1, base + 1 + distinct.shape[1]).astype(np.uint64)
        new[~distinct.any(axis=0)] = 0
        supervoxels[part] = new[inverse.ravel()].reshape(supervoxels[part].shape)
        ids += new[new > 0].tolist()
        for moment, of_pieces in zip(roots, distinct, strict=True):
            moment.append(of_pieces[new > 0])
    order = np.argsort(np.array(ids, np.uint64))
    url = put_volume(folder, supervoxels, resolution_nm=resolution_nm, offset_vx=offset_vx, **how)
    at = {moment: np.concatenate(found)[order] for moment, found in zip(labels, roots, strict=True)}
    return Watershed(
        url, np.array(ids, np.uint64)[order], at, tuple(offset_vx), supervoxels.shape, tuple(resolution_nm)
    )


@dataclass
class Fault:
    """An answer in place of the right one, to requests whose address contains a text."""

    where: str
    status: int
    message: str
    times: int = -1
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class GraphServer:
    """Serves the graph of a watershed as the table `t`; `asked` has path with query, status and token of each."""

    watershed: Watershed
    token: str = "abc"
    faults: list[Fault] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    data_dir: str | None = None
    """Where the watershed is said to be; on the disk, when left out."""

    def __enter__(self) -> "GraphServer":
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def address(self) -> str:
        """The server."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        """The graph, as a dataset names it."""
        return f"graphene://{self.address}/segmentation/table/t"

    def n_asked(self, where: str) -> int:
        """Requests whose address contains a text."""
        return sum(where in asked for asked in self.asked)

    def roots_at(self, moment: float | None, *, inclusive: bool = True) -> np.ndarray:
        """Root id of each supervoxel at a moment; edits are kept by the millisecond, whose own count or do not."""
        known = sorted(self.watershed.roots)
        in_ms = math.inf if moment is None else round(moment * 1e6) / 1000
        until_ms = in_ms if math.isinf(in_ms) else math.ceil(in_ms) if inclusive else math.floor(in_ms)
        past = [at for at in known if math.floor(at.timestamp() * 1000) < until_ms]
        return self.watershed.roots[(past or known[:1])[-1]]

    def answer(self, path: str, query: dict[str, str], body: bytes) -> tuple[int, object]:
        """Status and what is sent: bytes as they are, all else as JSON."""
        watershed = self.watershed
        moment = float(query["timestamp"]) if "timestamp" in query else None
        if path == "/segmentation/table/t/info":
            info = json.loads(Path(watershed.url.removeprefix("precomputed://file://"), "info").read_text())
            graph = {"chunk_size": list(CHUNK), "cv_mip": 0, "n_layers": 4}
            place = self.data_dir or watershed.url.removeprefix("precomputed://")
            return 200, info | {"data_dir": place, "graph": graph}
        if found := re.fullmatch(r"/segmentation/api/v1/table/t/node/(\d+)/leaves", path):
            corners = re.fullmatch(r"(\d+)-(\d+)_(\d+)-(\d+)_(\d+)-(\d+)", query["bounds"])
            assert corners, query
            numbers = np.array(corners.groups(), dtype=np.int64).reshape(3, 2)
            held = [watershed.ids[roots == np.uint64(found[1])] for roots in watershed.roots.values()]
            leaves = np.unique(np.concatenate(held))
            chunks = np.stack([leaves >> np.uint64(bits) & np.uint64(1023) for bits in (46, 36, 26)]).astype(np.int64)
            first, stop = numbers[:, :1] // np.array(CHUNK)[:, None], -(-numbers[:, 1:] // np.array(CHUNK)[:, None])
            return 200, {"leaf_ids": leaves[((chunks >= first) & (chunks < stop)).all(axis=0)][::-1].tolist()}
        if path == "/segmentation/api/v1/table/t/roots_binary":
            asked = np.frombuffer(body, np.uint64)
            known = np.isin(asked, watershed.ids)
            at = np.searchsorted(watershed.ids, asked).clip(max=len(watershed.ids) - 1)
            roots = np.where(known, self.roots_at(moment)[at], 0) if known.any() else asked
            return 200, roots.astype(np.uint64).tobytes()
        if path == "/segmentation/api/v1/table/t/is_latest_roots":
            asked = np.array(json.loads(body)["node_ids"], dtype=np.uint64)
            return 200, {"is_latest": np.isin(asked, self.roots_at(moment, inclusive=False)).tolist()}
        if path == "/segmentation/api/v1/table/t/root_timestamps":
            [asked] = json.loads(body)["node_ids"]
            since = [at.timestamp() for at, roots in watershed.roots.items() if np.uint64(asked) in roots]
            return 200, {"timestamp": since[:1]}
        if re.match("/segmentation/(api/v1/)?table/(?!t/)", path):
            return 400, {"error": "invalid_table_id", "message": "Invalid table_id for service"}
        return 404, {"message": "The requested URL was not found on the server."}


def _handler(graph: GraphServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            token = self.headers.get("Authorization")
            graph.asked.append(self.path)
            graph.tokens.add(token)
            headers: dict[str, str] = {}
            fault = next((one for one in graph.faults if one.where in self.path and one.times), None)
            if fault:
                fault.times -= 1
                status, sent, headers = fault.status, {"message": fault.message}, fault.headers
            elif token != f"Bearer {graph.token}":
                status, sent = 401, {"error": "invalid_token", "message": f"Unauthorized {token}"}
            else:
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                status, sent = graph.answer(parts.path, query, body)
            content = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815 - what http.server looks for

        def log_message(self, *_: object) -> None:
            pass

    return Handler
