"""What the command settles with Prefect before it runs a flow."""

import contextlib
import os
from pathlib import Path
from urllib.parse import urlsplit

from somatic.home import substitute_home

_CONNECT_S = 5.0
"""Prefect's client tries four times to connect."""
_ANSWER_S = 20.0


def prepare_prefect(home: Path | None = None) -> None:
    """Keep Prefect's log off the terminal, let it bring its own server where none is set, and send nothing home.

    To be called before Prefect is imported. Whatever the environment says stays as it is, but for a Prefect of its own.

    Parameters
    ----------
    home : Path, optional
        Folder of a separate Prefect, which uses none of the user's settings: no profile, no variable, no file of the
        working folder.
    """
    if home:
        for name in [name for name in os.environ if name.startswith("PREFECT_")]:
            del os.environ[name]
        os.environ["PREFECT_HOME"] = str(home)
    elif substitute := substitute_home():
        os.environ.setdefault("PREFECT_HOME", f"{substitute}/prefect")
    for name, value in {
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "DO_NOT_TRACK": "1",
    }.items():
        os.environ.setdefault(name, value)
    reach_loopback()
    if home:
        home.mkdir(parents=True, exist_ok=True)
        # Prefect reads prefect.toml, pyproject.toml and .env of the working folder once, when this is imported.
        with contextlib.chdir(home):
            import prefect.context  # noqa: F401


def reach_loopback() -> None:
    """Let no proxy of the environment stand between this process and servers on this machine."""
    for name in ("NO_PROXY", "no_proxy"):
        known = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys([*known, "127.0.0.1", "localhost"]))


def check_server() -> None:
    """See that the Prefect server which is set, if there is one, answers.

    Raises
    ------
    TransientError
        It does not; says which it is and what to do.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    from somatic.errors import TransientError

    url = PREFECT_API_URL.value()
    if not url:
        return
    patience = {"timeout": httpx.Timeout(_ANSWER_S, connect=_CONNECT_S)}
    with (
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
        get_client(httpx_settings=patience, sync_client=True) as client,
    ):
        error = client.api_healthcheck()
    if error:
        # A password may stand before the host.
        host = urlsplit(url).netloc.rpartition("@")[2]
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TransientError(
            f"the Prefect server at {host} does not answer ({reason}); start it, or unset PREFECT_API_URL (and what "
            "`prefect config view` shows for it) to run without one"
        )
