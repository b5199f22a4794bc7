"""Layers whose store answers 403 for files that it does not have, and layers that are refused while a run goes on."""

from pathlib import Path

import pandas as pd
import pytest
from extracting import Results, Spot, error_of, run
from file_server import S3_DENIED, Fault, FileServer

from flows.listening import Listener, heard_by
from sandbox.phantom.scene import Scene
from somatic.errors import RefusedLayer
from somatic.progress import Progress

pytestmark = pytest.mark.usefixtures("no_report")


def test_a_store_that_does_not_say_what_it_has(
    http_dataset: Path, bucket: FileServer, undisturbed: Results, spots: list[Spot], tmp_path: Path
) -> None:
    """A file that is refused is a hole in its cell and nowhere else, and one warning stands for all cells."""
    for spot in spots[:2]:
        bucket.faults[spot.file] = Fault(status=403, body=S3_DENIED)
    notes: list[str] = []
    with heard_by(Listener(on_remark=notes.append)):
        assert run(http_dataset, tmp_path / "results", chunk=1, chunks_per_shard=2).is_completed()
    [note] = notes
    assert note.startswith(f"files of {bucket.url('seg_v1')} were refused (HTTP 403) and are treated as missing")
    found, whole = Results(str(tmp_path / "results")).table, undisturbed.table
    with_holes = [spot.nucleus_id for spot in spots[:2]]
    assert (found.loc[with_holes, "status"] == "ok").all()
    assert (found.loc[with_holes, "frac_unlabelled"] > whole.loc[with_holes, "frac_unlabelled"]).all()
    pd.testing.assert_frame_equal(found.drop(with_holes), whole.drop(with_holes))


def test_a_layer_that_is_refused_while_cells_are_measured(
    scene: Scene, http_dataset: Path, bucket: FileServer, undisturbed: Results, tmp_path: Path
) -> None:
    """The run ends with one permanent line, no cell is written off, and the next run measures the rest."""
    mips = [f"/seg_v1/{path.name}/" for path in (scene.folder / "seg_v1").iterdir() if path.is_dir()]

    def revoke(progress: Progress) -> None:
        if progress.done == 2:
            bucket.refuse(mips)

    with heard_by(Listener(on_progress=revoke)):
        error = error_of(run(http_dataset, tmp_path / "results", chunk=1, workers=1))
    assert isinstance(error, RefusedLayer)
    assert "revoked" in str(error)
    assert bucket.url("seg_v1") in str(error)
    results = Results(str(tmp_path / "results"))
    measured = results.table[results.table["status"] != "skipped"]
    failed = measured[measured["status"] == "failed"]
    assert 2 <= (measured["status"] == "ok").sum() < len(undisturbed.table)
    assert len(failed)
    assert not set(failed.index) & {n for nuclei in results.chunks.values() for n in nuclei if n in failed.index}

    bucket.faults.clear()
    assert run(http_dataset, tmp_path / "results").is_completed()
    assert results.features == undisturbed.features
