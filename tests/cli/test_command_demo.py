"""`somatic demo`, on a volume smaller than its own."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from command_line import SOMATIC, Ran, Run, start
from namesakes import put_namesakes
from sessions import SMALL_UM

from _somatic_features import PACKAGES
from sandbox.phantom.scene import Scene, write_scene

HOSTILE = {
    "PREFECT_API_URL": "http://127.0.0.1:9/api",
    "PREFECT_PROFILE": "lab",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg://lab@127.0.0.1:9/lab",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "ALL_PROXY": "http://127.0.0.1:9",
    "CAVE_TOKEN": "the token of another server",
}
"""A laptop of a lab: a Prefect server, its database and a proxy that are not there now."""


@pytest.fixture(scope="module")
def folder(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with Prefect settings and flows of a lab, in which the demo has its volume already."""
    folder = tmp_path_factory.mktemp("demo")
    shutil.copytree(scene.folder, folder / "somatic-demo" / "volume")
    (folder / "prefect.toml").write_text(
        '[api]\nurl = "http://127.0.0.1:9/api"\n'
        '[server.database]\nconnection_url = "postgresql+asyncpg://lab@127.0.0.1:9/lab"\n'
    )
    (folder / ".env").write_text("PREFECT_SERVER_API_BASE_PATH=/lab\n")
    put_namesakes(folder)
    (folder / "home" / ".prefect").mkdir(parents=True)
    (folder / "home" / ".prefect" / "profiles.toml").write_text(
        'active = "lab"\n[profiles.lab]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\n'
    )
    return folder


@pytest.fixture(scope="module")
def first(folder: Path) -> Ran:
    """The demo, where everything else points to servers that are not there."""
    # Its own volume takes half a minute; what is tested here is the same on a smaller one.
    code = (
        "import sys; from sandbox.phantom.scene import write_scene; "
        f"write_scene.__kwdefaults__['extent_um'] = {SMALL_UM}; "
        "from cli.main import main; sys.argv = sys.argv[1:]; main()"
    )
    program = [sys.executable, "-c", code, SOMATIC]
    home = str(folder / "home")
    return start("demo", folder=folder, program=program, HOME=home, **HOSTILE).ended(within_s=240)


def table_of(ran: Ran) -> Path:
    """The table, as the last line on stdout says."""
    return Path(ran.out.splitlines()[-1])


def test_the_whole_line(first: Ran, folder: Path, scene: Scene) -> None:
    """Volume, CAVE server, flow, table: every nucleus has its row, whatever servers and proxies a laptop knows."""
    assert first.status == 0, first.err
    said = first.out.splitlines()[-3]
    assert re.fullmatch(r"phantom v1: 3 nuclei in \d+ s: 2 ok, 0 failed, 1 skipped", said)
    table = pd.read_parquet(table_of(first))
    assert table["nucleus_id"].tolist() == sorted(scene.truth)
    assert table_of(first).is_relative_to(folder / "somatic-demo" / "results")


def test_everything_lies_in_one_folder(first: Ran, folder: Path) -> None:
    """The demo writes below its folder alone, Prefect's database included, and no token stays there."""
    assert first.status == 0
    assert (folder / "somatic-demo" / "prefect" / "prefect.db").exists()
    before = {"home", "prefect.toml", ".env", *PACKAGES, *(f"{name}.py" for name in PACKAGES)}
    assert {path.name for path in folder.iterdir()} - before == {"somatic-demo"}
    assert [path.name for path in (folder / "home" / ".prefect").iterdir()] == ["profiles.toml"]
    for name in ("phantom.toml", "phantom-files.toml"):
        assert "token" not in (folder / "somatic-demo" / name).read_text().lower()


def test_the_volume_that_is_there_is_taken(first: Ran, folder: Path, scene: Scene) -> None:
    """A volume that was written before is not written again."""
    assert first.status == 0
    written = folder / "somatic-demo" / "volume" / "scene.json"
    assert written.stat().st_mtime == (scene.folder / "scene.json").stat().st_mtime


def test_what_it_says_to_do_next_works(first: Ran, folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page and table are there, and `somatic cell` measures a cell, with no server running."""
    monkeypatch.chdir(folder)
    python, cell = [line.strip() for line in first.err.splitlines() if line.startswith("  ")][-2:]
    # Split as a shell does it, which is what the line is for.
    shown = subprocess.run(shlex.split(python), check=True, capture_output=True, text=True).stdout
    assert "[3 rows x" in shown
    [page] = re.findall(r"Look at (\S+),", first.err)
    assert "phantom v1: 3 nuclei" in Path(page).read_text()
    program, *arguments = shlex.split(cell)
    assert Path(shutil.which(program) or "").samefile(SOMATIC)
    ran = run(*arguments)
    assert (ran.status, ran.err) == (0, "")
    assert re.search(r"status +ok", ran.out)


def test_again_it_goes_on(first: Ran, folder: Path, run_flow: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run has another CAVE server at another port, and nothing left to do."""
    chunks = table_of(first).parent / "chunks"
    before = {path.name: path.stat().st_mtime_ns for path in chunks.iterdir()}
    monkeypatch.setitem(write_scene.__kwdefaults__, "extent_um", SMALL_UM)
    monkeypatch.chdir(folder)
    second = run_flow("demo", "--workers", 1)
    assert second.status == 0
    assert "to measure    nothing" in second.err
    assert second.out.splitlines()[-1] == first.out.splitlines()[-1]
    assert {path.name: path.stat().st_mtime_ns for path in chunks.iterdir()} == before


def test_a_folder_that_cannot_be_written(run: Run) -> None:
    """A folder that cannot be made is told at once."""
    Path("file").touch()
    for place, reason in (("file/demo", "Not a directory"), ("/proc/demo", "No such file or directory")):
        ran = run("demo", "--folder", place)
        assert ran.status == 1
        assert ran.error == f"cannot make the folder {place}: {reason}; choose another with --folder"
