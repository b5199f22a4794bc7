"""`somatic.cave.id_pages`: all rows of a query whose answers are cut short."""

from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from somatic.cave.id_pages import all_rows
from somatic.errors import CaveError, DatasetError


class CappedTable:
    """A table that answers range queries with at most `cap` rows, chosen by hash, and counts the queries."""

    def __init__(self, ids: list[int], cap: int):
        self.ids = sorted(ids, key=lambda value: hash((value, cap)))
        self.cap = cap
        self.n_queries = 0

    def __call__(self, filters: dict[str, Any]) -> tuple[pd.DataFrame, bool]:
        """Rows of a range, and whether there may be more, said as CAVE does: also when exactly `cap` match."""
        self.n_queries += 1
        low = filters.get("filter_greater_equal_dict", {}).get("id", -(2**63))
        high = filters.get("filter_less_equal_dict", {}).get("id", 2**63 - 1)
        found = [value for value in self.ids if low <= value <= high][: self.cap]
        return pd.DataFrame({"id": pd.array(found, dtype="Int64")}), len(found) == self.cap


@settings(max_examples=60)
@given(st.sets(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=80), st.integers(1, 90))
def test_each_row_once(ids: set[int], cap: int) -> None:
    """Whatever ids a table has and however small its cap, every row comes exactly once."""
    table = CappedTable(list(ids), cap)
    assert sorted(all_rows(table, "table")["id"]) == sorted(ids)


@settings(max_examples=40)
@given(st.integers(-(2**62), 2**62), st.integers(1, 60), st.integers(1, 9))
def test_neighbouring_ids(first: int, n_rows: int, cap: int) -> None:
    """Ids without a gap, where each range ends at an id that is there, come exactly once."""
    ids = range(first, first + n_rows)
    assert sorted(all_rows(CappedTable(list(ids), cap), "table")["id"]) == list(ids)


def test_number_of_queries() -> None:
    """10,000 rows scattered over all of int64 in answers of 100 take no more than 4 queries a page."""
    table = CappedTable([number**4 * 911 for number in range(10_000)], cap=100)
    assert len(all_rows(table, "table")) == 10_000
    assert table.n_queries <= 400


def test_empty_table() -> None:
    """No rows are a frame with the columns of the answer."""
    assert list(all_rows(CappedTable([], 5), "table").columns) == ["id"]


def test_server_that_does_not_filter() -> None:
    """A server that ignores the range would never come to an end: it is found out."""
    table = CappedTable(list(range(20)), 5)
    with pytest.raises(CaveError, match="table nuclei: the server ignores a filter on id"):
        all_rows(lambda _: table({}), "table nuclei")


def test_cut_answer_with_a_row_without_id() -> None:
    """A row without an id lies in no range, so that it cannot be paged."""
    page = pd.DataFrame({"id": pd.array([3, None], dtype="Int64")})
    with pytest.raises(DatasetError, match="table nuclei: id is empty"):
        all_rows(lambda _: (page, True), "table nuclei")
