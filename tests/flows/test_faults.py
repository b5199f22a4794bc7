"""What fails for now, what fails for good, and what a failure costs."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pandas as pd
import psutil
import pytest
from extracting import TOKEN, Results, Spot, error_of, run
from file_server import Fault, FileServer

from flows.listening import Listener, heard_by
from sandbox.cave.server import CaveServer
from somatic.errors import (
    CaveError,
    CaveTokenError,
    CaveUnavailable,
    IncompleteExtraction,
    StoreError,
)
from somatic.progress import Progress
from somatic.workers.memory import machine_memory_bytes

pytestmark = pytest.mark.usefixtures("no_report")

SYNAPSES = "table/synapses_phantom/query"


def once_planned(act: Callable[[], Any]) -> Listener:
    """Do something when everything is checked and planned, and the first chunk is to begin."""
    return Listener(on_estimate=lambda *_: act())


def after(cells: int, act: Callable[[], Any]) -> Listener:
    """Do something when so many cells are measured."""

    def on_progress(progress: Progress) -> None:
        if progress.done == cells:
            act()

    return Listener(on_progress=on_progress)


def queries(cave: CaveServer) -> list[int | None]:
    """Statuses of the answers to the queries of synapses of chunks, in order."""
    return [request.status for request in cave.requests if SYNAPSES in request.path]


def busy_and_slow(cave: CaveServer) -> None:
    """The rate limit, five times, twice of them so late that nobody waits for the answer."""
    cave.slow(SYNAPSES, 6.0, times=2)
    cave.fail(SYNAPSES, 500, "429 Too Many Requests: 200 per 1 minute", times=5)


def broken(cave: CaveServer) -> None:
    """A gateway without a server behind it, longer than one request is tried, and then answers that break off."""
    cave.fail(SYNAPSES, 503, times=8)
    cave.hang_up(SYNAPSES, times=3)


@pytest.mark.parametrize("trouble", [busy_and_slow, broken])
def test_cave_is_in_trouble_for_a_while(
    trouble: Callable[[CaveServer], None],
    cave_dataset: Path,
    cave: CaveServer,
    undisturbed: Results,
    tmp_path: Path,
) -> None:
    """When CAVE cannot answer for the synapses for a while, the run waits, asks again and succeeds."""
    with heard_by(once_planned(lambda: trouble(cave))):
        # A shard a chunk, so that synapses are asked for four times.
        assert run(cave_dataset, tmp_path / "results", version=1, chunks_per_shard=1).is_completed()
    results = Results(str(tmp_path / "results"))
    assert len([status for status in queries(cave) if status != 200]) >= 5
    assert results.features == undisturbed.features
    assert results.stored == undisturbed.table.index.tolist()


def test_a_chunk_that_is_tried_again_measures_only_what_is_missing(
    http_dataset: Path, bucket: FileServer, spots: list[Spot], undisturbed: Results, tmp_path: Path
) -> None:
    """A file that comes at the third attempt costs its cell two attempts and the other cells of its chunk none."""
    bucket.faults[spots[0].file] = Fault(body=b"no segmentation", times=2)
    assert run(http_dataset, tmp_path / "results", chunk=12).is_completed()
    results = Results(str(tmp_path / "results"))
    assert sorted(map(len, results.chunks.values())) == [1, 3, 11]
    assert [spots[0].nucleus_id] in results.chunks.values()
    store = results.store
    [attempts] = store.names("attempts")
    assert len(store.names(f"attempts/{attempts}")) == 2
    assert results.features == undisturbed.features


def test_a_file_that_cannot_be_read_costs_its_cell_only(
    http_dataset: Path, bucket: FileServer, spots: list[Spot], undisturbed: Results, tmp_path: Path
) -> None:
    """All other cells are stored and the run says why it failed; when the file is there, that one cell is measured."""
    spot = spots[0]
    bucket.faults[spot.file] = Fault(status=500)
    results = Results(str(tmp_path / "results"))
    state = run(http_dataset, results.root)
    error = error_of(state)
    assert isinstance(error, IncompleteExtraction)
    assert str(error).startswith("phantom v1: 1 of 15 nuclei failed for now (reading ")
    assert "HTTP 500" in str(error)
    assert spot.nucleus_id not in results.stored
    assert len(results.stored) == 14
    row = results.table.loc[spot.nucleus_id]
    assert row["status"] == "failed"
    assert "HTTP 500" in row["reason"]
    assert results.provenance.loc[spot.nucleus_id, ["error_class", "transient"]].tolist() == [
        "SegmentationUnavailable",
        True,
    ]
    before = results.chunks

    bucket.faults.clear()
    assert run(http_dataset, results.root).is_completed()
    new = {name: nuclei for name, nuclei in results.chunks.items() if name not in before}
    assert list(new.values()) == [[spot.nucleus_id]]
    assert results.features == undisturbed.features


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        ({"status": 401, "message": "invalid_token"}, CaveTokenError, "does not accept the token"),
        ({"status": 500, "message": "404 Not Found: version 1 of phantom has expired"}, CaveError, "expired"),
    ],
    ids=["token revoked", "version expired"],
)
def test_cave_refuses_for_good_in_the_middle(
    fault: dict[str, Any],
    error: type[Exception],
    said: str,
    cave_dataset: Path,
    cave: CaveServer,
    undisturbed: Results,
    tmp_path: Path,
) -> None:
    """The run stops at once with that error; what was stored stays, and the next run goes on."""
    results = Results(str(tmp_path / "results"))
    with heard_by(after(3, lambda: cave.fail(SYNAPSES, times=None, **fault))):
        state = run(cave_dataset, results.root, version=1, workers=1, chunks_per_shard=1)
    raised = error_of(state)
    assert isinstance(raised, error)
    assert said in str(raised)
    assert TOKEN not in str(raised)
    assert queries(cave).count(fault["status"]) == 1
    assert len(results.stored) == 6
    assert results.table["reason"].str.startswith("not measured yet").sum() == 6
    cave.clear_faults()
    assert run(cave_dataset, results.root, version=1).is_completed()
    assert results.features == undisturbed.features


def test_the_store_is_gone_in_the_middle(dataset: Path, s3_endpoint: str) -> None:
    """A bucket that disappears ends the run with one line that names it."""
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    client.create_bucket(Bucket="short-lived")

    def remove() -> None:
        for stored in client.list_objects_v2(Bucket="short-lived")["Contents"]:
            client.delete_object(Bucket="short-lived", Key=stored["Key"])
        client.delete_bucket(Bucket="short-lived")

    with heard_by(after(4, remove)):
        state = run(dataset, "s3://short-lived/results", workers=1)
    error = error_of(state)
    assert isinstance(error, StoreError)
    assert "there is no bucket s3://short-lived" in str(error)


def test_five_chunks_in_a_row_without_a_cell_end_the_run(
    http_dataset: Path, bucket: FileServer, tmp_path: Path
) -> None:
    """When the bucket is down for everything, five chunks are tried and no more."""
    results = Results(str(tmp_path / "results"))
    with heard_by(once_planned(lambda: bucket.faults.update({"128_128_80": Fault(body=b"down")}))):
        state = run(http_dataset, results.root, chunk=1, workers=1, retry_delay_s=0)
    assert isinstance(error_of(state), IncompleteExtraction)
    assert results.table["reason"].str.startswith("not measured yet").sum() == 12 - 5


def test_chunks_that_measure_something_never_end_the_run(
    http_dataset: Path, bucket: FileServer, spots: list[Spot], undisturbed: Results, tmp_path: Path
) -> None:
    """Six chunks in a row with a cell that fails for now in each: all others are measured all the same."""
    files = {spot.nucleus_id: spot.file for spot in spots}
    for first_of_two in in_order_of_the_plan(undisturbed)[:12:2]:
        bucket.faults[files[first_of_two]] = Fault(body=b"no segmentation")
    results = Results(str(tmp_path / "results"))
    state = run(http_dataset, results.root, chunk=2, workers=1, retry_delay_s=0)
    assert isinstance(error_of(state), IncompleteExtraction)
    assert "6 of 15 nuclei failed for now" in str(error_of(state))
    assert len(results.stored) == 9


def in_order_of_the_plan(results: Results) -> list[int]:
    """Ids of the nuclei as they are measured."""
    [plan] = results.store.names("plans")
    return pd.read_parquet(results.store.url_of(f"plans/{plan}"))["nucleus_id"].tolist()


def kill_who_asks(port: int) -> None:
    """SIGKILL of the process that speaks from a port, as the kernel does for lack of memory."""
    for process in psutil.Process().children(recursive=True):
        if any(connection.laddr.port == port for connection in process.net_connections("tcp")):
            process.kill()


def test_a_cell_that_kills_its_process_fails_alone(
    http_dataset: Path,
    bucket: FileServer,
    spots: list[Spot],
    undisturbed: Results,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its neighbours are measured; it is final with this memory, and tried again when there is more for a cell."""
    monkeypatch.setenv("SOMATIC_MEMORY_BYTES", str(machine_memory_bytes() // 2))
    # The first of its chunk, whose file is not fetched while another cell is measured.
    [spot] = [spot for spot in spots if spot.nucleus_id == in_order_of_the_plan(undisturbed)[0]]
    results = Results(str(tmp_path / "results"))
    bucket.faults[spot.file] = Fault(call=kill_who_asks)
    assert run(http_dataset, results.root, chunk=12).is_completed()
    row, expected = results.table.loc[spot.nucleus_id], undisturbed.table
    assert row["status"] == "failed"
    assert row["reason"].startswith("its process was killed, most likely for lack of memory (this process may use ")
    assert pd.isna(row["soma_volume_um"])
    others = expected.index != spot.nucleus_id
    assert results.table[others].equals(expected[others])
    assert results.provenance.loc[spot.nucleus_id, ["error_class", "transient"]].tolist() == ["CellKilled", False]

    # Once in its chunk, once alone, and not again by the same command or by one with fewer workers: it had the machine.
    assert run(http_dataset, results.root, workers=1).is_completed()
    assert len([path for path in bucket.asked if spot.file in path]) == 2

    bucket.faults.clear()
    monkeypatch.delenv("SOMATIC_MEMORY_BYTES")
    assert run(http_dataset, results.root).is_completed()
    assert results.features == undisturbed.features
    assert results.provenance.loc[spot.nucleus_id, "attempt"] == 2


def test_a_cell_that_hangs_fails_alone_and_for_now(
    http_dataset: Path, bucket: FileServer, spots: list[Spot], undisturbed: Results, tmp_path: Path
) -> None:
    """It is ended after its time, tried once alone, and left to the next run; its neighbours are measured."""
    spot, results = spots[0], Results(str(tmp_path / "results"))
    bucket.faults[spot.file] = Fault(wait=threading.Event())
    # Sixty times what its neighbours need, which must have the time on a busy machine too.
    state = run(http_dataset, results.root, chunk=12, cell_timeout_s=6)
    assert isinstance(error_of(state), IncompleteExtraction)
    row = results.table.loc[spot.nucleus_id]
    assert (row["status"], row["reason"]) == ("failed", "took longer than 6 s and was ended")
    assert len(results.stored) == 14
    assert len([path for path in bucket.asked if spot.file in path]) == 2
    bucket.faults[spot.file].wait.set()
    bucket.faults.clear()
    assert run(http_dataset, results.root).is_completed()
    assert results.features == undisturbed.features


def test_cave_down_for_the_whole_run(cave_dataset: Path, cave: CaveServer, tmp_path: Path) -> None:
    """When synapses cannot be had at all, the rows say why, and nothing counts as done but what is skipped."""
    results = Results(str(tmp_path / "results"))
    with heard_by(once_planned(lambda: cave.fail(SYNAPSES, 502, times=None))):
        state = run(cave_dataset, results.root, version=1, chunk=12, retry_delay_s=0)
    assert isinstance(error_of(state), IncompleteExtraction | CaveUnavailable)
    assert len(results.stored) == 3
    failed = results.table[results.table["status"] == "failed"]
    assert len(failed) == 12
    assert failed["reason"].str.contains("502").all()
