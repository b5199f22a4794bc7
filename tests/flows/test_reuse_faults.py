"""Earlier results that cannot be read: one line says which and why, and all is measured that they would have saved."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from extracting import Results, error_of, run
from reusing import results_of, sources, versions, written
from s3_proxy import S3Proxy

from flows.listening import Listener, heard_by
from flows.shard import extract_shard
from sandbox.phantom.scene import Scene
from somatic.errors import PermanentError

pytestmark = pytest.mark.usefixtures("no_report")

MEASURED = {"soma": {"measured": 2}, "nucleus": {"measured": 2}, "synapse": {"measured": 2}}


@pytest.fixture(scope="module")
def kept(small_scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of two cells and its results at version 3 of all features, to be copied."""
    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        versions(patch)
        assert run(written(small_scene, 1, folder / "phantom.toml"), folder / "results", meshes=True).is_completed()
    return folder


@pytest.fixture
def dataset(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The dataset file, beside its results; nuclei have another version now."""
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    versions(monkeypatch, nucleus=4)
    return tmp_path / "phantom.toml"


def base_of(root: Path) -> Path:
    """The folder of the earlier results."""
    [folder] = (root / "results/phantom/v1").iterdir()
    return folder


def run_warned(dataset: Path, to: object, **parameters: object) -> list[str]:
    """Run to the end; give what it warned of."""
    lines: list[str] = []
    with heard_by(Listener(on_remark=lines.append)):
        assert run(dataset, to, meshes=True, **parameters).is_completed()
    return lines


def cut(path: Path) -> None:
    """Leave the first half."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def another_hash(path: Path) -> None:
    """Have the manifest state another table."""
    manifest = json.loads(path.read_text())
    manifest["sha256"]["features.parquet"] = "0" * 64
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("features.parquet", cut, "features.parquet is no whole Parquet file"),
        ("provenance.parquet", cut, "provenance.parquet is no whole Parquet file"),
        ("provenance.parquet", Path.unlink, "cannot read"),
        ("manifest.json", cut, "manifest.json is no manifest of somatic"),
        ("manifest.json", another_hash, "features.parquet is not the table of its manifest"),
    ],
    ids=["table", "provenance", "no provenance", "manifest", "hash"],
)
def test_damaged_results(name: str, damage: Callable[[Path], None], said: str, dataset: Path, tmp_path: Path) -> None:
    """They cost what they would have saved, and nothing else."""
    base = base_of(tmp_path)
    damage(base / name)
    [line] = run_warned(dataset, tmp_path / "results")
    assert f"v1/{base.name} is not reused" in line
    assert said in line
    assert "\n" not in line
    results = results_of(dataset, tmp_path / "results")
    assert sources(results) == MEASURED
    assert json.loads(results.store.get("manifest.json"))["changes"] is None


@pytest.mark.parametrize(("status", "said"), [(403, "Access Denied"), (503, "for now")])
def test_a_bucket_that_does_not_give_them(
    status: int,
    said: str,
    dataset: Path,
    tmp_path: Path,
    s3_endpoint: str,
    s3_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without permission, and unavailable for longer than anybody waits."""
    base = base_of(tmp_path)
    bucket, to = s3_url.removeprefix("s3://"), f"{s3_url}/reuse-{status}"
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    for path in (path for path in base.rglob("*") if path.is_file()):
        name = path.relative_to(tmp_path / "results")
        client.put_object(Bucket=bucket, Key=f"reuse-{status}/{name}", Body=path.read_bytes())
    monkeypatch.setattr("somatic.results.base.PATIENCE_S", 0)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with S3Proxy(s3_endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        proxy.faulty = (f"{base.name}/provenance.parquet", status)
        [line] = run_warned(dataset, to)
        assert f"v1/{base.name} is not reused" in line
        assert said in line
        assert sources(Results(to, 1, results_of(dataset, tmp_path).config)) == MEASURED


def test_a_mesh_that_is_gone(dataset: Path, tmp_path: Path) -> None:
    """Its cell is measured; the other one is reused."""
    base = base_of(tmp_path)
    gone, _ = sorted(path for path in (base / "meshes/mesh").iterdir() if path.name.endswith(":0:0"))
    gone.unlink()
    [line] = run_warned(dataset, tmp_path / "results")
    assert f"somata of v1/{base.name} are measured again without their meshes" in line
    assert gone.name in line
    results = results_of(dataset, tmp_path / "results")
    found = results.provenance["soma_source"].dropna().to_dict()
    assert sorted(found.values()) == ["measured", "reused"]
    assert found[int(gone.name.partition(":")[0])] == "measured"
    assert run(dataset, tmp_path / "whole", meshes=True, since=None).is_completed()
    assert results.features == results_of(dataset, tmp_path / "whole").features


def test_results_that_are_gone_at_the_end(dataset: Path, tmp_path: Path) -> None:
    """The table is there; what is different from the earlier one is not."""
    base, lines = base_of(tmp_path), []
    listener = Listener(on_remark=lines.append, on_estimate=lambda *_: (base / "nuclei.parquet").unlink())
    with heard_by(listener):
        assert run(dataset, tmp_path / "results", meshes=True).is_completed()
    [line] = lines
    assert line.startswith("phantom v1: no changes.parquet was written: cannot read")
    results = results_of(dataset, tmp_path / "results")
    assert sources(results)["soma"] == {"reused": 2}
    assert json.loads(results.store.get("manifest.json"))["changes"] is None


def test_a_version_without_results(dataset: Path, tmp_path: Path) -> None:
    """One that is named and was never extracted is an error, and nothing is measured."""
    error = error_of(run(dataset, tmp_path / "results", since=7))
    assert isinstance(error, PermanentError)
    assert str(error) == "no results of version 7 to reuse; there are results of these versions: 1"


def shard_of(results: Results, dataset: Path) -> dict[str, Any]:
    """Parameters of the only shard of the last run."""
    [plan], [snapshot] = results.store.names("plans"), results.store.names("snapshots")
    return {
        "dataset": str(dataset),
        "version": 1,
        "plan": plan.removesuffix(".parquet"),
        "start": 0,
        "stop": 1,
        "run": snapshot.removesuffix(".parquet"),
        "to": results.root,
    }


def test_a_shard_of_its_own_process_reuses_the_same(dataset: Path, tmp_path: Path) -> None:
    """It reads what its extraction noted; where that cannot be read any more it measures."""
    assert run_warned(dataset, tmp_path / "results") == []
    results = results_of(dataset, tmp_path / "results")
    store, shard = results.store, shard_of(results, dataset)
    before = next(path for path in Path(store.url).parent.iterdir() if path.name != results.config)
    for expected in ("reused", "measured"):
        for name in store.names("chunks"):
            Path(store.url_of(f"chunks/{name}")).unlink()
        assert extract_shard(**shard, return_state=True).is_completed()
        assert {row["soma_source"] for row in results.rows(results.table.index.tolist())} == {expected}
        (before / "provenance.parquet").unlink(missing_ok=True)


def test_a_shard_of_another_release(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would measure in another way and store elsewhere, so it measures nothing and says why."""
    assert run_warned(dataset, tmp_path / "results") == []
    results = results_of(dataset, tmp_path / "results")
    shard = shard_of(results, dataset)
    versions(monkeypatch, nucleus=5)
    error = error_of(extract_shard(**shard, return_state=True))
    assert isinstance(error, PermanentError)
    assert f"was started with the configuration {results.config}" in str(error)
    assert "the release of somatic has changed since" in str(error)
