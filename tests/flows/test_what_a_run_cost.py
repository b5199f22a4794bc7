"""Requests, bytes and cells as a run counts them, against the server's own record and the files on disk."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from extracting import RADIUS_UM, TOKEN, Results, run, without_nuclei
from prefect import flow

from flows.shard import extract_shard
from sandbox.cave.faults import Request
from sandbox.cave.server import CaveServer
from sandbox.lab import NUCLEI_VIEW, SYNAPSES, datastack, write_cave_dataset
from sandbox.phantom.scene import Scene
from somatic.cave.counting import count_request, requests_sent
from somatic.extracting.cost import load_requests
from somatic.storage.store import ResultStore
from tasks.costs import noted_requests

KINDS = {
    f"/views/{NUCLEI_VIEW}/query": f"rows of {NUCLEI_VIEW}",
    f"/table/{SYNAPSES}/query": f"rows of {SYNAPSES}",
    "/leaves": "leaves",
    "/is_latest_roots": "roots",
    "/roots_binary": "roots",
}


def by_kind(requests: list[Request]) -> Counter[str]:
    """Requests as the server had them."""
    paths = [request.path for request in requests]
    return Counter(next((kind for end, kind in KINDS.items() if path.endswith(end)), "metadata") for path in paths)


def test_bytes_are_those_of_the_files_on_disk(undisturbed: Results, scene: Scene) -> None:
    """The files that the cutouts of its cells touch, found by their names, each once a shard, as they lie there."""
    table_nm, voxel_nm = np.array(scene.table_resolution_nm), np.array(scene.voxel_size_nm)
    measured = undisturbed.provenance[undisturbed.table["status"] != "skipped"]
    assert len(measured) > 10
    centres = measured[["x_vx", "y_vx", "z_vx"]].to_numpy(dtype=int)
    # definitions.md, "Soma mask, published", 1.
    reach = (RADIUS_UM * 1000 / table_nm).astype(int)
    lower, upper = (np.trunc((centres + sign * reach) / (voxel_nm / table_nm)).astype(int) for sign in (-1, 1))
    touched = []
    for path in (scene.folder / "seg_v1").glob("*/*.gz"):
        first, stop = np.array(re.findall(r"(-?\d+)-(-?\d+)", path.name), dtype=int).T
        if ((first < upper) & (stop > lower)).all(axis=1).any():
            touched.append(path.stat().st_size)
    assert measured["segmentation_files"].sum() == len(touched)
    assert measured["segmentation_bytes"].sum() == sum(touched)


def test_a_shard_of_its_own_process_notes_its_requests(scene: Scene, tmp_path: Path) -> None:
    """Beside those of its extraction, by its own flow run and attempt."""
    with CaveServer(datastack(scene, graph=True), token=TOKEN) as server:
        dataset = without_nuclei(write_cave_dataset(scene, server.url, tmp_path / "phantom.toml", graph=True))
        state = run(dataset, tmp_path / "results", version=1, limit=4)
        assert state.is_completed(), state
        store = Results(str(tmp_path / "results")).store
        [parent] = store.names("costs")
        assert store.names(f"costs/{parent}") == [f"{parent}-1.json"]
        of_parent = load_requests(store, parent)
        assert of_parent == by_kind(server.requests)
        [plan] = store.names("plans")
        # What was measured is forgotten, so that the shard has something to do.
        for name in store.names("chunks"):
            Path(store.url_of(f"chunks/{name}")).unlink()
        [snapshot] = store.names("snapshots")
        shard = extract_shard(
            dataset=str(dataset),
            version=1,
            plan=plan.removesuffix(".parquet"),
            start=0,
            stop=2,
            run=snapshot.removesuffix(".parquet"),
            to=str(tmp_path / "results"),
            meshes=False,
            return_state=True,
        )
        assert shard.is_completed(), shard
        all_requests = by_kind(server.requests)
    name = f"{shard.state_details.flow_run_id}-1.json"
    assert store.names(f"costs/{parent}") == sorted([f"{parent}-1.json", name])
    own = json.loads(store.get(f"costs/{parent}/{name}"))["requests"]
    assert own["leaves"] > 0
    assert own == all_requests - of_parent
    assert load_requests(store, parent) == all_requests


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_requests_are_noted_when_a_run_is_stopped_or_fails(error: type[BaseException], tmp_path: Path) -> None:
    """What was sent since the flow run began, and nothing from before."""
    store = ResultStore(str(tmp_path))
    count_request("https://x/earlier/leaves")

    @flow
    def asking() -> None:
        before = requests_sent()
        count_request("https://x/leaves")
        with noted_requests(store, "run", before):
            count_request("https://x/leaves")
            raise error

    with pytest.raises(error):
        asking()
    assert load_requests(store, "run") == {"leaves": 2}
