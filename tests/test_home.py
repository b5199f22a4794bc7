"""A home folder that cannot be written, that does not exist, or that a user does not have."""

import os
import pwd
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from volumes import put_volume

from cli.prefect_settings import prepare_prefect
from somatic.home import settle_home, substitute_home

OURS = ("CLOUD_VOLUME_DIR", "CLOUD_FILES_LOCK_DIR", "XDG_CACHE_HOME", "MPLCONFIGDIR", "PREFECT_HOME")


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A temporary folder of the test, and the variables as they were in the end."""
    before = dict(os.environ)
    for name in OURS:
        os.environ.pop(name, None)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(params=["missing", "below a file", "a file", "not mine"])
def no_home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder that cannot be written; where it does not exist root could make it, but not below a file."""
    (tmp_path / "file").touch()
    home = tmp_path / "file" / "home"
    if request.param == "a file":
        home = tmp_path / "file"
    elif request.param == "missing":
        home = tmp_path / "missing"
    elif request.param == "not mine":
        home = tmp_path / "home"
        home.mkdir()
        access = os.access
        # Root may write everywhere.
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != home and access(path, mode))
    os.environ["HOME"] = str(home)
    return home


def test_a_home_that_can_be_written(tmp_path: Path) -> None:
    """Nothing changes."""
    os.environ["HOME"] = str(tmp_path)
    before = dict(os.environ)
    settle_home()
    assert substitute_home() is None
    assert dict(os.environ) == before


def test_a_home_that_cannot_be_written(no_home: Path, tmp_path: Path) -> None:
    """Libraries are told a folder that only this user can write, the same each time; HOME stays, for what is read."""
    settle_home()
    folder = substitute_home()
    assert folder == tmp_path / "tmp" / f"somatic-home-{os.geteuid()}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    prepare_prefect()
    for name in OURS:
        assert os.environ[name].startswith(f"{folder}/"), name
    assert os.environ["HOME"] == str(no_home)


def test_what_is_set_stays(no_home: Path) -> None:
    """A user who has told the libraries where to write knows better; secrets in the home folder are found."""
    for name in OURS:
        os.environ[name] = f"/mine/{name}"
    settle_home()
    prepare_prefect()
    assert {name: os.environ[name] for name in OURS} == {name: f"/mine/{name}" for name in OURS}
    if no_home.is_dir():
        del os.environ["CLOUD_VOLUME_DIR"]
        (no_home / ".cloudvolume").mkdir()
        settle_home()
        assert "CLOUD_VOLUME_DIR" not in os.environ


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither HOME nor an entry in passwd: no library takes a folder named ~ in the current one for it."""
    del os.environ["HOME"]

    def nobody(_uid: int) -> None:
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    settle_home()
    assert os.environ["HOME"] == "/nonexistent"
    assert Path.home() == Path("/nonexistent")
    assert os.environ["CLOUD_VOLUME_DIR"].startswith(tempfile.gettempdir())


@pytest.mark.parametrize("kind", ["link", "open"])
def test_a_folder_that_others_can_write(tmp_path: Path, kind: str) -> None:
    """Compiled code is never read from a folder that somebody else has put there."""
    os.environ["HOME"] = "/dev/null"
    planted = tmp_path / "tmp" / f"somatic-home-{os.geteuid()}"
    if kind == "link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        planted.symlink_to(tmp_path / "theirs")
    else:
        planted.mkdir()
        planted.chmod(0o777)
    folder = substitute_home()
    assert folder
    assert folder != planted
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not list((tmp_path / "tmp").glob("theirs/*"))


def test_no_temporary_folder_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be kept, and nothing has to be."""
    os.environ["HOME"] = "/dev/null"
    monkeypatch.setattr(tempfile, "tempdir", "/dev/null/tmp")
    settle_home()
    assert os.environ["CLOUD_VOLUME_DIR"] == os.devnull


def test_a_layer_is_read_without_a_home(tmp_path: Path) -> None:
    """As a person sees it, who has neither a home nor a folder for the libraries."""
    url = put_volume(tmp_path / "seg", np.full((8, 8, 8), 5, np.uint64))
    code = f"from somatic.cutout import Segmentation; print(Segmentation({url!r}, 0).label_at((1, 1, 1)))"
    (tmp_path / "here").mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in OURS}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "here",
        env=environment | {"HOME": "/dev/null/home", "TMPDIR": str(tmp_path / "tmp")},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert ran.stdout.strip() == "5", ran.stderr
    assert not list((tmp_path / "here").iterdir())
