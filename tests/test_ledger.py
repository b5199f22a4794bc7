"""What is done: chunk files, and nothing else, decide."""

import threading
import time

import pyarrow as pa
import pytest
from stores import FIRST_ID, MEMORY, RADIUS_NM, made_nuclei, measured, run

from somatic.errors import PermanentError
from somatic.features import features_versions
from somatic.planning.plan import Plan, make_plan
from somatic.results.chunks import CHUNK_SCHEMA, chunk_key, put_rows
from somatic.results.ledger import Ledger, chunk_names
from somatic.storage.parquet import get_tables
from somatic.storage.store import ResultStore


def planned(n: int, **choices: object) -> Plan:
    """A plan of made-up nuclei in chunks of 3, unless told otherwise."""
    return make_plan(made_nuclei(n), **{"radius_nm": RADIUS_NM, "chunk": 3, **choices})


def cells(plan: Plan) -> list[dict]:
    """Rows of a plan as mappings, in order of the nucleus ids."""
    return plan.rows.sort_values("nucleus_id").astype(object).to_dict("records")


def missing(ledger: Ledger, plan: Plan) -> dict[int, int]:
    """Nuclei that are missing, counted from FIRST_ID, with their attempt."""
    rows = ledger.missing(plan.rows)
    return dict(zip((rows["nucleus_id"] - FIRST_ID).tolist(), rows["attempt"].tolist(), strict=True))


def test_nothing_done_in_an_empty_place(store_url: str) -> None:
    """Where nothing lies nothing is done."""
    assert missing(Ledger.load(ResultStore(store_url)), planned(4)) == {0: 1, 1: 1, 2: 1, 3: 1}


def test_ok_and_permanent_failures_are_done_transient_ones_are_not(store_url: str) -> None:
    """A permanent failure is final; a transient one lies beside the chunk files and is tried again."""
    store = ResultStore(store_url)
    plan = planned(4)
    outcomes = {0: "ok", 1: "permanent", 2: "transient", 3: "ok"}
    run(store, plan, outcome=lambda nucleus_id, _: outcomes[nucleus_id - FIRST_ID], run_id="r1")
    assert missing(Ledger.load(store), plan) == {2: 1}
    assert store.names("attempts") == ["r1"]
    statuses = {
        row["nucleus_id"] - FIRST_ID: row["status"]
        for table in get_tables(store, chunk_names(store))
        for row in table.to_pylist()
    }
    assert statuses == {0: "ok", 1: "failed", 3: "ok"}


def test_done_does_not_depend_on_chunks(store_url: str) -> None:
    """What a small plan did counts for a larger one with another chunk size."""
    store = ResultStore(store_url)
    assert len(run(store, planned(10, limit=5))) == 5
    assert sorted(missing(Ledger.load(store), planned(10, chunk=4))) == [5, 6, 7, 8, 9]


def test_another_root_or_centre_is_another_cell(store_url: str) -> None:
    """A cell whose root id or centre moved is not done, its neighbours are."""
    store = ResultStore(store_url)
    run(store, planned(4))
    nuclei = made_nuclei(4)
    nuclei.frame.loc[1, "root_id"] += 1
    nuclei.frame.loc[2, "z_vx"] += 1
    assert sorted(missing(Ledger.load(store), make_plan(nuclei, radius_nm=RADIUS_NM))) == [1, 2]


def test_ids_above_2_to_53_are_kept_apart(store_url: str) -> None:
    """Two ids that are one number as floats are two cells."""
    assert float(FIRST_ID) == float(FIRST_ID + 1)
    store = ResultStore(store_url)
    plan = planned(2)
    put_rows(store, [measured(cells(plan)[0], "ok")], "r1")
    assert sorted(missing(Ledger.load(store), plan)) == [1]


def test_skipped_nuclei_are_done_once_written(store_url: str) -> None:
    """Rows of skipped nuclei lie in a file of their own and need nothing more."""
    store = ResultStore(store_url)
    plan = make_plan(made_nuclei(6, rootless=[1], placeless=[4]), radius_nm=RADIUS_NM)
    run(store, plan)
    assert missing(Ledger.load(store), plan) == {}
    by_file = [set(table["status"].to_pylist()) for table in get_tables(store, chunk_names(store))]
    assert sorted(map(sorted, by_file)) == [["ok"], ["skipped"]]


@pytest.mark.parametrize(
    ("now", "expected"), [(None, {}), (MEMORY, {}), (int(1.25 * MEMORY), {}), (int(1.25 * MEMORY) + 1, {0: 2})]
)
def test_killed_cell_is_tried_again_with_more_memory(store_url: str, now: int | None, expected: dict[int, int]) -> None:
    """A cell that was killed is done for machines with up to 1.25 times that memory, and a new attempt beyond."""
    store = ResultStore(store_url)
    plan = planned(2)
    run(store, plan, outcome=lambda nucleus_id, _: "killed" if nucleus_id == FIRST_ID else "ok")
    assert missing(Ledger.load(store, now), plan) == expected


def test_killed_again_on_the_larger_machine(store_url: str) -> None:
    """The second death counts for the larger memory, in a file of its own beside the first."""
    store = ResultStore(store_url)
    plan = planned(1)
    for memory in (MEMORY, 4 * MEMORY):
        run(store, plan, outcome=lambda *_: "killed", memory_bytes=memory)
    assert len(chunk_names(store)) == 2
    assert missing(Ledger.load(store, 4 * MEMORY), plan) == {}
    assert missing(Ledger.load(store, 6 * MEMORY), plan) == {0: 3}


