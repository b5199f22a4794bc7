"""Servers that do not answer, and files that cannot be read for now: the command waits, but not for ever.

Commands that wait for a server mostly sleep, so they all start at once; where one process runs all tests, before the
first test of this folder, so that they end beside the others.
"""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from command_line import Run, Running

import tasks.extraction
from sandbox.phantom.scene import Scene

LIMIT_S = 40
"""So long a person waits for a server that is not there."""
BUSY_S = 40
"""What imports and a crowded machine may add."""


def test_nobody_listens(waiting: dict[str, Running]) -> None:
    """A port that refuses: the address, and what to check."""
    ran = waiting["extract, refused"].ended(within_s=LIMIT_S + BUSY_S)
    assert (ran.status, ran.out) == (1, "")
    assert re.search(r"CAVE at http://127\.0\.0\.1:\d+ cannot be reached \(.*refused\)", ran.error)
    assert "check the address" in ran.error
    assert ran.seconds < LIMIT_S + BUSY_S


@pytest.mark.parametrize("name", ["plan, no connection", "cell, no answer"])
def test_nothing_comes_back(waiting: dict[str, Running], name: str) -> None:
    """A host that swallows connections, and one that takes them and says nothing: given up within the time limit."""
    ran = waiting[name].ended(within_s=LIMIT_S + BUSY_S)
    assert (ran.status, ran.out) == (1, "")
    assert re.search(r"CAVE at http://127\.0\.0\.1:\d+ (did not answer in time|cannot be reached)", ran.error)
    assert "try again later" in ran.error or "check the address" in ran.error
    assert ran.seconds < LIMIT_S + BUSY_S


def test_cells_that_failed_for_now(
    damaged: tuple[Path, Path], run_flow: Run, cell_id: int, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that cannot be read: after its retries the command says how many of what, where, and what to do."""
    dataset, segmentation = damaged
    waits: list[float] = []
    monkeypatch.setattr(tasks.extraction, "_pause", lambda seconds, _stop: waits.append(seconds))
    ran = run_flow("extract", dataset, "--to", dataset.parent / "results", "--no-meshes", "--workers", 1)
    assert len(waits) == 3
    assert ran.status == 1
    counts, reason, _, path = ran.out.splitlines()
    assert counts.endswith(": 1 ok, 0 failed, 1 failed for now, 1 skipped")
    assert "does not decode" in reason
    table = pd.read_parquet(path).set_index("nucleus_id")
    assert table["status"].value_counts().to_dict() == {"ok": 1, "failed": 1, "skipped": 1}
    assert table["status"][cell_id] == "failed"
    assert "1 of 3 nuclei failed for now" in ran.error
    assert ran.error.endswith("run the same command again, which measures only these")

    # Which is true, once the file is well.
    shutil.rmtree(segmentation)
    shutil.copytree(scene.folder / "seg_v1", segmentation)
    again = run_flow("extract", dataset, "--to", dataset.parent / "results", "--no-meshes")
    assert again.status == 0
    assert "to measure    1 cell in 1 chunk (1 shard)" in again.err
    assert again.out.splitlines()[0].endswith(": 2 ok, 0 failed, 1 skipped")
