"""The version of one group of features moves: that group is measured again and the others are reused, by counting."""

import gzip
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cloudvolume import Mesh
from extracting import Results, changed, run
from file_server import FileServer
from reusing import results_of, sources, versions, written
from rich.console import Console

from cli.showing import show_estimate
from flows.listening import Listener, Summary, heard_by
from sandbox.phantom.scene import Scene
from somatic.extracting.estimate import Estimate
from somatic.extracting.extraction import Extraction
from somatic.features import features_versions
from somatic.results.collect import Parts
from somatic.storage.places import config_hash
from somatic.workers.choice import Workers

pytestmark = pytest.mark.usefixtures("no_report")


def as_of_one_version(results: Results) -> None:
    """Turn results into what somatic left while all features had one version, 3."""
    folder = Path(results.store.url)
    features = pq.read_table(folder / "features.parquet").replace_schema_metadata(None)
    pq.write_table(features, folder / "features.parquet")
    provenance = pq.read_table(folder / "provenance.parquet")
    new = ["soma_source", "nucleus_source", "synapse_source", "nucleus_voxels_hash", *features_versions()]
    provenance = provenance.drop_columns(new)
    provenance = provenance.append_column("features_version", pa.array(np.full(len(provenance), 3)))
    pq.write_table(provenance, folder / "provenance.parquet")
    manifest = json.loads((folder / "manifest.json").read_text())
    for noted in (manifest, manifest["config"]):
        for name in features_versions():
            del noted[name]
        noted["features_version"] = 3
    manifest["sha256"]["features.parquet"] = results.sha256
    (folder / "manifest.json").write_text(json.dumps(manifest))
    folder.rename(folder.with_name(config_hash(manifest["config"])))


def same_table(one: Results, other: Results) -> bool:
    """Whether two tables have the same rows, whatever versions they say they have."""
    tables = (pq.read_table(pa.BufferReader(results.features)) for results in (one, other))
    return next(tables).equals(next(tables))


@dataclass(frozen=True)
class Ran:
    """A run whose nuclei had another version than those of the results that it found.

    Attributes
    ----------
    before, after, whole : results that it found, its own, and those of measuring all of it
    summary, estimate, manifest : what it said
    asked : files of the layers that were read for it after it had planned
    """

    before: Results
    after: Results
    whole: Results
    summary: Summary
    estimate: str
    manifest: dict[str, Any]
    asked: list[str]


