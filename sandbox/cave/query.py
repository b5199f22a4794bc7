"""Queries on tables and views, with the habits of the real server that a client must live with."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sandbox.cave.relations import Relation, is_segmentation_column
from sandbox.cave.tables import Resolution

_COMPARISONS: dict[str, Callable] = {
    "filter_equal_dict": operator.eq,
    "filter_greater_dict": operator.gt,
    "filter_less_dict": operator.lt,
    "filter_greater_equal_dict": operator.ge,
    "filter_less_equal_dict": operator.le,
}
# `filter_notin_dict`, which caveclient sends for filter_out_dict, is not here: the real server never reads it.
_FILTERS = (*_COMPARISONS, "filter_in_dict", "filter_spatial_dict", "filter_regex_dict")


@dataclass(frozen=True, eq=False)
class Answer:
    """Rows, and what the server says about them in headers.

    Parameters
    ----------
    frame : DataFrame
    column_names : dict of dict
        For each table: the name of a column there, and its name in `frame` (without `_x`, `_y`, `_z`).
    resolution_nm : tuple of 3 float, optional
        Of the positions; None where the server does not say it (API v2).
    warnings : list of str
    """

    frame: pd.DataFrame
    column_names: dict[str, dict[str, str]]
    resolution_nm: Resolution | None
    warnings: list[str]


def query(
    relation: Relation,
    request: dict,
    row_cap: int,
    *,
    count: bool = False,
    random_sample: int | None = None,
    converts_resolution: bool = True,
) -> Answer:
    """Answer a query on one table or view.

    Parameters
    ----------
    relation : Relation
    request : dict
        Body of the request.
    row_cap : int
        No answer has more rows; that some are missing stands in a warning only.
    count : bool
        Answer with the number of rows instead.
    random_sample : int, optional
        Look at this many rows of the table only, chosen at random before any filter.
    converts_resolution : bool
        False: positions stay in voxels of the table, whatever the request says (API v2).
    """
    rows = _matching_rows(relation, request, {relation.name})
    if random_sample is not None and random_sample < len(relation.frame):
        chosen = np.random.default_rng(random_sample).choice(len(relation.frame), random_sample, replace=False)
        rows = np.intersect1d(rows, chosen)
    limit = min(request.get("limit", row_cap), row_cap)
    (cut,) = _cut([rows], limit, request.get("offset", 0))
    resolution_nm = _resolution(request, relation) if converts_resolution else None
    wanted = [_with_supervoxel(relation, name) for name in request.get("select_columns") or []]
    selected = _unique(wanted) if wanted else list(relation.columns)
    frame, names = _project(relation, cut, selected, resolution_nm)
    warnings = []
    if count:
        frame = pd.DataFrame({"count": [len(rows)]})
    else:
        frame = frame.drop(columns="deleted", errors="ignore")
        warnings += _cap_warning(frame, limit)
    if relation.notice_text is not None:
        warnings.append(_notice(relation))
    return Answer(frame, {relation.name: names}, resolution_nm, warnings)


def join(relations: dict[str, Relation], request: dict, row_cap: int, *, converts_resolution: bool = True) -> Answer:
    """Answer a query on two tables, joined where a column of one equals a column of the other.

    Columns that both have get the suffix of their table. All positions come in the resolution of the table named
    last, unless the request wants another. Parameters as in `query`.
    """
    pairs = request["tables"]
    first, second = (relations[name] for name, _ in pairs)
    suffixes = request.get("suffix_map") or dict(
        zip((first.name, second.name), request.get("suffixes", ()), strict=False)
    )
    both = {first.name, second.name}
    keys = [
        pd.DataFrame({"key": relation.column(column), name: np.arange(len(relation.frame))})
        .take(_matching_rows(relation, request, both))
        .dropna(subset="key")
        for (_, column), relation, name in zip(pairs, (first, second), ("first", "second"), strict=True)
    ]
    joined = keys[0].merge(keys[1], on="key")
    limit = min(request.get("limit", row_cap), row_cap)
    cut = _cut([joined["first"].to_numpy(), joined["second"].to_numpy()], limit, request.get("offset", 0))
    resolution_nm = _resolution(request, second) if converts_resolution else None

    rows_of = dict(zip((first.name, second.name), cut, strict=True))
    # The real server has no fixed order of the two; this is the recorded one.
    selected = {name: list(relations[name].columns) for name in sorted(both)}
    if request.get("select_columns"):
        selected = _first_with(relations, request["select_columns"])
    elif request.get("select_column_map"):
        selected = {
            name: _unique([_with_supervoxel(relations[name], column) for column in columns])
            for name, columns in request["select_column_map"].items()
        }
    of_all = [column for columns in selected.values() for column in columns]
    shared = {column for column in of_all if of_all.count(column) > 1}
    pieces, column_names = [], {}
    for (name, columns), default in zip(selected.items(), "xy", strict=False):
        suffix = suffixes.get(name, default)
        renamed = {column: column + suffix for column in columns if column in shared}
        piece, names = _project(relations[name], rows_of[name], columns, resolution_nm, renamed)
        hidden = [names[column] for column in ("deleted", "superceded_id") if column in names]
        pieces.append(piece.drop(columns=hidden))
        column_names[name] = names
    frame = pd.concat(pieces, axis="columns")
    warnings = [_notice(relation) for relation in (first, second) if relation.notice_text is not None]
    return Answer(frame, column_names, resolution_nm, warnings + _cap_warning(frame, limit))


def sql_error(columns: dict[str, list[str]], reason: str) -> RuntimeError:
    """What the database says of a query that fails, as the service passes it on: the reason behind the whole SQL.

    Parameters
    ----------
    columns : dict of list of str
        Those that are selected from each table.
    reason : str
    """
    selected = ", ".join(f"{table}.{column}" for table, names in columns.items() for column in names)
    where = " AND ".join(f"{table}.valid = true" for table in columns)
    sql = f"SELECT {selected} \nFROM {', '.join(columns)} \nWHERE {where} \n LIMIT 500000"
    return RuntimeError(f"Execution failed on sql '{sql}': {reason}")


def _matching_rows(relation: Relation, request: dict, known: set[str]) -> np.ndarray:
    """Return the positions of the rows that pass every filter, ascending."""
    keep = np.ones(len(relation.frame), bool)
    for kind in _FILTERS:
        by_table = request.get(kind) or {}
        for name in by_table:
            if name not in known:
                raise KeyError(name)
        for column, wanted in by_table.get(relation.name, {}).items():
            keep &= _passes(relation, kind, column, wanted)
    if "valid" in relation.columns:
        keep &= relation.column("valid").fillna(False).to_numpy(bool)
    return np.flatnonzero(keep)


def _passes(relation: Relation, kind: str, column: str, wanted) -> np.ndarray:
    if kind == "filter_spatial_dict":
        return _inside(relation.position(column), np.array(wanted))
    values = relation.column(column)
    is_number = pd.api.types.is_numeric_dtype(values.dtype)
    if kind == "filter_regex_dict":
        if is_number:
            raise ValueError("Regex filter is only supported on string columns")
        found = values.str.contains(wanted, regex=True)
    elif kind == "filter_in_dict":
        found = values.isin(_members(wanted, values.dtype) if is_number else list(wanted))
    elif isinstance(wanted, str) and is_number:
        # A root id as a string finds nothing, and nothing says so.
        return np.zeros(len(values), bool)
    else:
        found = _COMPARISONS[kind](values, wanted)
    return found.fillna(False).to_numpy(bool)


def _members(wanted, dtype) -> np.ndarray:
    # A single root id as a string is a list of its digits here: it finds the rows without a root. Strings in a
    # list find nothing.
    members = [int(digit) for digit in wanted] if isinstance(wanted, str) else wanted
    numbers = [member for member in members if isinstance(member, int | float)]
    if pd.api.types.is_float_dtype(dtype):
        return np.array(numbers, np.float64)
    return np.array([int(number) for number in numbers if number == int(number)], np.int64)


def _inside(position: Sequence[pd.Series], box: np.ndarray) -> np.ndarray:
    """Tell which points lie in a box of voxels, faces included."""
    if not (box[0] < box[1]).all():
        raise ValueError(f"min bounds: {box[0]} must be less than max bounds: {box[1]}")
    inside = np.ones(len(position[0]), bool)
    for values, low, high in zip(position, *box, strict=True):
        inside &= values.between(low, high).fillna(False).to_numpy(bool)
    return inside


def _cut(columns: list[np.ndarray], limit: int, offset: int) -> list[np.ndarray]:
    """Leave out what exceeds the limit.

    A query without ORDER BY returns any rows in any order: here another order for every offset, so that reading
    page after page by offset loses rows and doubles others, as it may in truth, only every time.
    """
    n_rows = len(columns[0])
    if offset == 0 and n_rows <= limit:
        return columns
    order = np.random.default_rng([offset, limit]).permutation(n_rows)[offset : offset + limit]
    return [column[order] for column in columns]


def _project(
    relation: Relation,
    rows: np.ndarray,
    columns: list[str],
    resolution_nm: Resolution | None,
    renamed: dict[str, str] | None = None,
) -> tuple[pd.DataFrame, dict[str, str]]:
    names = {column: (renamed or {}).get(column, column) for column in columns}
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.ones(3) if resolution_nm is None else np.divide(relation.resolution_nm, resolution_nm)
    if not np.isfinite(scale).all() and any(len(relation.columns[column]) == 3 for column in columns):
        # The real server multiplies positions by it in SQL, which knows neither nan nor inf.
        word = scale[~np.isfinite(scale)][0]
        raise sql_error({relation.name: columns}, f'column "{word}" does not exist\nLINE 1: ... * {word} AS')
    pieces = {}
    for column, name in names.items():
        behind = relation.columns[column]
        for axis, part in enumerate(behind):
            values = relation.frame[part].take(rows).reset_index(drop=True)
            if len(behind) == 3 and scale[axis] != 1:
                values = (values * scale[axis]).astype("Int32")
            if relation.hides_missing_roots and is_segmentation_column(column):
                values = values.fillna(1)
            pieces[name + part.removeprefix(column)] = values
    return pd.DataFrame(pieces), names


def _with_supervoxel(relation: Relation, name: str) -> list[str]:
    """Return the column, preceded by its supervoxel if it is a root: the server never sends one without the other."""
    if name not in relation.columns:
        raise ValueError(f"{name} not in model or models for {relation.name}")
    supervoxel = name.removesuffix("root_id") + "supervoxel_id"
    return [supervoxel, name] if name.endswith("root_id") and supervoxel in relation.columns else [name]


def _first_with(relations: dict[str, Relation], wanted: list[str]) -> dict[str, list[str]]:
    """Choose each column from one table alone: the real server takes the first that has it, in no order."""
    selected: dict[str, list[str]] = {}
    for column in wanted:
        having = [name for name in sorted(relations) if column in relations[name].columns]
        if not having:
            raise LookupError(f"400 Bad Request: column {column} not found in any table referenced")
        selected.setdefault(having[0], []).extend(_with_supervoxel(relations[having[0]], column))
    return {name: _unique([columns]) for name, columns in selected.items()}


def _unique(groups: list[list[str]]) -> list[str]:
    return list(dict.fromkeys(name for group in groups for name in group))


def _resolution(request: dict, relation: Relation) -> Resolution:
    x_nm, y_nm, z_nm = request.get("desired_resolution") or relation.resolution_nm
    return float(x_nm), float(y_nm), float(z_nm)


def _cap_warning(frame: pd.DataFrame, limit: int) -> list[str]:
    # The real text lacks its closing quote, and comes also when exactly `limit` rows matched.
    return [f'201 - "Limited query to {limit} rows'] if len(frame) == limit else []


def _notice(relation: Relation) -> str:
    return f"Table Owner Notice on {relation.name}: {relation.notice_text}"
