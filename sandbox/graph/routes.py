"""The chunked graph (2.21.1) over HTTP: its info, leaves of roots, roots of supervoxels."""

from __future__ import annotations

import gzip
import time
from datetime import UTC, datetime
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.cave.auth import Gate
from sandbox.cave.http import Handler, constant, guarded, json_answer
from sandbox.graph.chunked_graph import Bounds, ChunkedGraph
from sandbox.graph.ids import N_LAYERS, Ids, layer_of


class Segmentation:
    """Answers about one chunked graph.

    Parameters
    ----------
    graph : ChunkedGraph or None
        None: only which APIs there are.
    table : str
        Name of the graph.
    gate : Gate
    datastack : str
        Datastack that whoever asks must be allowed to view.
    """

    def __init__(self, graph: ChunkedGraph | None, table: str, gate: Gate, datastack: str):
        self._graph = graph
        self._table = table
        self._gate = gate
        self._datastack = datastack

    def routes(self) -> list[Route]:
        """Return everything that is served."""
        routes = [
            Route("/segmentation/api/versions", constant([0, 1])),
            Route("/segmentation/api/version", constant("2.21.1")),
        ]
        if self._graph is None:
            return routes
        graph = _Endpoints(self._graph)
        api = "/segmentation/api/v1/table/{graph}"
        return [
            *routes,
            self._route("GET", "/segmentation/table/{graph}/info", graph.info),
            self._route("GET", f"{api}/info", graph.info),
            self._route("GET", f"{api}/node/{{node:int}}/leaves", graph.leaves),
            self._route("GET", f"{api}/node/{{node:int}}/root", graph.root),
            self._route("POST", f"{api}/node/leaves_many", graph.leaves_of_many),
            self._route("POST", f"{api}/roots", graph.roots),
            self._route("POST", f"{api}/roots_binary", graph.roots_binary, is_binary=True),
            self._route("POST", f"{api}/is_latest_roots", graph.is_latest_roots),
            self._route("POST", f"{api}/root_timestamps", graph.root_timestamps),
            self._route("GET", f"{api}/oldest_timestamp", graph.oldest_timestamp),
        ]

    def _route(self, method: str, path: str, handler: Handler, *, is_binary: bool = False) -> Route:
        def of_this_graph(request: Request, body: Any) -> Response:
            if request.path_params["graph"] != self._table:
                return json_answer({"message": "The requested URL was not found on the server."}, 404)
            return handler(request, body)

        named = ("graph", self._table)
        endpoint = guarded(of_this_graph, self._gate, self._datastack, named=named, is_binary=is_binary)
        return Route(path, endpoint, methods=[method])


class _Endpoints:
    """What is behind each address."""

    def __init__(self, graph: ChunkedGraph):
        self._graph = graph

    def info(self, _request: Request, _body: dict) -> Response:
        return json_answer(self._graph.info())

    def leaves(self, request: Request, _body: dict) -> Response:
        leaves = self._graph.leaves(request.path_params["node"], self._bounds(request), _stop_layer(request, 1))
        return json_answer({"leaf_ids": leaves.tolist()})

    def leaves_of_many(self, request: Request, body: dict) -> Response:
        bounds, stop_layer = self._bounds(request), _stop_layer(request, 1)
        leaves = {str(node): self._graph.leaves(node, bounds, stop_layer).tolist() for node in body["node_ids"]}
        return json_answer(leaves)

    def root(self, request: Request, _body: dict) -> Response:
        node = request.path_params["node"]
        root = int(self._roots(request, np.array([node], np.uint64))[0])
        if layer_of(np.array([root], np.uint64))[0] < _stop_layer(request, N_LAYERS):
            raise LookupError(f"Cannot find root id {node}, {N_LAYERS}, {_timestamp(request)}")
        return json_answer({"root_id": root})

    def roots(self, request: Request, body: dict) -> Response:
        return json_answer({"root_ids": self._roots(request, _node_ids(body)).tolist()})

    def roots_binary(self, request: Request, body: bytes) -> Response:
        content = gzip.decompress(body) if request.headers.get("content-encoding") == "gzip" else body
        roots = self._roots(request, np.frombuffer(content, np.uint64))
        return Response(roots.tobytes(), media_type="application/octet-stream")

    def is_latest_roots(self, request: Request, body: dict) -> Response:
        return json_answer({"is_latest": self._graph.is_latest(_node_ids(body), _timestamp(request)).tolist()})

    def root_timestamps(self, request: Request, body: dict) -> Response:
        roots = _node_ids(body)
        spans = self._graph.root_spans(roots)
        if not spans:
            return json_answer({"timestamp": []})
        if request.query_params.get("latest", "").lower() not in {"true", "1"}:
            return json_answer({"timestamp": [since.timestamp() for since, _ in spans]})
        now = _timestamp(request)
        return json_answer({"timestamp": [min(until or now, now).timestamp() for _, until in spans]})

    def oldest_timestamp(self, _request: Request, _body: dict) -> Response:
        return json_answer({"iso": self._graph.states[0].since.isoformat(" ")})

    def _roots(self, request: Request, nodes: Ids) -> Ids:
        return self._graph.roots(nodes, _timestamp(request), _stop_layer(request, N_LAYERS))

    def _bounds(self, request: Request) -> Bounds | None:
        """Read x0-x1_y0-y1_z0-z1.

        The real service knows no negative numbers. Here they are read along an axis where the volume itself reaches
        below zero, as the phantom does along y.
        """
        text = request.query_params.get("bounds")
        if text is None:
            return None
        spans = text.split("_")
        if len(spans) != 3:
            raise ValueError(f"bounds must be x0-x1_y0-y1_z0-z1, found {text!r}")
        lowest = self._graph.bounds_of_volume()[0]
        return np.array([_span(span, low < 0) for span, low in zip(spans, lowest, strict=True)]).T


def _span(text: str, may_be_negative: bool) -> tuple[int, int]:
    sign = "-" if may_be_negative and text.startswith("-") else ""
    start, _, stop = text.removeprefix(sign).partition("-")
    if not may_be_negative and not stop.isdecimal():
        raise ValueError(f"invalid literal for int() with base 10: {stop!r}")
    return int(sign + start), int(stop)


def _timestamp(request: Request) -> datetime:
    text = request.query_params.get("timestamp")
    return datetime.fromtimestamp(time.time() if text is None else float(text), UTC)


def _stop_layer(request: Request, default: int) -> int:
    layer = int(request.query_params.get("stop_layer", default))
    if layer not in (1, 2, N_LAYERS):
        raise ValueError(f"this graph has nodes of layers 1, 2 and {N_LAYERS} only, asked {layer}")
    return layer


def _node_ids(body: dict) -> Ids:
    return np.array(body["node_ids"], np.uint64)
