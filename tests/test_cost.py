"""What a run cost, by hand."""

from typing import Any

import pyarrow as pa
import pytest

from cli.showing import cost_in_words, parts_in_words
from somatic.errors import StoreError
from somatic.extracting.cost import Cost, FullRun, load_cost, load_requests, put_requests
from somatic.extracting.estimate import Estimate
from somatic.features import features_versions
from somatic.results.collect import Parts
from somatic.results.table import PROVENANCE_SCHEMA
from somatic.storage.parquet import parquet_bytes
from somatic.storage.store import ResultStore

EVERYTHING = Estimate(
    cells=100,
    skipped=3,
    done=0,
    missing=100,
    chunks=10,
    shards=1,
    cave_requests=130,
    segmentation_bytes=5_000_000,
    worker_memory_bytes=1,
)


def provenance(*rows: dict[str, Any]) -> bytes:
    """provenance.parquet of some rows, numbered."""
    needed = {
        "soma_id": 1,
        "attempt": 1,
        "transient": False,
        **features_versions(),
        "code_version": "1",
        "source": "computed",
        "run": "run",
    }
    table = pa.Table.from_pylist(
        [{"nucleus_id": number, **needed, **row} for number, row in enumerate(rows)], schema=PROVENANCE_SCHEMA
    )
    return parquet_bytes(table)


SOURCES = dict.fromkeys(("soma_source", "nucleus_source", "synapse_source"), "reused")


def read(n_files: int, n_bytes: int, **more: Any) -> dict[str, Any]:
    """A row of a cell that was measured."""
    return {"seconds": 1.0, "segmentation_files": n_files, "segmentation_bytes": n_bytes, **more}


def test_the_cost_of_a_run(store_url: str) -> None:
    """Its own cells only: measured, failed and killed ones, not skipped ones, nor those of another run."""
    store = ResultStore(store_url)
    store.put(
        "provenance.parquet",
        provenance(
            read(8, 1000, **dict.fromkeys(SOURCES, "measured")),
            read(4, 500, **SOURCES | {"soma_source": "measured", "synapse_source": "measured"}),
            read(0, 0, error_class="UnknownRoot"),
            {"seconds": 0.0, "error_class": "CellKilled"},
            {"seconds": None},
            {"source": "carried", "soma_version": 1, **SOURCES},
            read(0, 0, **SOURCES | {"nucleus_source": "measured"}),
            {"source": None, "run": None},
            read(16, 4000, run="an earlier run", **dict.fromkeys(SOURCES, "measured")),
        ),
    )
    put_requests(store, "run", "parent-1", {"metadata": 9, "leaves": 1})
    put_requests(store, "an earlier run", "parent-1", {"metadata": 5})
    cost = load_cost(store, "run", EVERYTHING)
    assert (cost.cells_computed, cost.cells_carried) == (5, 1)
    assert cost.measured == Parts(somata=2, nuclei=2, synapses=2)
    assert cost.reused == Parts(somata=2, nuclei=2, synapses=2)
    assert (cost.segmentation_files, cost.segmentation_bytes) == (12, 1500)
    assert cost.requests == {"leaves": 1, "metadata": 9}
    # 1500 bytes for 4 cells whose soma was not reused are 375 a cell.
    assert cost.full_run == FullRun(cells=100, requests=130, segmentation_bytes=37_500, bytes_from="computed cells")


def test_a_run_that_read_nothing(store_url: str) -> None:
    """What a full run would have read is what is estimated before a run, and it says so."""
    store = ResultStore(store_url)
    store.put("provenance.parquet", provenance({"source": "carried"}))
    cost = load_cost(store, "run", EVERYTHING)
    assert (cost.cells_computed, cost.cells_carried, cost.segmentation_bytes) == (0, 1, 0)
    assert (cost.full_run.segmentation_bytes, cost.full_run.bytes_from) == (5_000_000, "estimate")
    assert cost.requests == {}


def test_requests_of_all_processes_of_a_run(store_url: str) -> None:
    """Every attempt of every flow run is added once, however often it is written."""
    store = ResultStore(store_url)
    put_requests(store, "run", "shard-1", {"leaves": 2})
    put_requests(store, "run", "shard-1", {"leaves": 3, "metadata": 4})
    put_requests(store, "run", "shard-2", {"leaves": 10})
    put_requests(store, "run", "parent-1", {"metadata": 100})
    assert load_requests(store, "run") == {"leaves": 13, "metadata": 104}
    assert load_requests(store, "another run") == {}


@pytest.mark.parametrize("content", [b"", b'{"requests": {"lea', b"{}", b"3"])
def test_a_damaged_note(store_url: str, content: bytes) -> None:
    """One line names the file, and says what to do."""
    store = ResultStore(store_url)
    store.put("costs/run/shard-1.json", content)
    with pytest.raises(StoreError, match=r"costs/run/shard-1\.json is no note of the requests of a run; delete it and"):
        load_requests(store, "run")


@pytest.mark.parametrize(
    ("requests", "full_requests", "words"),
    [
        (
            {"leaves": 1200, "metadata": 34},
            150_000,
            "at least 1,234 requests to CAVE, 1.5 GB of segmentation, 12 cells measured; "
            "a full run: about 150,000 requests, 18 TB, 144,120 cells",
        ),
        ({}, 0, "at least 1.5 GB of segmentation, 12 cells measured; a full run: about 18 TB, 144,120 cells"),
    ],
)
def test_in_one_line(requests: dict[str, int], full_requests: int, words: str) -> None:
    """With requests, and without where CAVE is not used."""
    full = FullRun(144_120, full_requests, 18_000_000_000_000, "computed cells")
    cost = Cost(requests, 12, 144_108, Parts(10, 12, 11), Parts(), 640, 1_500_000_000, full)
    assert cost_in_words(cost) == words
    assert parts_in_words(cost) == ""


def test_what_was_reused_in_one_line() -> None:
    """Beside what was measured, each with its own number."""
    full = FullRun(144_120, 150_000, 18_000_000_000_000, "estimate")
    cost = Cost({}, 143_980, 0, Parts(1, 143_980, 0), Parts(143_979, 0, 1), 0, 0, full)
    assert parts_in_words(cost) == (
        "measured: 1 soma, 143,980 nuclei, synapses of 0 cells; reused: 143,979 somata, 0 nuclei, synapses of 1 cell"
    )
