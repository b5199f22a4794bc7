"""Flags, on tables made by hand."""

from typing import Any

import pyarrow as pa
import pytest

from somatic.features import feature_table
from somatic.results.flags import FLAG_COLUMNS, count_flags, find_flags, marks, put_flags
from somatic.storage.parquet import table_from_parquet
from somatic.storage.store import ResultStore

FIRST_ID = 2**62 + 1
"""As a float it is another number."""


def table(*rows: dict[str, Any]) -> pa.Table:
    """A table of features; rows are numbered from FIRST_ID."""
    common = {"soma_id": 2**60, "materialization_version": 1, "definitions": "published", "status": "ok"}
    return feature_table({**common, "nucleus_id": FIRST_ID + number, **row} for number, row in enumerate(rows))


def flags_of(features: pa.Table) -> dict[int, list[str]]:
    """Names of the flags of each nucleus that has one, counted from FIRST_ID."""
    names = [column.name for column in FLAG_COLUMNS]
    rows = find_flags(features).to_pylist()
    found = {row["nucleus_id"] - FIRST_ID: [name for name in names if row[name]] for row in rows}
    return {nucleus: flagged for nucleus, flagged in found.items() if flagged}


def test_each_rule() -> None:
    """Just beyond each rule there is its flag, and just before it none; what is null is not flagged."""
    features = table(
        {},
        {"n_nuclei_in_segment": 1, "frac_unlabelled": 0.2, "nucleus_is_clipped": False},
        {"n_nuclei_in_segment": 2},
        {"n_nuclei_in_segment": 3, "soma_id": 0},
        {"frac_unlabelled": 0.2000001},
        {"nucleus_is_clipped": True, "status": "failed"},
        {"n_nuclei_in_segment": 2, "frac_unlabelled": 1.0},
        {"n_somata": 1, "frac_nucleus_in_segment": 0.5},
        {"n_somata": 2},
        {"n_somata": 0, "frac_nucleus_in_segment": 0.4999},
    )
    assert flags_of(features) == {
        2: ["several_nuclei"],
        4: ["unlabelled"],
        5: ["clipped"],
        6: ["several_nuclei", "unlabelled"],
        8: ["several_somata"],
        9: ["nucleus_apart"],
    }


def test_volumes_beyond_the_marks() -> None:
    """Of volumes 1 to 10,000 the marks are the 10th and the 9,990th: 9 lie below, 10 above; nulls do not count."""
    volumes = [{"soma_volume_um": float(number)} for number in range(10_000, 0, -1)]
    features = table(*volumes, {}, {})
    beyond = flags_of(features)
    assert set(beyond) == {*range(10), *range(9_991, 10_000)}
    assert all(names == ["soma_volume_beyond"] for names in beyond.values())
    assert count_flags(find_flags(features))["soma_volume_beyond"] == 19


@pytest.mark.parametrize(("n_cells", "expected"), [(999, None), (1000, (1.0, 999.0))])
def test_few_cells_have_no_marks(n_cells: int, expected: tuple[float, float] | None) -> None:
    """With 999 cells the smallest and the largest would always lie beyond; with 1,000 the marks are values."""
    values = pa.array(range(n_cells, 0, -1), pa.float64()).to_numpy()
    assert marks(values) == expected
    features = table(*({"nucleus_volume_um": value} for value in values))
    assert len(flags_of(features)) == (0 if expected is None else 1)


def test_flags_are_stored_with_exact_ids(store_url: str) -> None:
    """flags.parquet has a row a nucleus, in the order of the table, with unit and meaning of its columns."""
    store = ResultStore(store_url)
    put_flags(store, table({"n_nuclei_in_segment": 2}, {}))
    stored = table_from_parquet(store.get("flags.parquet"), "flags.parquet")
    assert stored["nucleus_id"].to_pylist() == [FIRST_ID, FIRST_ID + 1]
    assert stored["several_nuclei"].to_pylist() == [True, False]
    assert stored.schema.field("clipped").metadata[b"description"].startswith(b"the nucleus lies within 3 um")


def test_an_empty_table() -> None:
    """A table without rows has flags without rows."""
    assert find_flags(table()).num_rows == 0
    assert set(count_flags(find_flags(table())).values()) == {0}
