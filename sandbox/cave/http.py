"""How a CAVE service answers over HTTP: JSON, Arrow, and 500 for whatever goes wrong."""

from __future__ import annotations

import gzip
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pyarrow as pa
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from sandbox.cave.auth import Gate
from sandbox.cave.faults import RateLimit, server_error
from sandbox.cave.query import Answer

Handler = Callable[[Request, Any], Response]
Endpoint = Callable[[Request], Awaitable[Response]]


def guarded(
    handler: Handler,
    gate: Gate,
    datastack: str | None,
    rate_limit: Callable[[], RateLimit | None] = lambda: None,
    *,
    named: tuple[str, str] | None = None,
    is_binary: bool = False,
) -> Endpoint:
    """Return a handler behind a gate; an exception in it becomes a 500 that says what happened.

    Parameters
    ----------
    handler : callable
        From the request and its JSON body to a response.
    gate : Gate
    datastack : str or None
        Datastack that whoever asks must be allowed to view; None: any known token will do.
    rate_limit : callable
        Returns the limit that counts these requests at this time, if any.
    named : (str, str), optional
        A parameter of the path that names what permissions are given for, and the only value that is known.
    is_binary : bool
        The handler gets the body as it came, not as JSON.
    """

    async def endpoint(request: Request) -> Response:
        try:
            body = await request.body()
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it; the record of requests says so
        is_known = named is None or request.path_params[named[0]] == named[1]
        denial = gate.denial(request, datastack, is_known=is_known)
        if denial is not None:
            return denial
        limit = rate_limit()
        if limit is not None and limit.exceeded(gate.user(request), handler.__name__):
            return server_error(limit.message)
        try:
            content = body if is_binary else json.loads(body) if body else {}
            return await run_in_threadpool(handler, request, content)
        except Exception as error:
            return server_error(str(error))

    return endpoint


def constant(value) -> Endpoint:
    """Return an endpoint that answers everybody with this value."""

    async def endpoint(_request: Request) -> Response:
        return json_answer(value)

    return endpoint


def is_true(request: Request, parameter: str) -> bool:
    """Tell whether a parameter of the URL is given as true, in any of the ways of writing it."""
    return request.query_params.get(parameter, "").lower() in {"true", "1"}


def json_answer(value, status: int = 200) -> Response:
    """Return a value as JSON, ids as plain integers."""
    return Response(json.dumps(value) + "\n", status, media_type="application/json")


def query_answer(answer: Answer, request: Request) -> Response:
    """Return the rows of a query as Arrow or as JSON, compressed as the client accepts it.

    Arrow comes as one IPC stream with its buffers compressed (lz4 before zstd). Accepting gzip compresses the whole
    body instead. A header with several values is sent once for each, as the real server does.
    """
    accepted = request.headers.get("accept-encoding", "").lower()
    headers = [("Warning", " ".join(warning.splitlines())) for warning in answer.warnings]
    headers += [("dataframe_resolution", str(length_nm)) for length_nm in answer.resolution_nm or ()]
    headers.append(("column_names", str(answer.column_names)))
    if request.query_params.get("return_pyarrow", "true").lower() in {"true", "1"}:
        codec = next((codec for codec in ("lz4", "zstd") if codec in accepted), None)
        response = Response(_arrow_stream(answer, codec), media_type="data.arrow")
    else:
        response = Response(answer.frame.to_json(orient="records"), media_type="application/json")
    if "gzip" in accepted:
        response.body = gzip.compress(bytes(response.body))
        response.headers["Content-Length"] = str(len(response.body))
        headers.append(("Content-Encoding", "gzip"))
    for name, value in headers:
        response.headers.append(name, value.encode("latin-1", "replace").decode("latin-1"))
    return response


def _arrow_stream(answer: Answer, codec: str | None) -> bytes:
    batch = pa.RecordBatch.from_pandas(answer.frame)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()
