"""The Prefect server of one command: what keeps it from starting, and what it takes from the user's settings."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy
from alembic.util import CommandError
from prefect.client.orchestration import get_client
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_SERVER_API_AUTH_STRING,
    PREFECT_SERVER_API_BASE_PATH,
    PREFECT_SERVER_DATABASE_CONNECTION_URL,
    temporary_settings,
)
from sqlalchemy.exc import DBAPIError

from cli.prefect_server import check_server
from flows.own_server import _fault, own_server
from flows.server_fault import describe_fault
from somatic.errors import PermanentError, SomaticError, TransientError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for Prefect's files, and no server that is set."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return tmp_path


def test_a_database_of_another_version(home: Path) -> None:
    """It is told as such, with the line of the error, by the process that met it; the database stays of its version."""
    with closing(sqlite3.connect(home / "prefect.db")) as database, database:
        database.execute("create table alembic_version (version_num varchar(32) not null)")
        database.execute("insert into alembic_version values ('ffffdeadbeef')")
    with temporary_settings({PREFECT_API_URL: None}), own_server() as wait, pytest.raises(PermanentError) as raised:
        wait()
    said = str(raised.value)
    assert "Can't locate revision identified by 'ffffdeadbeef'; " in said
    assert f"{home}/prefect.db is that of another version of Prefect" in said
    assert "set PREFECT_HOME to another folder, or move the file away" in said
    assert "\n" not in said
    assert os.environ.get("PREFECT_API_URL") is None
    with closing(sqlite3.connect(home / "prefect.db")) as database:
        assert database.execute("select version_num from alembic_version").fetchall() == [("ffffdeadbeef",)]


def test_it_has_the_password_and_the_path_of_the_settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of the user's own servers hold for ours as well, and our client knows them; nobody else gets in."""
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "admin:hunter2")
    monkeypatch.setenv("PREFECT_SERVER_API_BASE_PATH", "/lab/api")
    settings = {
        PREFECT_API_URL: None,
        PREFECT_SERVER_API_AUTH_STRING: "admin:hunter2",
        PREFECT_SERVER_API_BASE_PATH: "/lab/api",
    }
    with temporary_settings(settings), own_server() as wait:
        wait()
        check_server()
        with get_client(sync_client=True) as client:
            assert client.read_flows() == []
        for ours, says in ((None, "requires a password; set PREFECT_API_AUTH_STRING"), ("admin:x", "does not accept")):
            with (
                temporary_settings({PREFECT_API_AUTH_STRING: ours}),
                pytest.raises(PermanentError, match=says) as raised,
            ):
                check_server()
            assert "PREFECT_API_AUTH_STRING (401 Unauthorized)" in str(raised.value)
            assert "hunter2" not in str(raised.value)
    assert (home / "prefect.db").exists()


def opened(path: Path, *, write: bool = False) -> BaseException:
    """The error of opening a database, as Prefect's server gets it."""
    engine = sqlalchemy.create_engine(f"sqlite:///{path}", connect_args={"timeout": 0.01})
    with pytest.raises(DBAPIError) as raised, engine.connect() as connection:
        connection.execute(sqlalchemy.text("insert into a values (1)" if write else "select * from sqlite_master"))
    engine.dispose()
    return raised.value


def damaged(path: Path) -> BaseException:
    """A file that is something else."""
    path.write_bytes(b"no database " * 100)
    return opened(path)


def without_folder(path: Path) -> BaseException:
    """A folder that is not there, and cannot be made."""
    return opened(path.parent / "none" / path.name)


def read_only(path: Path) -> BaseException:
    """A database that can be read only."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("create table a (b)")
    return opened(Path(f"file:{path}?mode=ro&uri=true"), write=True)


def locked(path: Path) -> BaseException:
    """A database that another process writes."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("create table a (b)")
        database.execute("begin exclusive")
        return opened(path)


def missing(_path: Path) -> BaseException:
    """A package that is not installed."""
    with pytest.raises(ImportError) as raised:
        __import__("a_package_that_is_missing")
    return BaseExceptionGroup("unhandled errors in a TaskGroup", [raised.value])


def of_another_version(_path: Path) -> BaseException:
    """A revision that our Prefect does not have."""
    return CommandError("Can't locate revision identified by 'ffffdeadbeef'")


@pytest.mark.parametrize(
    ("fault", "reason", "advice", "passing"),
    [
        (damaged, "DatabaseError: file is not a database", "{path} is damaged; set PREFECT_HOME to another", False),
        (without_folder, "OperationalError: unable to open database file", "{folder} cannot be written; set PR", False),
        (read_only, "OperationalError: attempt to write a readonly database", "{folder} cannot be written; set", False),
        (locked, "OperationalError: database is locked", "another server has locked {path}; try again", True),
        (missing, "ModuleNotFoundError: No module named 'a_package", "lacks a package: install somatic again", False),
        (of_another_version, "CommandError: Can't locate", "{path} is that of another version of Prefect", False),
        (lambda _: ValueError("odd"), "ValueError: odd", "or PREFECT_API_URL to a server that runs", False),
    ],
)
def test_reasons(
    fault: Callable[[Path], BaseException], reason: str, advice: str, passing: bool, tmp_path: Path
) -> None:
    """Each fault has the line of its error, and advice that fits."""
    path = tmp_path / "prefect.db"
    with temporary_settings({PREFECT_SERVER_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{path}"}):
        said, is_passing = describe_fault(fault(path))
    assert said.startswith(reason)
    assert advice.format(path=path, folder=tmp_path) in said
    assert "\n" not in said
    assert is_passing is passing


def test_a_database_that_is_a_server() -> None:
    """One that is not reached is named, without its password, and may be there later."""
    url = "postgresql+asyncpg://prefect:hunter2@db.example:5432/server"
    with temporary_settings({PREFECT_SERVER_DATABASE_CONNECTION_URL: url}):
        said, is_passing = describe_fault(ConnectionRefusedError(111, "Connect call failed"))
        other, _ = describe_fault(of_another_version(Path()))
    assert "Connect call failed; check the database at db.example, which PREFECT_SERVER_DATABASE_CONNECTION_URL" in said
    assert is_passing
    assert "the database at db.example is that of another version of Prefect" in other
    assert "hunter2" not in said + other


@pytest.mark.parametrize(
    ("log", "status", "says", "kind"),
    [
        (
            'x\nsomatic: why: ["OSError: odd; mend it", false]\nSystemExit: 3',
            1,
            "start: OSError: odd; me",
            PermanentError,
        ),
        ('somatic: why: ["busy", true]\n', 1, "did not start: busy", TransientError),
        (
            "Traceback (most recent call last):\n  File x\nsqlite3.OperationalError: disk I/O error\n\n"
            "Fatal Python error: _enter_buffered_busy\n\nCurrent thread 0x00 (most recent call first):\n"
            "  <no Python frame>\n",
            1,
            "did not start (sqlite3.OperationalError: disk I/O error)",
            TransientError,
        ),
        ("Current thread 0x00\n  <no Python frame>\n", 1, "did not start (exit status 1)", TransientError),
        ("", -9, "did not start (ended by SIGKILL)", TransientError),
    ],
)
def test_what_is_found_in_its_log(log: str, status: int, says: str, kind: type[SomaticError]) -> None:
    """Its own word, else the last error; never a line of a traceback, or of Python's own end."""
    fault = _fault(log.split("\n"), status)
    assert says in str(fault)
    assert type(fault) is kind
