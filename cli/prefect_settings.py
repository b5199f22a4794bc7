"""What the command settles with Prefect before it runs a flow."""

import contextlib
import io
import os
import warnings
from pathlib import Path

from somatic.home import substitute_home


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


def load_prefect() -> None:
    """Import Prefect, which reads its settings then.

    Raises
    ------
    PermanentError
        They are invalid; says which and where they may be.
    """
    from pydantic import ValidationError

    from somatic.errors import PermanentError, one_line, typed_line

    try:
        # It prints what is wrong as well, on several lines, and goes on for a while.
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import prefect.context  # noqa: F401
    except ValueError as error:
        # pydantic's text repeats the value, which may be a secret.
        fault = typed_line(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            fault = f"{'.'.join(map(str, first['loc'])) or error.title}: {first['msg']}"
        home = os.environ.get("PREFECT_HOME", "~/.prefect")
        raise PermanentError(
            f"the settings of Prefect are invalid ({one_line(fault)}); correct the variables PREFECT_..., "
            f"{home}/profiles.toml, or prefect.toml, pyproject.toml or .env in the current folder"
        ) from error
