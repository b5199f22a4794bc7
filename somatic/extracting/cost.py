"""What a run cost: requests to CAVE, segmentation read, cells computed; and what all of it at once would have."""

import json
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow.compute as pc
from pydantic import NonNegativeInt, TypeAdapter, ValidationError

from somatic.errors import StoreError
from somatic.extracting.estimate import Estimate
from somatic.results.chunks import CHUNK_SCHEMA
from somatic.results.collect import Parts
from somatic.storage.json_object import LARGEST_BYTES, object_from_json
from somatic.storage.parquet import table_from_parquet
from somatic.storage.places import PROVENANCE
from somatic.storage.store import ResultStore

_PUT_TIMEOUT_S = 20.0
_NOTES_AT_ONCE = 16
_REQUESTS = TypeAdapter(dict[str, NonNegativeInt])


@dataclass(frozen=True)
class FullRun:
    """What computing every cell of a plan would have taken.

    Attributes
    ----------
    cells, requests, segmentation_bytes : int
        Requests as planned for all cells.
    bytes_from : {"computed cells", "estimate"}
        Whether `segmentation_bytes` is the mean of the cells whose soma the run measured times all cells, or, where it
        measured none, what the estimate before a run says, which is an upper bound and counts files as they travel.
    """

    cells: int
    requests: int
    segmentation_bytes: int
    bytes_from: Literal["computed cells", "estimate"]


@dataclass(frozen=True)
class Cost:
    """What a run cost, at least: what processes that were killed had asked and read is not known.

    Attributes
    ----------
    requests : dict of str to int
        Requests to CAVE of all attempts of the run and of its shards, by kind (`somatic.cave.counting.request_kind`).
    cells_computed, cells_carried : int
        Cells of which it measured something, failed ones among them, and cells that it reused whole.
    measured, reused : Parts
        Somata, nuclei and synapses that it measured, and those that it reused.
    segmentation_files, segmentation_bytes : int
        Files of the segmentation that were fetched for its cells, and their bytes as they travelled. What was fetched
        for cells that then failed for now is not among them.
    full_run : FullRun
    """

    requests: dict[str, int]
    cells_computed: int
    cells_carried: int
    measured: Parts
    reused: Parts
    segmentation_files: int
    segmentation_bytes: int
    full_run: FullRun

    def as_dict(self) -> dict[str, Any]:
        """For a manifest."""
        return asdict(self)


def put_requests(store: ResultStore, run_id: str, name: str, requests: Mapping[str, int]) -> None:
    """Note the requests of one process of a run beside the results.

    Raises
    ------
    StoreError, StoreUnavailable
        They could not be noted, for good or for now.
    """
    text = json.dumps({"requests": dict(requests)}, indent=2, sort_keys=True)
    # It is the last that a process does that was asked to end.
    store.put(f"{_folder(run_id)}/{name}.json", f"{text}\n".encode(), timeout_s=_PUT_TIMEOUT_S)


def load_requests(store: ResultStore, run_id: str) -> Counter[str]:
    """Sum of the requests that the processes of a run have noted.

    Raises
    ------
    StoreError, StoreUnavailable
        A note could not be read, for good or for now, or is none.
    """
    folder = _folder(run_id)
    total: Counter[str] = Counter()

    def get(name: str) -> dict[str, int]:
        place = f"{folder}/{name}"
        what = "note of the requests of a run; delete it and run again"
        where = store.url_of(place)
        noted = object_from_json(store.get(place, largest_bytes=LARGEST_BYTES), where, what, ("requests",))["requests"]
        try:
            return _REQUESTS.validate_python(noted)
        except ValidationError:
            raise StoreError(f"{where} is no {what}") from None

    with ThreadPoolExecutor(_NOTES_AT_ONCE) as pool:
        for requests in pool.map(get, store.names(folder)):
            total.update(requests)
    return total


def load_cost(store: ResultStore, run_id: str, everything: Estimate) -> Cost:
    """What a run cost, by what its processes have noted and by provenance.parquet.

    Parameters
    ----------
    store : ResultStore
        Where a table was collected after the run.
    run_id : str
        The run.
    everything : Estimate
        Of its plan, with every cell missing.

    Raises
    ------
    StoreError, StoreUnavailable
        A file could not be read, for good or for now.
    """
    sources = ("source", "soma_source", "nucleus_source", "synapse_source")
    columns = ("run", *sources, "seconds", "segmentation_files", "segmentation_bytes")
    rows = table_from_parquet(store.get(PROVENANCE), store.url_of(PROVENANCE), columns, CHUNK_SCHEMA)
    rows = rows.filter(pc.equal(rows["run"], run_id))
    carried = pc.fill_null(pc.equal(rows["source"], "carried"), False)
    # A cell that was skipped took no time.
    computed = rows.filter(pc.and_(pc.invert(carried), pc.is_valid(rows["seconds"])))
    n_bytes = pc.sum(computed["segmentation_bytes"]).as_py() or 0
    n_read = computed.num_rows - (pc.sum(pc.equal(computed["soma_source"], "reused")).as_py() or 0)
    return Cost(
        requests=dict(sorted(load_requests(store, run_id).items())),
        cells_computed=computed.num_rows,
        cells_carried=pc.sum(carried).as_py() or 0,
        measured=Parts.of(rows, "measured"),
        reused=Parts.of(rows, "reused"),
        segmentation_files=pc.sum(computed["segmentation_files"]).as_py() or 0,
        segmentation_bytes=n_bytes,
        full_run=FullRun(
            cells=everything.cells,
            requests=everything.cave_requests,
            segmentation_bytes=round(n_bytes / n_read * everything.cells)
            if n_bytes and n_read
            else everything.segmentation_bytes,
            bytes_from="computed cells" if n_bytes and n_read else "estimate",
        ),
    )


def _folder(run_id: str) -> str:
    return f"costs/{run_id}"
