"""An extraction whose root ids are those of a graph: the same table as from the flat copies."""

from pathlib import Path

import pandas as pd
import pytest
from extracting import TOKEN, Results, run, without_nuclei

from sandbox.cave.server import CaveServer
from sandbox.lab import datastack, write_cave_dataset
from sandbox.phantom.scene import Scene


def test_a_whole_table_from_a_graph(
    scene: Scene, tmp_path: Path, undisturbed: Results, capfd: pytest.CaptureFixture[str]
) -> None:
    """Row by row what the flat copy gives, leaves asked once a cell, and no token in what is said or kept."""
    with CaveServer(datastack(scene, graph=True), token=TOKEN) as server:
        dataset = without_nuclei(write_cave_dataset(scene, server.url, tmp_path / "phantom.toml", graph=True))
        state = run(dataset, tmp_path / "results", version=1)
        assert state.is_completed(), state
        leaves = [request.path for request in server.requests if request.path.endswith("/leaves")]
    results = Results(str(tmp_path / "results"))
    asked = results.table[results.table["status"] != "skipped"]
    unknown = asked["reason"].fillna("").str.contains("no root of the graph")
    assert len(leaves) == (~unknown).sum()
    flat = undisturbed.table
    pd.testing.assert_frame_equal(
        results.table[~results.table.index.isin(asked.index[unknown])].drop(columns="reason"),
        flat[~flat.index.isin(asked.index[unknown])].drop(columns="reason"),
        check_exact=True,
    )
    assert unknown.sum() == 1
    assert (flat.loc[asked.index[unknown], "reason"].str.contains("no voxel")).all()
    assert TOKEN not in "".join(capfd.readouterr())
    assert not any(TOKEN.encode() in path.read_bytes() for path in (tmp_path / "results").rglob("*") if path.is_file())
