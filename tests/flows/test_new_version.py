"""A new version: only what changed is measured, and the table is that of a full extraction."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from extracting import TOKEN, Results, run
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from proofreading import Proofread, graph_dataset, proofread

import somatic.features
from sandbox.cave.server import CaveServer
from sandbox.phantom.scene import Scene
from somatic.features import MEASURED

pytestmark = pytest.mark.usefixtures("_laptop")


@pytest.fixture(scope="module")
def edited(scene: Scene) -> Proofread:
    """The phantom with a third version."""
    return proofread(scene)


def manifest_of(results: Results) -> dict[str, Any]:
    """manifest.json."""
    return json.loads(results.store.get("manifest.json"))


@dataclass(frozen=True)
class Both:
    """Results of version 2, and of version 3 once taken over from there and once measured from nothing."""

    before: Results
    carried: Results
    whole: Results
    asked: list[str]
    """Addresses that the second extraction asked CAVE for."""
    renewed: Results
    """Version 3 by a somatic that measures nuclei in another way, from version 2."""
    asked_renewed: list[str]


@pytest.fixture(scope="module")
def both(scene: Scene, edited: Proofread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """Version 2, then 3 with and without what is known of 2."""
    folder = tmp_path_factory.mktemp("versions")
    with pytest.MonkeyPatch.context() as patch, CaveServer(edited.stack, token=TOKEN) as server:
        patch.setenv("CAVE_TOKEN", TOKEN)
        dataset = graph_dataset(scene, server.url, folder / "phantom.toml")
        assert run(dataset, folder / "results", version=2, meshes=True).is_completed()
        n_asked = len(server.requests)
        assert run(dataset, folder / "results", version=3, meshes=True).is_completed()
        asked = [request.path for request in server.requests[n_asked:]]
        assert run(dataset, folder / "whole", version=3, meshes=True, since=None).is_completed()
        results, whole, renewed = (str(folder / name) for name in ("results", "whole", "renewed"))
        shutil.copytree(folder / "results/phantom/v2", folder / "renewed/phantom/v2")
        patch.setattr("somatic.features.NUCLEUS_VERSION", somatic.features.NUCLEUS_VERSION + 1)
        n_asked = len(server.requests)
        assert run(dataset, renewed, version=3, meshes=True).is_completed()
        asked_renewed = [request.path for request in server.requests[n_asked:]]
        before, carried = Results(results, 2), Results(results, 3)
        yield Both(before, carried, Results(whole, 3), asked, Results(renewed, 3), asked_renewed)


def test_the_table_is_that_of_a_full_extraction(both: Both) -> None:
    """Byte for byte, and so are the meshes."""
    assert both.carried.features == both.whole.features
    names = both.whole.store.names("meshes/mesh")
    assert len(names) > 20
    assert both.carried.store.names("meshes/mesh") == names
    for name in names:
        assert both.carried.store.get(f"meshes/mesh/{name}") == both.whole.store.get(f"meshes/mesh/{name}")


def test_exactly_the_cells_that_changed_are_measured(both: Both, edited: Proofread) -> None:
    """One trimmed inside its cutout, one new, one moved, two merged; and one that the graph does not know."""
    source = both.carried.provenance["source"]
    computed = {edited.trimmed, edited.new, edited.moved, *edited.merged, *edited.unknown}
    assert set(source.index[source == "computed"]) == computed
    assert set(source.index[source == "carried"]) == {edited.far, edited.emptied, *edited.untouched}
    assert (both.whole.provenance["source"].dropna() == "computed").all()


def test_fingerprints_are_carried_on(both: Both) -> None:
    """A row that was taken over can be taken over from: its fingerprints are those that measuring gives."""
    names = ["soma_fingerprint", "nucleus_fingerprint", "synapse_hash"]
    pd.testing.assert_frame_equal(both.carried.provenance[names], both.whole.provenance[names])
    assert both.whole.provenance["soma_fingerprint"].notna().sum() == 12


def test_leaves_are_asked_for_where_the_root_id_changed(both: Both, edited: Proofread) -> None:
    """Once to compare, for four cells with another root id, and once more for each cell that is measured."""
    leaves = [path for path in both.asked if path.endswith("/leaves")]
    to_compare = {edited.trimmed, edited.far, *edited.merged}
    to_measure = {edited.trimmed, edited.new, edited.moved, *edited.merged}
    assert len(leaves) == len(to_compare) + len(to_measure)


def test_what_the_edits_did(both: Both, edited: Proofread) -> None:
    """Roots, synapses and the number of nuclei of a root are those of the new version, measured or carried."""
    before, after = both.before.table, both.carried.table
    assert after.loc[edited.far, "soma_id"] != before.loc[edited.far, "soma_id"]
    assert after.loc[edited.far, "soma_volume_um"] == before.loc[edited.far, "soma_volume_um"]
    assert after.loc[edited.trimmed, "soma_volume_um"] < before.loc[edited.trimmed, "soma_volume_um"]
    assert before.loc[edited.emptied, "soma_synapse_number"] > 0
    assert after.loc[edited.emptied, ["soma_synapse_number", "soma_synapse_density_um"]].tolist() == [0, 0]
    assert after.loc[list(edited.merged), "n_nuclei_in_segment"].tolist() == [2, 2]
    assert edited.new not in before.index
    assert after.loc[edited.new, "status"] == "ok"
    assert (after["materialization_version"] == 3).all()


def test_a_nucleus_is_measured_once(both: Both, edited: Proofread) -> None:
    """That of a cell that changed is taken over too; only the new one is of this version."""
    provenance = both.carried.provenance
    measured = provenance[provenance["nucleus_version"].notna()]
    assert set(measured.index[measured["nucleus_version"] == 3]) == {edited.new}
    assert provenance.loc[edited.moved, ["soma_version", "nucleus_version"]].tolist() == [3, 2]
    assert provenance.loc[edited.moved, "seconds_mesh"] > 0
    assert pd.isna(provenance.loc[edited.moved, "seconds_folds"])


def test_a_new_version_and_another_way_to_measure_nuclei(both: Both, edited: Proofread) -> None:
    """All nuclei are measured, and of the somata those that changed; a cell has its leaves queried once at most."""
    provenance = both.renewed.provenance
    source = provenance["soma_source"].dropna()
    assert set(source.index[source == "measured"]) == {edited.trimmed, edited.new, edited.moved, *edited.merged}
    assert set(source.index[source == "reused"]) == {edited.far, edited.emptied, *edited.untouched} - _without_soma(
        both
    )
    assert set(provenance["nucleus_source"].dropna()) == {"measured"}
    assert set(provenance["nucleus_version"].dropna()) == {3}
    assert provenance.loc[edited.emptied, "synapse_source"] == "measured"
    assert provenance.loc[edited.far, "soma_version"] == 2
    leaves = [path for path in both.asked_renewed if path.endswith("/leaves")]
    assert len(leaves) == len({edited.trimmed, edited.far, *edited.merged, edited.new, edited.moved})
    tables = [pq.read_table(pa.BufferReader(results.features)) for results in (both.renewed, both.whole)]
    assert tables[0].equals(tables[1])
    names = ["soma_fingerprint", "synapse_hash", "error_class"]
    pd.testing.assert_frame_equal(provenance[names], both.whole.provenance[names])


def _without_soma(both: Both) -> set[int]:
    table = both.whole.table
    return set(table.index[table["soma_volume_um"].isna()])


def test_changes_are_what_the_edits_did(both: Both, edited: Proofread) -> None:
    """changes.parquet against the edits, and against the two tables side by side; manifest and summary count alike."""
    store, before, after = both.carried.store, both.before.table, both.carried.table
    changes = pd.read_parquet(store.url_of("changes.parquet")).set_index("nucleus_id")
    shared = before.index.intersection(after.index)
    left, right = (table.loc[shared, list(MEASURED)] for table in (before, after))
    differ = ((left != right) & ~(left.isna() & right.isna())).any(axis=1)
    expected = {
        "added": {edited.new},
        "gone": set(before.index) - set(after.index),
        "re_rooted": {edited.trimmed, edited.far, *edited.merged},
        "moved": {edited.moved},
        "recomputed": {edited.trimmed, edited.moved, *edited.merged},
        "changed": set(shared[differ]),
    }
    assert {name: set(changes.index[changes[name]]) for name in expected} == expected
    assert expected["changed"] >= {edited.trimmed, edited.emptied}
    assert set(edited.untouched).isdisjoint(changes.index)
    counts = manifest_of(both.carried)["changes"]
    assert both.before.store.url.endswith(f"/{counts.pop('base')}")
    assert counts == {name: len(ids) for name, ids in expected.items()} | {"nuclei": len(changes)}
    assert manifest_of(both.whole)["changes"] is manifest_of(both.before)["changes"] is None
    assert not both.whole.store.exists("changes.parquet")
    trimmed = changes.loc[edited.trimmed]
    assert trimmed["soma_volume_um_after"] == after.loc[edited.trimmed, "soma_volume_um"]
    assert trimmed["soma_volume_um_before"] == before.loc[edited.trimmed, "soma_volume_um"]


def test_the_cost_of_a_new_version(both: Both, edited: Proofread) -> None:
    """Requests are those that the server had; cells and bytes those that were measured, less than of a full run."""
    cost, provenance = manifest_of(both.carried)["cost"], both.carried.provenance
    assert sum(cost["requests"].values()) == len(both.asked)
    assert cost["requests"]["leaves"] == len([path for path in both.asked if path.endswith("/leaves")])
    assert cost["cells_computed"] == (provenance["source"] == "computed").sum()
    assert cost["cells_carried"] == len({edited.far, edited.emptied, *edited.untouched})
    measured = provenance[provenance["source"] == "computed"]
    assert cost["segmentation_bytes"] == measured["segmentation_bytes"].sum() > 0
    assert cost["segmentation_files"] == measured["segmentation_files"].sum() > 0
    assert provenance.loc[provenance["source"] == "carried", "segmentation_bytes"].isna().all()
    whole = manifest_of(both.whole)["cost"]
    assert cost["full_run"]["cells"] == whole["full_run"]["cells"] == whole["cells_computed"]
    assert cost["full_run"]["requests"] == whole["full_run"]["requests"]
    assert whole["full_run"]["segmentation_bytes"] == whole["segmentation_bytes"] > cost["segmentation_bytes"]
    assert cost["full_run"]["bytes_from"] == whole["full_run"]["bytes_from"] == "computed cells"


def test_the_summary_tells_cost_and_changes(both: Both, edited: Proofread) -> None:
    """In Prefect's UI: the numbers of the manifest, and of a feature first the cell that moved most."""
    cost = manifest_of(both.carried)["cost"]
    with get_client(sync_client=True) as client:
        keyed = ArtifactFilter(key=ArtifactFilterKey(any_=["phantom-v3-summary"]))
        texts = [str(artifact.data) for artifact in client.read_artifacts(artifact_filter=keyed)]
    [summary] = [text for text in texts if both.carried.store.url in text]
    assert f"\n| cells reused | {cost['cells_carried']} | 0 |\n" in summary
    assert "\n## Changes since version 2\n" in summary
    assert "\n| 1 | added |\n" in summary
    before, after = (results.table["soma_volume_um"] for results in (both.before, both.carried))
    most = ((after - before).abs() / before).idxmax()
    assert most in edited.merged
    # A layer in a folder of this machine has no link.
    said = rf"\| soma_volume_um \| \d+ \| 0 \| {most} {before[most]:,.6g} to {after[most]:,.6g} \("
    assert re.search(said, summary)
