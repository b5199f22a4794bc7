"""Prefect servers that cannot be used: each says why in one line, without the password of its URL."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from answers import Answers
from prefect import __version__
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_KEY,
    PREFECT_API_URL,
    PREFECT_CLOUD_API_URL,
    temporary_settings,
)

from cli.prefect_server import check_server, check_version, error_in_a_run, server, server_error
from somatic.errors import PermanentError, SomaticError, TransientError

PAGE = "<!doctype html><html></html>"
OF_PREFECT = {"/api/health": (200, True), "/api/admin/version": (200, __version__), "/api/csrf-token": (404, {})}
UNAUTHORIZED = {"exception_message": "Unauthorized"}
INVALID = {
    "exception_message": "Invalid request received.",
    "exception_detail": [
        {
            "type": "extra_forbidden",
            "loc": ["body", "zzz", 0],
            "msg": "Extra inputs are not permitted",
            "input": "hunter2",
        },
        {"type": "uuid_parsing", "loc": ["body", "flow_id"], "msg": "Input should be a valid UUID", "input": "hunter2"},
    ],
    "request_body": {"name": "hunter2"},
}
"""As Prefect answers with 422; it repeats what it was sent."""


def refusal(
    answers: dict[str, tuple[int, Any]],
    kind: type[SomaticError] = PermanentError,
    settings: Callable[[str], dict[Any, Any]] = lambda _host: {},
) -> str:
    """The one line about a server with these answers, its address HOST."""
    with Answers(answers) as there:
        known = {PREFECT_API_URL: f"http://me:a-password@{there.host}/api", **settings(there.host)}
        with temporary_settings(known), pytest.raises(kind) as raised:
            check_server()
    said = str(raised.value)
    assert type(raised.value) is kind
    assert "\n" not in said
    assert "a-password" not in said
    assert "hunter2" not in said
    return said.replace(there.host, "HOST")


@pytest.mark.parametrize(
    ("answers", "kind", "says"),
    [
        (
            OF_PREFECT | {"/api/admin/version": (200, "2.20.18")},
            PermanentError,
            f"the Prefect server at HOST has version 2.20.18, and the client here {__version__}: their major versions",
        ),
        (OF_PREFECT | {"/api/admin/version": (200, "4.0.0")}, PermanentError, "HOST has version 4.0.0, and the client"),
        (
            {"/*": (200, PAGE)},
            PermanentError,
            "what answers at HOST is not the API of a Prefect server; PREFECT_API_URL",
        ),
        ({"/*": (200, {})}, PermanentError, "what answers at HOST is not the API of a Prefect server"),
        ({"/*": (200, "v1")}, PermanentError, "what answers at HOST is not the API of a Prefect server"),
        ({}, PermanentError, "the Prefect server at HOST refused /api/admin/version: 404 Not Found"),
        ({"/*": (403, PAGE)}, PermanentError, "the Prefect server at HOST refused /api/admin/version: 403"),
        (
            {"/*": (401, UNAUTHORIZED)},
            PermanentError,
            "the Prefect server at HOST requires a password; set PREFECT_API_AUTH_STRING (401 Unauthorized); it is",
        ),
        (
            {"/*": (500, {})},
            TransientError,
            "the Prefect server at HOST answered /api/admin/version with 500; try again",
        ),
        ({"/*": (503, {"detail": "no"})}, TransientError, "answered /api/admin/version with 503 no; try again later"),
    ],
)
def test_servers(answers: dict[str, tuple[int, Any]], kind: type[SomaticError], says: str) -> None:
    """One of another version, one with a password, one that is ill, and what is none at all."""
    assert says in refusal(answers, kind)


def test_a_wrong_password() -> None:
    """It is said that there is one, and not what it is."""
    said = refusal({"/*": (401, UNAUTHORIZED)}, settings=lambda _host: {PREFECT_API_AUTH_STRING: "me:hunter2"})
    assert "does not accept that of PREFECT_API_AUTH_STRING (401 Unauthorized)" in said


@pytest.mark.parametrize(
    ("status", "answer", "says"),
    [
        (401, "Unauthorized", "Prefect Cloud does not accept the API key (401 Unauthorized); set PREFECT_API_KEY"),
        (403, "Forbidden", "Prefect Cloud refuses /api/flows/filter to this API key (403 Forbidden); PREFECT_API_URL"),
    ],
)
def test_prefect_cloud(status: int, answer: str, says: str) -> None:
    """A key that it does not know, and one that may not use the workspace."""
    said = refusal(
        {"/*": (status, {"detail": answer})},
        settings=lambda host: {
            PREFECT_CLOUD_API_URL: f"http://{host}/api",
            PREFECT_API_URL: f"http://{host}/api",
            PREFECT_API_KEY: "pnu_hunter2",
        },
    )
    assert says in said


@pytest.mark.parametrize("url", ["nonsense", "ftp://host/api", "127.0.0.1:4200/api"])
def test_what_is_no_url(url: str) -> None:
    """A PREFECT_API_URL that is not the URL of a server is said to be wrong, and not the server to be away."""
    with temporary_settings({PREFECT_API_URL: url}), pytest.raises(PermanentError) as raised:
        check_server()
    assert "PREFECT_API_URL is not the URL of a server; correct it, as in http://127.0.0.1:4200/api, or unset" in str(
        raised.value
    )


def test_a_server_that_can_be_used() -> None:
    """One of our major version, older or newer, is fine for a run."""
    for version in (__version__, "3.4.14", "3.99.0"):
        with Answers(OF_PREFECT | {"/api/admin/version": (200, version)}) as there:
            with temporary_settings({PREFECT_API_URL: f"http://{there.host}/api"}):
                check_server()
            assert there.asked == ["GET /api/admin/version"]


@pytest.mark.parametrize(
    ("version", "is_fine"), [("3.4.14", False), ("3.7.9", False), ("3.8.0", True), ("3.99.0", True)]
)
def test_a_server_that_is_too_old(version: str, is_fine: bool) -> None:
    """What needs all requests of the client is refused by its minor version, before anything is made."""
    with Answers(OF_PREFECT | {"/api/admin/version": (200, version)}) as there:
        with temporary_settings({PREFECT_API_URL: f"http://{there.host}/api"}), server() as client:
            if is_fine:
                check_version(client, "somatic deploy")
                return
            with pytest.raises(PermanentError) as raised:
                check_version(client, "somatic deploy")
        assert str(raised.value).startswith(
            f"the Prefect server at {there.host} is too old for somatic deploy: it has version {version}, and the "
            f"client here {__version__}; nothing was changed; upgrade the server to version 3.8 or newer"
        )


def test_a_request_that_is_invalid() -> None:
    """A 422 has its reasons, and never what was sent, which Prefect repeats and which may be a secret."""
    answers = OF_PREFECT | {"/api/*": (422, INVALID)}
    with (
        Answers(answers) as there,
        temporary_settings({PREFECT_API_URL: f"http://{there.host}/api"}),
        pytest.raises(PermanentError) as raised,
        server() as client,
    ):
        client.read_flows()
    assert str(raised.value) == (
        f"the Prefect server at {there.host} refused /api/flows/filter: 422 "
        "body.zzz.0: Extra inputs are not permitted; body.flow_id: Input should be a valid UUID"
    )


def test_a_server_that_is_lost_in_a_run() -> None:
    """What was measured is kept, whether it is away or refuses us from some moment on."""
    request = httpx.Request("POST", "http://me:a-password@prefect.example/api/flow_runs/")
    gone = error_in_a_run(httpx.ConnectError("[Errno 111] Connection refused", request=request))
    refused = error_in_a_run(
        httpx.HTTPStatusError(
            f"Client error for url {request.url}",
            request=request,
            response=httpx.Response(401, json=UNAUTHORIZED, request=request),
        )
    )
    assert isinstance(gone, TransientError)
    assert str(gone).startswith(
        "Prefect's server stopped answering ([Errno 111] Connection refused); what was measured"
    )
    assert isinstance(refused, PermanentError)
    assert "prefect.example requires a password" in str(refused)
    for error in (gone, refused):
        assert str(error).endswith("what was measured is kept, and the same command goes on from there")
        assert "a-password" not in str(error)


def test_an_error_without_a_request() -> None:
    """It is the server that is set which does not answer."""
    with temporary_settings({PREFECT_API_URL: "http://prefect.example/api"}):
        error = server_error(httpx.ConnectTimeout(""), "or correct PREFECT_API_URL")
    assert str(error) == (
        "the Prefect server at prefect.example does not answer (ConnectTimeout); start it, or correct PREFECT_API_URL"
    )
