"""What is different between two versions, on tables made by hand."""

import io
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from somatic.features import MEASURED, feature_table
from somatic.results.changes import (
    CHANGE_SCHEMA,
    DIFFERENCE_COLUMNS,
    compare_features,
    count_changes,
    find_changes,
    put_changes,
)
from somatic.storage.parquet import parquet_bytes
from somatic.storage.store import ResultStore

FIRST_ID = 2**62 + 1
"""As a float it is another number."""
ROOT = 2**63 - 1_000_000
FLAGS = [column.name for column in DIFFERENCE_COLUMNS]


def row(number: int, version: int = 1, **values: Any) -> dict[str, Any]:
    """A row of the table of features; numbers count up from FIRST_ID."""
    measured = {"soma_volume_um": 500.0, "soma_synapse_number": 40, "soma_touches_box": False}
    return {
        "nucleus_id": FIRST_ID + number,
        "soma_id": ROOT + number,
        "centre_x_nm": 4.0,
        "centre_y_nm": -8.0,
        "centre_z_nm": 40.0,
        "materialization_version": version,
        "definitions": "published",
        "status": "ok",
        "n_nuclei_in_segment": 1,
        **measured,
        **values,
    }


def table(*rows: dict[str, Any]) -> pa.Table:
    """A table of features."""
    return feature_table(rows)


def provenance(**sources: str | None) -> pa.Table:
    """Nucleus `n1`, `n2`, ... and where its soma comes from."""
    ids = [FIRST_ID + int(name[1:]) for name in sources]
    return pa.table({"nucleus_id": ids, "soma_source": pa.array(list(sources.values()), pa.string())})


def flags_of(changes: pa.Table) -> dict[int, list[str]]:
    """Which flags are true of which nucleus, counted from FIRST_ID."""
    return {
        one["nucleus_id"] - FIRST_ID: [name for name in FLAGS if one[name]]
        for one in changes.select(["nucleus_id", *FLAGS]).to_pylist()
    }


def test_each_kind_of_change_has_its_flag() -> None:
    """Seven nuclei of which each differs in another way, and one of which nothing does."""
    before = table(*map(row, range(1, 8)))
    after = table(
        row(0, 2),
        row(2, 2, soma_id=ROOT + 20),
        row(3, 2, centre_y_nm=-4.0),
        row(4, 2),
        row(5, 2, soma_synapse_number=41),
        row(6, 2, soma_id=ROOT + 60, soma_volume_um=499.0, centre_x_nm=8.0),
        row(7, 2),
    )
    changes = find_changes(
        before,
        after,
        provenance(n0="measured", n2="reused", n3=None, n4="measured", n5="reused", n6="measured", n7=None),
    )
    assert flags_of(changes) == {
        0: ["added"],
        1: ["gone"],
        2: ["re_rooted"],
        3: ["moved"],
        4: ["recomputed"],
        5: ["changed"],
        6: ["re_rooted", "moved", "recomputed", "changed"],
    }
    assert count_changes(changes) == {
        "nuclei": 7,
        "added": 1,
        "gone": 1,
        "re_rooted": 2,
        "moved": 2,
        "recomputed": 2,
        "changed": 2,
    }


def test_both_values_stand_in_the_row() -> None:
    """Root id, status, centre, version and every feature before and after, to the last digit."""
    before = table(row(0, 7, soma_volume_um=0.1))
    after = table(row(0, 9, soma_id=ROOT + 5, status="failed", soma_volume_um=0.1 + 1e-16, centre_z_nm=80.0))
    [one] = find_changes(before, after).to_pylist()
    assert (one["nucleus_id"], one["soma_id_before"], one["soma_id_after"]) == (FIRST_ID, ROOT, ROOT + 5)
    assert (one["status_before"], one["status_after"]) == ("ok", "failed")
    assert (one["centre_z_nm_before"], one["centre_z_nm_after"]) == (40.0, 80.0)
    assert (one["materialization_version_before"], one["materialization_version_after"]) == (7, 9)
    assert (one["soma_volume_um_before"], one["soma_volume_um_after"]) == (0.1, 0.1 + 1e-16)
    assert {name for name in one if name.endswith("_before")} >= {f"{name}_before" for name in MEASURED}


def test_a_nucleus_of_one_table_has_null_on_the_other_side() -> None:
    """But its root id is 0 there, so that ids stay integers, and the versions are those of the tables."""
    added, gone = find_changes(table(row(1)), table(row(0, 2))).to_pylist()
    assert (added["soma_id_before"], added["soma_id_after"]) == (0, ROOT)
    assert (gone["soma_id_before"], gone["soma_id_after"]) == (ROOT + 1, 0)
    for one, side in ((added, "before"), (gone, "after")):
        assert {one[f"{name}_{side}"] for name in ("status", "centre_x_nm", *MEASURED)} == {None}
        assert (one["materialization_version_before"], one["materialization_version_after"]) == (1, 2)


