"""The info service (4.3.3): which datastacks there are, and where their other services are."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.cave.auth import Gate
from sandbox.cave.http import constant, guarded, json_answer
from sandbox.cave.tables import Datastack, aligned_volume_info, info

_UNKNOWN_DATASTACK = (
    "The requested URL was not found on the server. If you entered the URL manually please check your spelling and "
    "try again. You have requested this URI [/info/api/v2/datastack/full/{}] but did you mean "
    "/info/api/v2/datastack/full/<string:datastack> or /info/api/v2/datastack/<string:datastack> or "
    "/info/api/v2/datastacks ?"
)


def info_routes(datastack: Datastack, gate: Gate, url: str) -> list[Route]:
    """Return what the info service serves about one datastack, whose local server is at `url`."""
    volume = aligned_volume_info(datastack)

    def datastacks(request: Request, _body: dict) -> Response:
        return json_answer([datastack.name] if gate.may_view(request) else [])

    def aligned_volumes(request: Request, _body: dict) -> Response:
        return json_answer([volume["name"]] if gate.may_view(request) else [])

    def aligned_volume(_request: Request, _body: dict) -> Response:
        return json_answer(volume)

    def image_mirrors(_request: Request, _body: dict) -> Response:
        return json_answer([])

    def full(request: Request, _body: dict) -> Response:
        name = request.path_params["datastack"]
        if name != datastack.name:
            return json_answer({"message": _UNKNOWN_DATASTACK.format(name)}, 404)
        return json_answer(info(datastack, url))

    api = "/info/api/v2"
    of_volume = f"{api}/aligned_volume/{volume['name']}"
    named = ("datastack", datastack.name)
    return [
        Route("/info/version", constant("4.3.3")),
        Route(f"{api}/datastacks", guarded(datastacks, gate, None)),
        Route(f"{api}/datastack/full/{{datastack}}", guarded(full, gate, datastack.name, named=named)),
        Route(f"{api}/datastack/{datastack.name}/image_sources", guarded(image_mirrors, gate, datastack.name)),
        Route(f"{api}/aligned_volume", guarded(aligned_volumes, gate, None)),
        Route(f"{api}/aligned_volume/id/{volume['id']}", guarded(aligned_volume, gate, None)),
        Route(of_volume, guarded(aligned_volume, gate, datastack.name)),
        Route(f"{of_volume}/datastacks", guarded(datastacks, gate, None)),
    ]
