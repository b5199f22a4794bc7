"""Postgres from Debian's packages, for Prefect's server."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox.ending import end_with_this_process

_USER = "postgres"


@contextmanager
def postgres() -> Iterator[str]:
    """Start a Postgres on a socket of its own; give SQLAlchemy's URL of it."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("no Postgres here: apt-get install postgresql")
    binaries = found[-1].parent
    with tempfile.TemporaryDirectory(prefix="somatic-postgres-") as name:
        folder = Path(name)
        # It does not run as root.
        become = ["runuser", "-u", _USER, "--"] if os.geteuid() == 0 else []
        if become:
            shutil.chown(folder, _USER)
        data, settings = folder / "data", f"-c listen_addresses= -k {folder} -c fsync=off"

        def run(program: str, *arguments: str) -> None:
            command = [*become, binaries / program, *arguments]
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)

        run("initdb", "--auth=trust", f"--username={_USER}", f"--pgdata={data}")
        run("pg_ctl", "start", "--wait", f"--pgdata={data}", f"--log={folder}/log", f"--options={settings}")
        end_with_this_process(int((data / "postmaster.pid").read_text().split()[0]))
        try:
            yield f"postgresql+asyncpg://{_USER}@/postgres?host={folder}"
        finally:
            run("pg_ctl", "stop", "--mode=immediate", f"--pgdata={data}")
