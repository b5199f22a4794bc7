"""What a failed request to CAVE means: which of our errors it is, and one line for a person.

CAVE's materialization service wraps most failures, 401, 404 and 429 of other services included, into a 500 whose JSON
`message` says what happened, so the message decides and not the status alone.
"""

import json
import re
from urllib.parse import urljoin, urlsplit

import requests

from somatic.cave.tokens import TOKEN_VARIABLE, how_to_set_a_token, token_origin
from somatic.errors import CaveError, CaveTokenError, CaveUnavailable, SomaticError, one_line, typed_line

LONGEST_RETRY_AFTER_S = 300.0

_BUSY = re.compile(r"429 Too Many|Too Many Requests", re.IGNORECASE)
_NOT_FOUND = re.compile(r"404 (?:Not Found|Client Error)|no valid parent|No row was found")
_NO_DATABASE = re.compile(r'database "[^"]*" does not exist|Execution failed on sql .*does not exist', re.DOTALL)
_UNREADABLE = re.compile(r"\b40[13] (?:Unauthorized|Forbidden|Client Error)\b:? *(?:Unauthorized: *)?", re.IGNORECASE)
_UNKNOWN_NAME = re.compile(r"invalid_table_id|Invalid table_id")
# A graph that is served up to a moment refuses root ids of later ones with 401.
_OF_ANOTHER_TIME = re.compile(r"not valid at timestamp")
_SQL = re.compile(r"(Execution failed on sql) '.*'(?=:)", re.DOTALL)
_PERMANENT = re.compile(r"must be less than|not in model|not found in")
_TRANSIENT_STATUS = frozenset({408, 425})


class CaveBusy(CaveUnavailable):
    """CAVE's rate limit was reached.

    Attributes
    ----------
    retry_after_s : float or None
        How long the server says to wait.
    """

    def __init__(self, text: str, retry_after_s: float | None = None):
        super().__init__(text)
        self.retry_after_s = retry_after_s


class CaveNotFound(CaveError):
    """CAVE does not have the datastack, graph, version, table or view that was requested, or has it no more."""


def translated(error: Exception, what: str, server: str) -> SomaticError:
    """Our error for an exception that caveclient let out.

    Parameters
    ----------
    error : Exception
        From caveclient, requests, pyarrow or the reading of an answer.
    what : str
        What was asked for, to begin the text with.
    server : str
        Address of the global server.

    Returns
    -------
    CaveTokenError, CaveError, CaveBusy or CaveUnavailable
        With one line of text, in which the token never stands.
    """
    from caveclient.base import ServerIncompatibilityError

    if isinstance(error, ServerIncompatibilityError):
        return CaveError(f"{what}: CAVE at {server} is too old: {one_line(error)}")
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return _from_response(error.response, what, server)
    asked = getattr(error, "request", None)
    host = _host(asked.url) if asked is not None and asked.url else server
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema):
        return CaveError(f"{what}: {host} is no address of a CAVE server; write https://NAME")
    if isinstance(error, requests.Timeout):
        return CaveUnavailable(f"{what}: CAVE at {host} did not answer in time; try again later")
    if isinstance(error, requests.ConnectionError):
        return CaveUnavailable(
            f"{what}: CAVE at {host} cannot be reached ({_reason(error)}); check the address and the network"
        )
    problem = typed_line(error)
    return CaveUnavailable(f"{what}: the answer of CAVE at {host} cannot be read ({problem}); try again later")


def _from_response(response: requests.Response, what: str, server: str) -> SomaticError:
    status, said, host = response.status_code, _said(response), _host(response.url)
    # The reason stands behind the SQL, which may be longer than any line.
    message = one_line(_SQL.sub(r"\1 ...", said))
    answered = f"{what}: CAVE at {host} answered {status}" + (f": {message}" if message else "")
    if response.is_redirect:
        target = urlsplit(urljoin(response.url, response.headers["Location"]))
        return CaveTokenError(
            f"{what}: CAVE at {host} sends to {target.scheme}://{target.netloc}{target.path}; if that is a login page "
            f"it wants another token: {how_to_set_a_token(server)}; else write that address as the server"
        )
    if status == requests.codes.unauthorized and _OF_ANOTHER_TIME.search(said):
        return CaveNotFound(answered)
    if status == requests.codes.unauthorized:
        return CaveTokenError(
            f"{what}: CAVE at {host} does not accept the token of {token_origin(server)} (401 {message}); "
            f"{how_to_set_a_token(server)}"
        )
    if status == requests.codes.forbidden:
        return CaveTokenError(_refused(response, what, host, message))
    failed = status >= requests.codes.server_error
    if status == requests.codes.too_many_requests or (failed and _BUSY.search(said)):
        return CaveBusy(f"{answered}; the rate limit is reached, try again later", _retry_after(response))
    if failed and (refusal := _UNREADABLE.search(said)):
        why = one_line(said[refusal.end() :])
        return CaveTokenError(
            f"{what}: CAVE at {host} does not let this token read it ({why}); ask the owner of the table for access, "
            f"or set the token of an account that has it as {TOKEN_VARIABLE}"
        )
    if status in (requests.codes.not_found, requests.codes.gone):
        return CaveNotFound(answered)
    if status == requests.codes.bad_request and _UNKNOWN_NAME.search(said):
        return CaveNotFound(answered)
    if failed and (_NOT_FOUND.search(said) or _NO_DATABASE.search(said)):
        return CaveNotFound(answered)
    if status in _TRANSIENT_STATUS or (failed and not _PERMANENT.search(said)):
        return CaveUnavailable(f"{answered}; try again later")
    return CaveError(answered)


def _refused(response: requests.Response, what: str, host: str, message: str) -> str:
    form = _body(response)
    data = form.get("data") if isinstance(form, dict) else None
    address = data.get("tos_form_url") if isinstance(data, dict) else None
    if address:
        return f"{what}: CAVE at {host} wants its terms of service accepted first (403); open {address}, then try again"
    return (
        f"{what}: CAVE at {host} refuses this token (403 {message}); ask the owners of the datastack for the "
        f"permission, or set the token of another account as {TOKEN_VARIABLE}"
    )


def _body(response: requests.Response) -> object:
    try:
        return json.loads(response.content)
    except (ValueError, OSError):
        return None


def _said(response: requests.Response) -> str:
    """What the server says in its answer, without the token."""
    said = _body(response)
    if isinstance(said, dict):
        words = [said[key] for key in ("error", "message") if isinstance(said.get(key), str)]
        text = ", ".join(words)
    elif isinstance(said, str):
        text = said
    else:
        plain = response.text.strip()
        text = plain if plain and "<" not in plain else str(response.reason or "")
    authorization = str(response.request.headers.get("Authorization") or "")
    token = authorization.removeprefix("Bearer ")
    if token:
        text = text.replace(token, "(the token)")
    return text


def _reason(error: Exception) -> str:
    """The innermost cause that urllib3 wraps into its own errors."""
    cause = getattr(error.args[0], "reason", None) if error.args else None
    text = str(cause or error)
    found = re.search(r"\[[^]]*\] [^)'\"]*", text)
    return one_line(found.group() if found else text)


def _retry_after(response: requests.Response) -> float | None:
    try:
        return min(max(float(response.headers.get("Retry-After", "")), 0.0), LONGEST_RETRY_AFTER_S)
    except ValueError:
        return None


def _host(url: str | None) -> str:
    parts = urlsplit(url or "")
    return f"{parts.scheme}://{parts.netloc}"
