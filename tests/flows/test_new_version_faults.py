"""What can go wrong on the way to a new version: each cell says so in its row, and nothing else is lost."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from extracting import TOKEN, Results, error_of, run
from proofreading import Proofread, graph_dataset, proofread

import tasks.carrying
from flows.listening import Listener, heard_by
from sandbox.cave.server import CaveServer, Datastack
from sandbox.phantom.scene import Scene
from somatic.errors import CaveError
from somatic.features import Row

pytestmark = pytest.mark.usefixtures("no_report")

LEAVES = "/node/{}/leaves"


@pytest.fixture(scope="module")
def edited(scene: Scene) -> Proofread:
    """The phantom with a third version."""
    return proofread(scene)


@pytest.fixture
def stack(edited: Proofread) -> Datastack:
    """Versions 2 and 3, in a list that may be changed."""
    return replace(edited.stack, versions=list(edited.stack.versions))


def without_layer_of_nuclei(path: Path) -> Path:
    """The same dataset file without that line."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("nucleus_segmentation")]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def dataset(scene: Scene, cave: CaveServer, tmp_path: Path) -> Path:
    """The phantom on its graph, without its nuclei."""
    return without_layer_of_nuclei(graph_dataset(scene, cave.url, tmp_path / "phantom.toml"))


@pytest.fixture(scope="module")
def second(scene: Scene, edited: Proofread, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of version 2, to be copied."""
    folder = tmp_path_factory.mktemp("second")
    with pytest.MonkeyPatch.context() as patch, CaveServer(edited.stack, token=TOKEN) as server:
        patch.setenv("CAVE_TOKEN", TOKEN)
        path = without_layer_of_nuclei(graph_dataset(scene, server.url, folder / "phantom.toml"))
        assert run(path, folder / "results", version=2, meshes=True).is_completed()
    return folder / "results"


@pytest.fixture
def to(second: Path, tmp_path: Path) -> Path:
    """A place for results, where those of version 2 are."""
    return shutil.copytree(second, tmp_path / "results")


def test_killed_while_it_takes_over(dataset: Path, to: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was taken over stays; the next run looks at the rest, and the table is that of a full extraction."""
    monkeypatch.setattr("flows.carrying.CELLS_PER_BATCH", 4)
    taken: list[int] = []

    def killed(*arguments: Any, **options: Any) -> list[Row]:
        if taken:
            raise KeyboardInterrupt
        rows = carry(*arguments, **options)
        taken.extend(row["nucleus_id"] for row in rows)
        return rows

    carry = tasks.carrying.carry
    with mock.patch.object(tasks.carrying, "carry", killed), pytest.raises(KeyboardInterrupt):
        run(dataset, to, version=3, meshes=True)
    results = Results(str(to), 3)
    assert results.stored == sorted(taken)
    assert run(dataset, to, version=3, meshes=True).is_completed()
    assert len(results.stored) == len(set(results.stored))
    assert run(dataset, tmp_path / "whole", version=3, since=None, meshes=True).is_completed()
    assert results.features == Results(str(tmp_path / "whole"), 3).features
    assert set(taken) < set(results.provenance.query("source == 'carried'").index)


def test_leaves_that_cannot_be_had_cost_their_cell_only(
    dataset: Path, cave: CaveServer, to: Path, edited: Proofread
) -> None:
    """The cell with a changed root says why; unchanged ones are taken over, and other changed ones are measured."""
    root = {row["id"]: row["pt_root_id"] for row in _nuclei(edited, 3)}[edited.far]
    cave.fail(LEAVES.format(root), 400, "bounds are not what they should be", times=None)
    assert run(dataset, to, version=3, meshes=True).is_completed()
    results = Results(str(to), 3)
    row = results.table.loc[edited.far]
    assert row["status"] == "failed"
    assert "bounds are not what they should be" in row["reason"]
    assert str(root) in row["reason"]
    provenance = results.provenance
    assert set(provenance.index[provenance["source"] == "carried"]) == {edited.emptied, *edited.untouched}
    assert provenance.loc[edited.trimmed, "source"] == "computed"

    cave.clear_faults()
    assert run(dataset, to, version=3, meshes=True, retry="failed").is_completed()
    assert results.table.loc[edited.far, "status"] == "ok"


def test_version_that_expires_after_the_plan(dataset: Path, stack: Datastack, to: Path, edited: Proofread) -> None:
    """What was taken over stays, and every other cell says that the version has expired."""

    def expire() -> None:
        stack.versions[:] = [replace(one, valid=False) if one.number == 3 else one for one in stack.versions]

    with heard_by(Listener(on_estimate=lambda *_: expire())):
        state = run(dataset, to, version=3, meshes=True)
    error = error_of(state)
    assert isinstance(error, CaveError)
    assert "expired" in str(error)
    results = Results(str(to), 3)
    table, source = results.table, results.provenance["source"]
    left = {edited.trimmed, edited.new, edited.moved, *edited.merged, *edited.unknown}
    assert set(table.index[table["status"] == "failed"]) == left
    assert table.loc[list(left), "reason"].str.contains("expired").all()
    assert set(source.index[source == "carried"]) == {edited.far, edited.emptied, *edited.untouched}


def _nuclei(edited: Proofread, number: int) -> list[dict]:
    version = edited.stack.version(number)
    assert version is not None
    return version.views["nucleus_detection_lookup_v1"].frame.to_dict("records")