def test_retry_of_what_failed(store_url: str) -> None:
    """`failed` makes a second attempt of permanent failures only, and what is ok then is not tried a third time."""
    store = ResultStore(store_url)
    nuclei = made_nuclei(4)
    first = make_plan(nuclei, radius_nm=RADIUS_NM)
    run(store, first, outcome=lambda nucleus_id, _: "permanent" if nucleus_id <= FIRST_ID + 1 else "ok")
    attempts = Ledger.load(store).next_attempts(nuclei, retry="failed")
    assert attempts == {FIRST_ID: 2, FIRST_ID + 1: 2}
    second = make_plan(nuclei, radius_nm=RADIUS_NM, attempts=attempts)
    assert missing(Ledger.load(store), second) == {0: 2, 1: 2}
    run(store, second, outcome=lambda nucleus_id, _: "permanent" if nucleus_id == FIRST_ID else "ok")
    ledger = Ledger.load(store)
    assert missing(ledger, second) == {}
    assert missing(ledger, first) == {}
    assert ledger.next_attempts(nuclei, retry="failed") == {FIRST_ID: 3}


def test_retry_of_named_nuclei_and_force(store_url: str) -> None:
    """Named nuclei get a new attempt whatever came out; force gives one to all that have a result."""
    store = ResultStore(store_url)
    nuclei = made_nuclei(3)
    run(store, make_plan(nuclei, radius_nm=RADIUS_NM, limit=2))
    ledger = Ledger.load(store)
    assert ledger.next_attempts(nuclei, retry=[FIRST_ID + 1, FIRST_ID + 2]) == {FIRST_ID + 1: 2}
    assert ledger.next_attempts(nuclei, force=True) == {FIRST_ID: 2, FIRST_ID + 1: 2}
    assert ledger.next_attempts(nuclei) == {}
    with pytest.raises(PermanentError, match="no such nucleus"):
        ledger.next_attempts(nuclei, retry=[5])


def test_chunk_files_are_never_written_over(store_url: str) -> None:
    """The same cells at the same attempt keep their first file; a new attempt gets a new one."""
    store = ResultStore(store_url)
    plan = planned(3)
    run(store, plan)
    first = {name: store.get(name) for name in chunk_names(store)}
    put_rows(store, [measured(cell, "permanent") for cell in cells(plan)], "r2")
    assert {name: store.get(name) for name in chunk_names(store)} == first
    run(store, planned(3, attempts={FIRST_ID + i: 2 for i in range(3)}))
    assert len(chunk_names(store)) == 2
    assert {name: store.get(name) for name in first} == first


def test_key_is_of_the_cells_not_of_their_order() -> None:
    """The name of a chunk file hangs on nucleus, root, centre and attempt, not on order or result."""
    rows = [measured(cell, "ok") for cell in cells(planned(3))]
    key = chunk_key(rows)
    assert chunk_key(reversed(rows)) == key
    assert chunk_key([{**row, "soma_volume_um": 1.0} for row in rows]) == key
    for name in ("nucleus_id", "soma_id", "x_vx", "y_vx", "z_vx", "attempt"):
        assert chunk_key([{**rows[0], name: rows[0][name] + 1}, *rows[1:]]) != key
    assert chunk_key(rows[:2]) != key


def test_float_id_is_refused(store_url: str) -> None:
    """An id that became a float somewhere does not get into a file."""
    row = measured(cells(planned(1))[0], "ok")
    with pytest.raises(TypeError):
        put_rows(ResultStore(store_url), [{**row, "nucleus_id": float(row["nucleus_id"])}], "r1")


def test_chunk_file_says_where_it_comes_from(store_url: str) -> None:
    """A chunk file has its key, the attempt, the stages' seconds, the version of the code, and exact ids."""
    store = ResultStore(store_url)
    cell = cells(planned(1))[0]
    table = put_rows(store, [measured(cell, "ok")], "r1")
    (name,) = chunk_names(store)
    (read,) = get_tables(store, [name])
    assert read.schema.equals(CHUNK_SCHEMA)
    assert read.equals(table)
    (row,) = read.to_pylist()
    assert name == f"chunks/{row['chunk']}.parquet"
    assert (row["nucleus_id"], row["soma_id"]) == (cell["nucleus_id"], cell["soma_id"])
    assert (row["seconds"], row["seconds_read"], row["seconds_mask"], row["seconds_folds"]) == (0.75, 0.5, 0.25, None)
    assert row["attempt"] == 1
    assert row["code_version"].startswith("0.")


def test_additions_from_many_threads() -> None:
    """Of many attempts that threads add at the same time the highest stands for each cell; none gets lost."""
    nuclei = made_nuclei(20)
    noted = {**features_versions(), "code_version": "0"}
    tables = [
        pa.Table.from_pylist([{**measured({**cell, "attempt": attempt}, "ok"), **noted}], schema=CHUNK_SCHEMA)
        for cell in cells(make_plan(nuclei, radius_nm=RADIUS_NM))
        for attempt in range(1, 41)
    ]

    class SlowDict(dict):
        """Lets other threads run between the moment a value is chosen and the moment it is stored."""

        def __setitem__(self, key: object, value: object) -> None:
            time.sleep(1e-5)
            super().__setitem__(key, value)

    ledger = Ledger()
    ledger._done = SlowDict()

    def add(part: list[pa.Table]) -> None:
        for table in part:
            ledger.add(table)

    threads = [threading.Thread(target=add, args=(tables[start::8],)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(ledger.next_attempts(nuclei, force=True).values()) == [41] * 20
