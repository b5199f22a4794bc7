"""Settings of Prefect that the command needs before Prefect is imported."""

import os
from pathlib import Path


def prepare_prefect(home: Path | None = None) -> None:
    """Keep Prefect's log off the terminal, let it bring its own server where none is set, and send nothing home.

    Whatever the environment says stays as it is.

    Parameters
    ----------
    home : Path, optional
        Folder for a Prefect of its own, which knows nothing of the user's profile and server.
    """
    if home:
        for name in [name for name in os.environ if name.startswith("PREFECT_")]:
            del os.environ[name]
        os.environ["PREFECT_HOME"] = str(home)
    for name, value in {
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "DO_NOT_TRACK": "1",
    }.items():
        os.environ.setdefault(name, value)