def test_a_value_that_comes_or_goes_is_a_change() -> None:
    """Null and a value differ, null and null do not; False is a value."""
    before = table(row(0, soma_touches_box=None), row(1), row(2, soma_volume_um=None), row(3, soma_volume_um=None))
    after = table(row(0, 2), row(1, 2, soma_volume_um=None), row(2, 2), row(3, 2, soma_volume_um=None))
    assert flags_of(find_changes(before, after)) == {0: ["changed"], 1: ["changed"], 2: ["changed"]}


def test_a_point_that_comes_is_a_move() -> None:
    """A nucleus without a position in one version."""
    before = table(row(0, centre_x_nm=None, centre_y_nm=None, centre_z_nm=None))
    assert flags_of(find_changes(before, table(row(0, 2)))) == {0: ["moved"]}


def test_what_differs_by_necessity_makes_no_row() -> None:
    """The version, a reason in other words, and how many other nuclei share the root id."""
    before = table(row(0, reason="one", n_nuclei_in_segment=1))
    after = table(row(0, 2, reason="another", n_nuclei_in_segment=2))
    assert find_changes(before, after, provenance(n0="reused")).num_rows == 0


def test_another_status_alone_makes_a_row() -> None:
    """A cell that could not be measured, and for another reason is not asked for any more."""
    changes = find_changes(table(row(0, status="failed")), table(row(0, 2, status="skipped")))
    assert flags_of(changes) == {0: []}


@pytest.mark.parametrize("empty", ["before", "after", "both"])
def test_empty_tables(empty: str) -> None:
    """All are added, all are gone, or there is nothing."""
    before, after = (table() if empty in (side, "both") else table(row(0)) for side in ("before", "after"))
    expected = {"before": {0: ["added"]}, "after": {0: ["gone"]}, "both": {}}[empty]
    assert flags_of(find_changes(before, after, provenance(n0="reused"))) == expected


def test_a_column_that_an_older_table_lacks() -> None:
    """It counts as null."""
    before = table(row(0)).drop_columns(["soma_touches_box"])
    [one] = find_changes(before, table(row(0, 2))).to_pylist()
    assert (one["soma_touches_box_before"], one["soma_touches_box_after"], one["changed"]) == (None, False, True)


def put_set(store: ResultStore, rows: list[dict[str, Any]], nuclei: list[int]) -> None:
    """A set of results: its table, and all nuclei of its version, as numbers from FIRST_ID."""
    store.put("features.parquet", parquet_bytes(table(*rows)))
    store.put("nuclei.parquet", parquet_bytes(pa.table({"nucleus_id": [FIRST_ID + n for n in nuclei]})))


def test_the_file(store_url: str) -> None:
    """Bytes depend on the tables alone, ids are plain int64, every column has unit and meaning."""
    store, base = ResultStore(f"{store_url}/v2/a"), ResultStore(f"{store_url}/v1/a")
    put_set(base, [row(0), row(1), row(2)], nuclei=[0, 1, 2, 4])
    # Nucleus 2 is there at version 2, but this run was not asked for it; nor was the one before for nucleus 4.
    put_set(store, [row(0, 2, soma_volume_um=1.0), row(3, 2), row(4, 2)], nuclei=[0, 2, 3, 4])
    store.put("provenance.parquet", parquet_bytes(provenance(n0="measured", n3="measured", n4="measured")))

    changes = put_changes(store, base)
    assert flags_of(changes) == {0: ["recomputed", "changed"], 1: ["gone"], 3: ["added"]}
    written = store.get("changes.parquet")
    put_changes(store, base)
    assert store.get("changes.parquet") == written
    schema = pq.read_schema(pa.BufferReader(written))
    assert schema.equals(CHANGE_SCHEMA, check_metadata=True)
    assert schema.field("soma_volume_um_before").metadata[b"unit"] == b"um^3"
    assert b"earlier" in schema.field("soma_volume_um_before").metadata[b"description"]
    frame = pd.read_parquet(io.BytesIO(written))
    assert frame["nucleus_id"].tolist() == [FIRST_ID, FIRST_ID + 1, FIRST_ID + 3]
    assert frame["soma_id_before"].dtype == "int64"


def test_features_compared_by_hand() -> None:
    """Relative to the earlier value, the cells that moved most first; a cell of one table counts nowhere."""
    before = table(row(0), row(1), row(2, soma_synapse_number=None), row(3), row(5, soma_touches_box=True))
    after = table(
        row(0, 2, soma_volume_um=505.0),
        row(1, 2, soma_volume_um=400.0, soma_id=ROOT),
        row(2, 2),
        row(4, 2, soma_volume_um=1.0),
        row(5, 2),
    )
    features = compare_features(find_changes(before, after))
    volume = features.loc["soma_volume_um"]
    assert (volume["n_different"], volume["max_rel"]) == (2, pytest.approx(0.2))
    assert volume["worst"] == (FIRST_ID + 1, FIRST_ID)
    synapses = features.loc["soma_synapse_number"]
    assert (synapses["n_different"], synapses["only_results"], synapses["worst"]) == (0, 1, ())
    assert features.loc["soma_touches_box", "worst"] == (FIRST_ID + 5,)
