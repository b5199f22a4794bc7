"""On a machine where nothing is set but a token: the command works, and the token is in nothing that it wrote."""

import base64
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest
from extracting import Ran, Results, command, ended, without_nuclei

from sandbox.cave.server import CaveServer
from sandbox.lab import datastack, write_cave_dataset
from sandbox.phantom.scene import Scene

TOKEN = "f00d/5ca1+ab1e=0123456789/abcdef"
"""With characters that look otherwise in a URL."""


@dataclass(frozen=True)
class Fresh:
    """What two commands did on a fresh machine: one that measured, and one whose token CAVE no longer knew."""

    measured: Ran
    refused: Ran
    folder: Path


@pytest.fixture(scope="module")
def fresh(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    """An empty home, no Prefect server, a CAVE that wants the token and says it back when it refuses it."""
    folder = tmp_path_factory.mktemp("fresh")
    (folder / "home").mkdir()
    environment = {
        "HOME": str(folder / "home"),
        "CAVE_TOKEN": TOKEN,
        "PREFECT_HOME": None,
        "PREFECT_API_URL": None,
        "PREFECT_SERVER_ANALYTICS_ENABLED": None,
    }
    with CaveServer(datastack(scene), token=TOKEN) as cave:
        dataset = without_nuclei(write_cave_dataset(scene, cave.url, folder / "phantom.toml"))
        arguments = [dataset, "--version", 1, "--to", folder / "results", "--limit", 6]
        measured = ended(command("extract", *arguments, folder=folder, **environment))
        cave.fail("/query", 401, f"invalid_token {TOKEN}", times=None)
        refused = ended(command("--debug", "extract", *arguments, "--force", folder=folder, **environment))
    return Fresh(measured, refused, folder)


def test_it_works_without_a_server_and_with_an_empty_home(fresh: Fresh) -> None:
    """The command brings its own Prefect, ends with 0 and leaves the run in the database for a later look."""
    assert fresh.measured.status == 0, fresh.measured.err
    results = Results(str(fresh.folder / "results"))
    assert results.table["status"].value_counts().to_dict() == {"ok": 3, "skipped": 2, "failed": 1}
    with sqlite3.connect(fresh.folder / "home/.prefect/prefect.db") as database:
        runs = database.execute("select name, state_type from flow_run order by created").fetchall()
        tasks = {name for (name,) in database.execute("select name from task_run where state_type = 'COMPLETED'")}
    assert runs == [("phantom v1", "COMPLETED"), ("phantom v1 chunk 0", "COMPLETED"), ("phantom v1", "FAILED")]
    assert {"plan of phantom v1", "phantom v1 chunk 0", "table of phantom v1"} <= tasks


def test_nothing_but_its_own_lines_is_shown(fresh: Fresh) -> None:
    """No warning and no log of a library reaches the terminal."""
    steps = [line for line in fresh.measured.err.splitlines() if not line.startswith("  ")]
    assert steps[:2] == ["connecting", "the token of CAVE goes to 127.0.0.1 only"]
    assert steps[2:5] == ["asking for the nuclei", "checking the segmentation", "planning"]
    assert steps[5:7] == ["phantom v1: 4 cells", "measuring"]
    assert all(" of 4 cells" in line for line in steps[7:-1])
    assert steps[-1] == "collecting the table"
    assert len(fresh.measured.out.splitlines()) == 4


def test_a_refused_token_is_named_but_not_shown(fresh: Fresh) -> None:
    """The error says where the token came from; the traceback of --debug does not show it either."""
    assert fresh.refused.status == 1
    assert "does not accept the token of CAVE_TOKEN" in fresh.refused.err
    assert "Traceback" in fresh.refused.err


def forms(token: str) -> list[bytes]:
    """The token as it is, as in a URL, and as base64 wherever in a longer text it stands."""
    found = [token.encode(), quote(token, safe="").encode(), quote(token).encode()]
    for before in range(3):
        # Characters at both ends depend on the neighbours.
        found.append(base64.b64encode(b"\0" * before + token.encode())[4:-4])
    return found


def everything(fresh: Fresh) -> Iterator[tuple[str, bytes]]:
    """Name and content of all that was written; of compressed tables also what is in them."""
    for name in ("measured", "refused"):
        ran: Ran = getattr(fresh, name)
        yield f"stdout of {name}", ran.out.encode()
        yield f"stderr of {name}", ran.err.encode()
    for path in fresh.folder.rglob("*"):
        if path.is_file():
            yield str(path), path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            yield f"rows of {path}", str((table.schema.metadata, table.to_pylist())).encode()


def test_the_token_is_nowhere(fresh: Fresh) -> None:
    """In no result, log, parameter, artifact, manifest or database, in no form."""
    contents = dict(everything(fresh))
    database = b"".join(content for name, content in contents.items() if "prefect.db" in name)
    assert b"phantom v1 chunk 0" in database
    assert b"does not accept the token" in database
    assert any(name.endswith("manifest.json") for name in contents)
    assert any(b"has no voxel in the cutout" in content for name, content in contents.items() if "rows of" in name)
    for name, content in contents.items():
        for form in forms(TOKEN):
            assert form not in content, name


def test_the_forms_would_be_found() -> None:
    """A token in a header, in a URL and in an encoded header is among the forms that are looked for."""
    texts = [
        f"Authorization: Bearer {TOKEN}",
        f"https://server/?middle_auth_token={quote(TOKEN, safe='')}",
        base64.b64encode(f"Bearer {TOKEN}!".encode()).decode(),
        base64.b64encode(f"token={TOKEN}".encode()).decode(),
    ]
    for text in texts:
        assert any(form in text.encode() for form in forms(TOKEN)), text
