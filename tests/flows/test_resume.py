"""Stopped anywhere and started again: nothing is lost, nothing is done twice."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from extracting import Ran, Results, Spot, command, ended, run
from file_server import Fault, FileServer

from sandbox.phantom.scene import Scene

pytestmark = pytest.mark.usefixtures("no_report")

RUNS = {
    "limit": {"limit": 5},
    "other chunks": {"limit": 9, "chunk": 7},
    "sample": {"sample": 4, "chunk": 1},
    "everything": {},
}


def until(true: Callable[[], bool], process: subprocess.Popen[str], within_s: float = 240) -> None:
    """Wait for something that a running command does."""
    deadline = time.monotonic() + within_s
    while not true():
        if process.poll() is not None or time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(process.communicate())
        time.sleep(0.05)


def written(results: Results) -> dict[str, tuple[int, int]]:
    """Number and moment of writing of each chunk file: a file that is written again has others."""
    folder = Path(results.store.url_of("chunks"))
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


def all_but_one_chunk_stored(root: Path) -> bool:
    """Whether three of the four chunks are stored, and the rows of the skipped nuclei."""
    return len(list(root.glob("phantom/v1/*/chunks/*.parquet"))) == 4


@pytest.mark.parametrize(
    "order",
    [
        ["limit", "other chunks", "everything"],
        ["sample", "everything", "limit"],
    ],
    ids=", then ".join,
)
def test_runs_share_their_work(order: list[str], dataset: Path, undisturbed: Results, tmp_path: Path) -> None:
    """In whatever order and chunks, each nucleus is measured once, and the table ends up the same and never shrinks."""
    results = Results(str(tmp_path / "results"))
    rows = 0
    for name in order:
        before = written(results) if rows else {}
        assert run(dataset, tmp_path / "results", **RUNS[name]).is_completed()
        assert before.items() <= written(results).items()
        assert len(results.table) >= rows
        rows = len(results.table)
    assert results.stored == undisturbed.table.index.tolist()
    assert results.features == undisturbed.features


def test_retry_and_force_make_new_attempts(dataset: Path, scene: Scene, tmp_path: Path) -> None:
    """The same again measures nothing, `retry` what failed or is named, `force` everything; old files stay."""
    results = Results(str(tmp_path / "results"))
    [failed] = [truth.nucleus_id for truth in scene.with_role("not in segmentation")]
    [moved] = [truth.nucleus_id for truth in scene.with_role("moved")]
    assert run(dataset, tmp_path / "results").is_completed()
    features, first, provenance = results.features, written(results), results.provenance
    assert set(provenance["attempt"]) == {1}

    assert run(dataset, tmp_path / "results", chunk=5, workers=1).is_completed()
    assert written(results) == first
    assert results.provenance.equals(provenance)

    assert run(dataset, tmp_path / "results", retry="failed").is_completed()
    attempts = results.provenance["attempt"]
    assert attempts[attempts == 2].index.tolist() == [failed]

    assert run(dataset, tmp_path / "results", retry=[moved, failed]).is_completed()
    attempts = results.provenance["attempt"]
    assert attempts[attempts > 1].to_dict() == {failed: 3, moved: 2}

    assert run(dataset, tmp_path / "results", force=True).is_completed()
    assert results.provenance["attempt"].value_counts().to_dict() == {2: 13, 3: 1, 4: 1}
    assert first.items() <= written(results).items()
    newest = results.provenance["chunk"] + ".parquet"
    assert not set(newest) & set(first)
    assert results.features == features


def test_a_new_row_wins_over_the_old_one(
    http_dataset: Path, bucket: FileServer, spots: list[Spot], tmp_path: Path
) -> None:
    """What a retry measures stands in the table: here a cell whose file was missing from the bucket at first."""
    results, spot = Results(str(tmp_path / "results")), spots[0]
    bucket.faults[spot.file] = Fault(status=404)
    assert run(http_dataset, tmp_path / "results", limit=3).is_completed()
    before = results.table.loc[spot.nucleus_id]
    bucket.faults.clear()
    assert run(http_dataset, tmp_path / "results", limit=3, retry=[spot.nucleus_id]).is_completed()
    after = results.table.loc[spot.nucleus_id]
    assert after["frac_unlabelled"] < before["frac_unlabelled"]


@pytest.fixture
def held(http_dataset: Path, bucket: FileServer, spots: list[Spot]) -> Path:
    """A dataset of which the last chunk that is measured waits for a file for ever."""
    bucket.faults[spots[0].file] = Fault(wait=threading.Event())
    return http_dataset


def checked_again(dataset: Path, bucket: FileServer, results: Results, undisturbed: Results) -> list[int]:
    """Go on after a stop: what was stored stays, only the rest is measured, the bytes are those of a run in one go."""
    bucket.faults.clear()
    before, stored = written(results), results.stored
    assert run(dataset, results.root, chunk=3).is_completed()
    assert before.items() <= written(results).items()
    assert results.stored == undisturbed.table.index.tolist()
    assert results.features == undisturbed.features
    return stored


@pytest.mark.parametrize("whole_group", [True, False], ids=["group", "parent alone"])
def test_killed(
    whole_group: bool,
    held: Path,
    bucket: FileServer,
    spots: list[Spot],
    undisturbed: Results,
    prefect_database: Path,
    tmp_path: Path,
) -> None:
    """SIGKILL of the command, with its group or alone, leaves no process behind, and costs the chunk in flight only."""
    own_server = {} if whole_group else {"PREFECT_API_URL": None, "PREFECT_HOME": str(tmp_path)}
    shutil.copyfile(prefect_database, tmp_path / "prefect.db")
    root = tmp_path / "results"
    process = command("extract", held, "--to", root, "--chunk", 3, "--workers", 2, folder=tmp_path, **own_server)
    until(lambda: all_but_one_chunk_stored(root), process)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    assert len(family) >= 3
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGKILL)
    process.communicate()
    _, alive = psutil.wait_procs(family, timeout=15)
    assert alive == []
    stored = checked_again(held, bucket, Results(str(root)), undisturbed)
    assert len(stored) == 12
    assert spots[0].nucleus_id not in stored


def test_ctrl_c(held: Path, bucket: FileServer, spots: list[Spot], undisturbed: Results, tmp_path: Path) -> None:
    """Ctrl-C, which a terminal sends to the whole group, ends the command soon and keeps what was measured."""
    root = tmp_path / "results"
    process = command("extract", held, "--to", root, "--chunk", 3, "--workers", 2, folder=tmp_path)
    until(lambda: all_but_one_chunk_stored(root), process)
    ran, seconds = stopped_by(lambda: os.killpg(process.pid, signal.SIGINT), process)
    assert seconds < 20
    assert ran.status == 130
    assert ran.error == "stopped; what was measured is kept, and the same command goes on from there"
    stored = checked_again(held, bucket, Results(str(root)), undisturbed)
    assert spots[0].nucleus_id not in stored


def test_sigterm_while_it_waits_to_try_again(
    http_dataset: Path, bucket: FileServer, spots: list[Spot], tmp_path: Path
) -> None:
    """SIGTERM to the command alone ends it too, and does not wait for the end of a pause before a retry."""
    bucket.faults[spots[0].file] = Fault(body=b"no segmentation")
    root = tmp_path / "results"
    process = command("extract", http_dataset, "--to", root, "--chunk", 12, "--workers", 1, folder=tmp_path)
    # A cell that failed for now is written down before the pause, the second of which takes 5 to 15 seconds.
    until(lambda: len(list(root.glob("phantom/v1/*/attempts/*/*.parquet"))) == 2, process)
    ran, _ = stopped_by(process.terminate, process)
    # There was no third trial.
    assert len(list(root.glob("phantom/v1/*/attempts/*/*.parquet"))) == 2
    assert ran.status == 143
    assert ran.error == "stopped; what was measured is kept, and the same command goes on from there"
    assert len(Results(str(root)).stored) == 14


def stopped_by(stop: Callable[[], None], process: subprocess.Popen[str]) -> tuple[Ran, float]:
    """Stop a command; give how it ended and how long that took, and see that it leaves no process behind."""
    family = psutil.Process(process.pid).children(recursive=True)
    started = time.monotonic()
    stop()
    ran = ended(process, 30)
    seconds = time.monotonic() - started
    _, alive = psutil.wait_procs(family, timeout=15)
    assert alive == []
    return ran, seconds
