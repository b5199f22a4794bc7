"""A new version: only what changed is measured, and the table is that of a full extraction."""

from pathlib import Path

import pytest
from extracting import TOKEN, Results, run, without_nuclei

from sandbox.cave.server import CaveServer
from sandbox.lab import datastack, write_cave_dataset
from sandbox.phantom.scene import Scene


def test_from_one_version_to_the_next(scene: Scene, tmp_path: Path) -> None:
    with CaveServer(datastack(scene, graph=True), token=TOKEN) as server:
        dataset = write_cave_dataset(scene, server.url, tmp_path / "phantom.toml", graph=True)
        to = tmp_path / "results"
        assert run(dataset, to, version=1, meshes=True).is_completed()
        n = len(server.requests)
        assert run(dataset, to, version=2, meshes=True).is_completed()
        print([(r.method, r.path[-60:]) for r in server.requests[n:]])
        whole = tmp_path / "whole"
        assert run(dataset, whole, version=2, since=None).is_completed()
    incremental, full = Results(str(to), 2), Results(str(whole), 2)
    print(
        incremental.provenance[
            ["source", "soma_version", "nucleus_version", "seconds", "soma_fingerprint", "synapse_hash"]
        ]
    )
    assert incremental.features == full.features
