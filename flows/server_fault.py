"""What keeps a Prefect server from starting, in words; told by its process, which knows the error."""

import sqlite3
from pathlib import Path

from somatic.errors import typed_line

_DAMAGED = {"SQLITE_CORRUPT", "SQLITE_NOTADB"}
_CLOSED = {"SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_IOERR", "SQLITE_FULL"}
_BUSY = {"SQLITE_BUSY", "SQLITE_LOCKED"}
_AWAY = "set PREFECT_HOME to another folder, or move the file away: it holds Prefect's history of runs, and no results"


def describe_fault(error: BaseException) -> tuple[str, bool]:
    """Say why a server did not start, and what to do.

    Parameters
    ----------
    error : BaseException
        What its start ended with.

    Returns
    -------
    str, bool
        The reason and the advice on one line; whether the fault may be gone a little later.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, ImportError):
        return f"{typed_line(error)}; this installation lacks a package: install somatic again", False
    # Here, since one of these may be what is missing.
    from sqlalchemy.exc import DBAPIError

    if isinstance(error, DBAPIError):
        error = error.orig or error
    advice, is_passing = _advice(error)
    return f"{typed_line(error)}; {advice}", is_passing


def _advice(error: BaseException) -> tuple[str, bool]:
    import prefect
    from alembic.util import CommandError
    from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL
    from sqlalchemy.engine import make_url

    url = make_url(PREFECT_SERVER_DATABASE_CONNECTION_URL.value())
    is_file = url.get_backend_name() == "sqlite"
    database = f"{url.database}" if is_file else f"the database at {url.host}"
    if isinstance(error, CommandError):
        of_another = f"{database} is that of another version of Prefect than {prefect.__version__}"
        return f"{of_another}; {_AWAY if is_file else 'set PREFECT_API_URL to the server that it belongs to'}", False
    if isinstance(error, sqlite3.Error):
        # As SQLITE_IOERR_WRITE, of which the kind is the first two words.
        kind = "_".join((error.sqlite_errorname or "").split("_")[:2])
        if kind in _DAMAGED:
            return f"{database} is damaged; {_AWAY}", False
        if kind in _CLOSED:
            return f"{Path(str(url.database)).parent} cannot be written; set PREFECT_HOME to a folder that can", False
        if kind in _BUSY:
            return f"another server has locked {database}; try again, or set PREFECT_API_URL to that server", True
    if not is_file:
        return f"check {database}, which PREFECT_SERVER_DATABASE_CONNECTION_URL names", isinstance(error, OSError)
    return "set PREFECT_HOME to another folder, or PREFECT_API_URL to a server that runs", False