@pytest.fixture(scope="module")
def ran(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """The whole phantom."""
    folder = tmp_path_factory.mktemp("moved")
    summaries: list[Summary] = []
    said = StringIO()
    n_planned = 0

    def show(extraction: Extraction, estimate: Estimate, workers: Workers | None) -> None:
        nonlocal n_planned
        n_planned = len(bucket.asked)
        show_estimate(Console(file=said, width=200), extraction, estimate, workers)

    with pytest.MonkeyPatch.context() as patch, FileServer(scene.folder) as bucket:
        dataset = written(scene, 1, folder / "phantom.toml")
        layers = (
            (scene.segmentation_url(1), bucket.url("seg_v1")),
            (scene.nucleus_segmentation_url, bucket.url("nuclei")),
        )
        changed(dataset, *layers)
        versions(patch)
        assert run(dataset, folder / "results", meshes=True).is_completed()
        as_of_one_version(results_of(dataset, folder / "results"))
        versions(patch, nucleus=4)
        with heard_by(Listener(on_summary=summaries.append, on_estimate=show)):
            assert run(dataset, folder / "results", meshes=True).is_completed()
        asked = bucket.asked[n_planned:]
        after = results_of(dataset, folder / "results")
        manifest = json.loads(after.store.get("manifest.json"))
        assert run(dataset, folder / "whole", meshes=True, since=None).is_completed()
        [old] = {path.name for path in (folder / "results/phantom/v1").iterdir()} - {after.config}
        yield Ran(
            before=replace(after, config=old),
            after=after,
            whole=results_of(dataset, folder / "whole"),
            summary=summaries[0],
            estimate=said.getvalue(),
            manifest=manifest,
            asked=asked,
        )


def test_no_soma_is_measured_again(ran: Ran) -> None:
    """No cutout is read; each nucleus that has a mesh is measured, by the provenance and by what the layers served."""
    provenance, table = ran.after.provenance, ran.after.table
    cells = table.index[table["status"] != "skipped"]
    n_somata, n_nuclei = table["soma_volume_um"].notna().sum(), table["nucleus_volume_um"].notna().sum()
    assert (len(cells), n_somata, n_nuclei) == (12, 11, 11)
    assert provenance["soma_source"].value_counts().to_dict() == {"reused": n_somata}
    assert provenance["nucleus_source"].value_counts().to_dict() == {"measured": n_nuclei}
    assert provenance["synapse_source"].value_counts().to_dict() == {"reused": n_somata}
    assert (provenance.loc[cells, "segmentation_files"] == 0).all()
    assert not [path for path in ran.asked if re.search(r"seg_v1/.*\d+-\d+_", path)]
    meshes = {path for path in ran.asked if re.search(r"nuclei/mesh/\d+:0:", path)}
    assert len(meshes) == n_nuclei


def test_the_table_is_that_of_a_full_extraction(ran: Ran) -> None:
    """Byte for byte, and so are the soma meshes; what was noted of each row differs by where it comes from alone."""
    assert ran.after.features == ran.whole.features
    names = ran.whole.store.names("meshes/mesh")
    assert ran.after.store.names("meshes/mesh") == names
    for name in names:
        assert ran.after.store.get(f"meshes/mesh/{name}") == ran.whole.store.get(f"meshes/mesh/{name}")
    columns = [
        "soma_fingerprint",
        "nucleus_fingerprint",
        "synapse_hash",
        "error_class",
        "soma_version",
        *features_versions(),
    ]
    assert ran.after.provenance[columns].equals(ran.whole.provenance[columns])


def test_a_cell_without_a_soma_stays_one(ran: Ran) -> None:
    """Nobody looks again for a root id that has no voxel in the cutout; its nucleus is measured."""
    provenance, table = ran.after.provenance, ran.after.table
    [missing] = provenance.index[provenance["error_class"] == "MissingSegment"]
    assert table.loc[missing, "reason"] == ran.before.table.loc[missing, "reason"]
    assert provenance.loc[missing, "nucleus_source"] == "measured"
    assert provenance.loc[missing, "segmentation_files"] == 0


def test_a_nucleus_that_failed_is_tried_again(ran: Ran) -> None:
    """A new version of the nuclei may mend it; its soma is reused all the same."""
    provenance = ran.after.provenance
    [failed] = provenance.index[provenance["error_class"] == "MissingNucleusMesh"]
    assert provenance.loc[failed, ["source", "soma_source", "synapse_source"]].tolist() == [
        "computed",
        "reused",
        "reused",
    ]
    # A mesh that is not there was looked for.
    assert any(f"nuclei/mesh/{failed}:0" in path for path in ran.asked)


def test_both_numbers_are_told(ran: Ran) -> None:
    """In the summary, the manifest, the table's metadata and before anything is measured."""
    expected = Parts(somata=0, nuclei=11, synapses=0), Parts(somata=11, nuclei=0, synapses=11)
    assert (ran.summary.cost.measured, ran.summary.cost.reused) == expected
    assert ran.summary.counts.reused == expected[1]
    assert ran.summary.cost.segmentation_files == 0
    manifest = ran.manifest
    assert manifest["cost"]["measured"] == {"somata": 0, "nuclei": 11, "synapses": 0}
    assert manifest["cost"]["reused"] == {"somata": 11, "nuclei": 0, "synapses": 11}
    metadata = pq.read_schema(pa.BufferReader(ran.after.features)).metadata
    for noted in (manifest, manifest["config"], {name.decode(): int(version) for name, version in metadata.items()}):
        assert {name: noted[name] for name in features_versions()} == {
            "soma_features_version": 3,
            "nucleus_features_version": 4,
            "synapse_features_version": 3,
        }
    assert re.search(rf"reusing +v1/{ran.before.config}\n", ran.estimate)
    assert re.search(r"somata +0 to measure, 12 reused\n", ran.estimate)
    assert re.search(r"nuclei +12 to measure, 0 reused\n", ran.estimate)
    assert re.search(r"reading +at most about 0 B of segmentation\n", ran.estimate)


def test_nothing_is_said_to_have_changed(ran: Ran) -> None:
    """The code that measures nuclei is the same, so no feature has another value, and no soma was recomputed."""
    changes = ran.manifest["changes"]
    assert changes["base"] == f"v1/{ran.before.config}"
    assert {name: number for name, number in changes.items() if name != "base"} == dict.fromkeys(
        ("nuclei", "added", "gone", "re_rooted", "moved", "recomputed", "changed"), 0
    )


@pytest.fixture
def small(small_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The dataset file of two cells, whose results of today are there."""
    dataset = written(small_scene, 1, tmp_path / "phantom.toml")
    versions(monkeypatch)
    assert run(dataset, tmp_path / "results", meshes=True).is_completed()
    return dataset


def test_synapses_are_counted_again_on_the_stored_meshes(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else is measured when their version moves."""
    before = results_of(small, tmp_path / "results")
    versions(monkeypatch, synapses=4)
    # Another number, so that a number of today is none that was taken from the table.
    changed_rows(before, "soma_synapse_number", 7)
    assert run(small, tmp_path / "results", meshes=True).is_completed()
    after = results_of(small, tmp_path / "results")
    assert sources(after) == {"soma": {"reused": 2}, "nucleus": {"reused": 2}, "synapse": {"measured": 2}}
    assert after.provenance["segmentation_bytes"].isna().all()
    assert run(small, tmp_path / "whole", since=None).is_completed()
    assert after.features == results_of(small, tmp_path / "whole").features


def test_somata_are_measured_again(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the synapses on them, when their version moves; nuclei are reused."""
    before = results_of(small, tmp_path / "results")
    versions(monkeypatch, soma=4)
    assert run(small, tmp_path / "results", meshes=True).is_completed()
    after = results_of(small, tmp_path / "results")
    assert sources(after) == {"soma": {"measured": 2}, "nucleus": {"reused": 2}, "synapse": {"measured": 2}}
    assert same_table(after, before)


def changed_rows(results: Results, column: str, value: Any) -> None:
    """Have a column of a table another value, wherever it has one."""
    path = Path(results.store.url)
    table = pq.read_table(path / "features.parquet")
    at = table.schema.get_field_index(column)
    known = table[column].is_valid().to_pylist()
    values = pa.array([value if is_known else None for is_known in known], table.schema.field(at).type)
    pq.write_table(table.set_column(at, table.schema.field(at), values), path / "features.parquet")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["sha256"]["features.parquet"] = results.sha256
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_somata_of_one_table_and_nuclei_of_another(
    small_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flat copies of two versions: the second comes to its nuclei from the first, and nothing of it is measured."""
    datasets = {}
    for version in (1, 2):
        (tmp_path / f"v{version}").mkdir()
        datasets[version] = written(small_scene, version, tmp_path / f"v{version}" / "phantom.toml")
    versions(monkeypatch)
    for version, dataset in datasets.items():
        assert run(dataset, tmp_path / "results", meshes=True, since=None).is_completed(), version
    versions(monkeypatch, nucleus=4)
    for dataset in datasets.values():
        assert run(dataset, tmp_path / "results", meshes=True).is_completed()
    first, second = (results_of(dataset, tmp_path / "results", version) for version, dataset in datasets.items())
    assert sources(first) == {"soma": {"reused": 2}, "nucleus": {"measured": 2}, "synapse": {"reused": 2}}
    assert sources(second) == {"soma": {"reused": 2}, "nucleus": {"reused": 2}, "synapse": {"reused": 2}}
    assert second.provenance["nucleus_version"].dropna().tolist() == [1, 1]
    assert second.provenance["soma_version"].dropna().tolist() == [2, 2]
    assert run(datasets[2], tmp_path / "whole", meshes=True, since=None).is_completed()
    assert second.features == results_of(datasets[2], tmp_path / "whole", 2).features


@pytest.mark.parametrize("is_old", [False, True], ids=["with the hash of a nucleus", "of one version"])
def test_a_soma_that_depends_on_its_nucleus(
    is_old: bool, small_scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Corrected: the cutout is read again for the one cell whose nucleus now has another mesh."""
    layer = shutil.copytree(small_scene.folder / "nuclei", tmp_path / "nuclei")
    dataset = written(small_scene, 1, tmp_path / "phantom.toml", "corrected")
    changed(dataset, (small_scene.nucleus_segmentation_url, f"precomputed://file://{layer}"))
    versions(monkeypatch)
    assert run(dataset, tmp_path / "results", meshes=True).is_completed()
    before = results_of(dataset, tmp_path / "results")
    other, same = before.table.index[before.table["status"] == "ok"]
    if is_old:
        as_of_one_version(before)
    # In place of another repair.
    [fragment] = (layer / "mesh").glob(f"{other}:0:*")
    mesh = Mesh.from_precomputed(gzip.decompress(fragment.read_bytes()))
    mesh.vertices = (mesh.vertices + np.float32([80, 0, 0])).astype(np.float32)
    fragment.write_bytes(gzip.compress(mesh.to_precomputed()))

    versions(monkeypatch, nucleus=4)
    assert run(dataset, tmp_path / "results", meshes=True).is_completed()
    after = results_of(dataset, tmp_path / "results")
    assert after.provenance["soma_source"].dropna().to_dict() == {other: "measured", same: "reused"}
    assert after.provenance["nucleus_source"].dropna().tolist() == ["measured", "measured"]
    assert after.provenance.loc[other, "segmentation_files"] > 0
    assert after.provenance.loc[same, "segmentation_files"] == 0
    assert run(dataset, tmp_path / "whole", meshes=True, since=None).is_completed()
    whole = results_of(dataset, tmp_path / "whole")
    assert after.features == whole.features
    hashes = [results.provenance["nucleus_voxels_hash"].dropna().to_dict() for results in (after, whole)]
    assert hashes[0] == hashes[1]
    assert len(set(hashes[0].values())) == 2
