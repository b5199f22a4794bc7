"""Who may ask a CAVE server what: tokens, permissions, terms of service."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

LOGIN_PATH = "/auth/api/v1/authorize"


@dataclass(frozen=True)
class Gate:
    """Tokens that a server knows.

    Parameters
    ----------
    token : str or None
        Opens everything; None: no token is asked for.
    unprivileged : collection of str
        Tokens of people without the permission to view the datastack.
    without_terms : collection of str
        Tokens of people who have not accepted its terms of service.
    redirects_to_login : bool
        Send who has no token at all to a login page instead of answering 401.
    """

    token: str | None = field(repr=False)
    unprivileged: Collection[str] = field(default=(), repr=False)
    without_terms: Collection[str] = field(default=(), repr=False)
    redirects_to_login: bool = False

    def user(self, request: Request) -> str:
        """Return what tells one user from another."""
        return _token(request) or ""

    def may_view(self, request: Request) -> bool:
        """Tell whether whoever asks may see the datastack."""
        return self.token is None or _token(request) == self.token

    def denial(self, request: Request, datastack: str | None, *, is_known: bool = True) -> Response | None:
        """Return the answer to who may not, or None.

        Parameters
        ----------
        request : Request
        datastack : str or None
            Datastack that must be viewable; None: any known token will do.
        is_known : bool
            Whether what is requested belongs to this datastack. Where tokens are checked, the permission for anything
            else cannot be looked up, which is a 400.
        """
        if self.token is None:
            return None
        token = _token(request)
        if token is None and self.redirects_to_login:
            return RedirectResponse(f"{LOGIN_PATH}?redirect={quote(str(request.url))}", 302)
        if token not in {self.token, *self.unprivileged, *self.without_terms}:
            return _error(401, "invalid_token", "Unauthorized - Token is Invalid or Expired")
        if not is_known:
            return _error(400, "invalid_table_id", "Invalid table_id for service")
        if datastack is None or token == self.token:
            return None
        if token in self.without_terms:
            form = {"tos_id": 1, "tos_name": f"{datastack} terms", "tos_form_url": f"{request.base_url}auth/tos/1"}
            return _error(403, "missing_tos", "Need to accept Terms of Service to access resource.", form)
        return _error(
            403,
            "missing_permission",
            f"Missing permission: view for dataset {datastack}",
            {"required_permission": "view", "auth_dataset": datastack},
        )


def _token(request: Request) -> str | None:
    header = request.headers.get("authorization", "")
    return header.removeprefix("Bearer ") if header.startswith("Bearer ") else None


def _error(status: int, code: str, message: str, data: dict | None = None) -> Response:
    content = {"error": code, "message": message}
    return JSONResponse(content if data is None else {**content, "data": data}, status)
