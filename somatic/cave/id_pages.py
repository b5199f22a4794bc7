"""All rows of a query whose answers the server cuts short."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from somatic.errors import CaveError, DatasetError


def all_rows(
    query: Callable[[dict[str, Any]], tuple[pd.DataFrame, bool]], where: str, id_column: str = "id"
) -> pd.DataFrame:
    """Ask for all rows, and where an answer was cut short again for the two halves of its id range.

    The ranges are closed integer intervals that never overlap and together leave no integer out, so each row comes
    exactly once, whatever rows a cut answer holds: it has no order, and only says where its median id lies.

    Parameters
    ----------
    query : callable
        Takes filters of caveclient (`filter_greater_equal_dict`, `filter_less_equal_dict` on the id; none at first)
        and returns the rows and whether some were left out.
    where : str
        What the table is called in an error.
    id_column : str
        Column of ids: integers, unique.

    Returns
    -------
    pandas.DataFrame
        All rows, in no particular order.

    Raises
    ------
    CaveError
        The server answers with rows outside of the range it was asked for.
    DatasetError
        A cut answer holds a row without an id.
    """
    pages: list[pd.DataFrame] = []
    ranges: list[tuple[int | None, int | None]] = [(None, None)]
    while ranges:
        low, high = ranges.pop()
        page, truncated = query(_filters(id_column, low, high))
        ids = page[id_column]
        if (low is not None and (ids < low).any()) or (high is not None and (ids > high).any()):
            raise CaveError(f"{where}: the server ignores a filter on {id_column}, so its rows cannot be paged")
        # A full answer to a query for one single id is marked as cut, too, where the cap is one row.
        if not truncated or (low is not None and low == high):
            pages.append(page)
            continue
        if ids.isna().any():
            raise DatasetError(f"{where}: {id_column} is empty in a row; every row needs an id")
        ordered = sorted(int(value) for value in ids)
        middle = ordered[(len(ordered) - 1) // 2]
        if middle == high:
            middle -= 1
        ranges += [(middle + 1, high), (low, middle)]
    filled = [page for page in pages if len(page)]
    return pd.concat(filled, ignore_index=True) if filled else pages[0]


def _filters(id_column: str, low: int | None, high: int | None) -> dict[str, Any]:
    filters: dict[str, Any] = {}
    if low is not None:
        filters["filter_greater_equal_dict"] = {id_column: low}
    if high is not None:
        filters["filter_less_equal_dict"] = {id_column: high}
    return filters
