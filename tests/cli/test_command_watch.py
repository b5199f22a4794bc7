"""`somatic watch`."""

import signal
import time
from pathlib import Path

import pytest
from command_line import Run, start

from sandbox.phantom.scene import Scene


def test_a_new_version(run_flow: Run, cave_toml: Path, scene: Scene, tmp_path: Path) -> None:
    """From the first table to nothing left to do: what is missing has exit status 1, and is said in one line."""
    options = (cave_toml, "--to", "results")
    nothing = run_flow("watch", *options)
    assert nothing.status == 1
    [line] = nothing.out.splitlines()
    assert line.startswith(f"phantom: no complete table at {tmp_path}/results/phantom, so nothing is started; ")
    assert not (tmp_path / "results").exists()

    assert run_flow("extract", *options, "--version", 1, "--no-meshes").status == 0
    announced = run_flow("watch", *options, "--dry-run")
    assert (announced.status, announced.out) == (1, "phantom v2: to be extracted\n")
    assert not (tmp_path / "results/phantom/v2").exists()

    extracted = run_flow("watch", *options, "--workers", 1)
    assert extracted.status == 0, extracted.err
    said, counts, *_, table = extracted.out.splitlines()
    assert said == "phantom v2: is extracted here"
    assert counts.startswith(f"phantom v2: {len(scene.nuclei(2))} nuclei in ")
    assert Path(table).parent.parent == tmp_path / "results/phantom/v2"
    assert Path(table).is_file()
    assert "measuring" in extracted.err

    again = run_flow("watch", *options)
    assert again.status == 0
    assert again.out == "phantom: the table of v2 is complete, and there is no newer version\n"


def test_again_and_again(cave_toml: Path, prefect_api_url: str, tmp_path: Path) -> None:
    """With --every it looks, waits, and ends by Ctrl-C with one line and the status that shells know it by."""
    running = start("watch", cave_toml, "--every", "1d", folder=tmp_path, PREFECT_API_URL=prefect_api_url)
    deadline = time.monotonic() + 120
    while b"looking again in 1d" not in running.said["err"]:
        assert running.process.poll() is None, running.said["err"].decode()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    running.process.send_signal(signal.SIGINT)
    ran = running.ended(150)
    assert ran.status == 128 + signal.SIGINT
    assert ran.out.startswith("phantom: no complete table at ")
    assert ran.err.splitlines()[-1].startswith("somatic: stopped; ")


@pytest.mark.parametrize("every", ["6", "h", "0h", "6 hours", "-1d", "1.5h"])
def test_no_length_of_time(run: Run, cave_toml: Path, every: str) -> None:
    """What --every does not understand is said with what it does."""
    ran = run("watch", cave_toml, f"--every={every}")
    assert ran.status == 2
    assert f"{every!r} is no length of time, such as 30m, 6h or 1d" in ran.error


def test_tables_in_files(run: Run, files_toml: Path) -> None:
    """A dataset that can have no new version is told so before any server starts."""
    ran = run("watch", files_toml)
    assert ran.status == 1
    assert ran.error.startswith("tables: its tables are files, which have one version, 1; there is nothing to watch; ")
