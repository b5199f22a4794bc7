"""The tables that every dataset brings, nuclei and synapses, checked and in one form whatever their source."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from somatic.errors import DatasetError, NoSuchColumn, quoted

Ids = npt.NDArray[np.int64]
Resolution = tuple[float, float, float]

OTHER_IDS = ("target_id", "id_ref")
"""Columns in which a reference table of CAVE says to which row of another table each of its rows refers."""

_AXES = ("x", "y", "z")
_LARGEST_ID = 2**63 - 1
_EXACT_IN_FLOAT = 2**53
_FARTHEST_NM = 2.0**53
"""So far from the origin, 9000 km, a voxel of 1 nm can still be told from the next."""
_LARGEST_SIZE = 1e30
_MOST_NAMES = 40
_NO_ROOT = 1
"""CAVE writes 0 or 1 where a point has no root."""


@dataclass(frozen=True)
class Nuclei:
    """The nuclei of a dataset at one version.

    Attributes
    ----------
    frame : pandas.DataFrame
        `nucleus_id` int64, unique and ascending; `root_id` int64, 0 where there is none; `x_vx`, `y_vx`, `z_vx`
        Int64, all three NA where the row has no position.
    resolution_nm : tuple of float
        Size of a voxel of the positions along x, y, z.
    """

    frame: pd.DataFrame
    resolution_nm: Resolution


@dataclass(frozen=True)
class Synapses:
    """Synapses, those of a segment onto itself left out.

    Attributes
    ----------
    frame : pandas.DataFrame
        `synapse_id`, `pre_root_id`, `post_root_id` int64, 0 for no root; `ctr_x_vx`, `ctr_y_vx`, `ctr_z_vx`,
        `post_x_vx`, `post_y_vx`, `post_z_vx` float64; `size` float64, NaN where the table has none. Sorted by
        post_root_id, then synapse_id.
    resolution_nm : tuple of float
        Size of a voxel of the positions along x, y, z.
    """

    frame: pd.DataFrame
    resolution_nm: Resolution

    def onto(self, root_ids: Sequence[int]) -> "Synapses":
        """Those onto some roots."""
        return Synapses(self.frame[self.frame["post_root_id"].isin(root_ids)], self.resolution_nm)


def nuclei_from_raw(
    raw: pd.DataFrame,
    *,
    resolution_nm: Sequence[float],
    where: str,
    id_column: str = "id",
    root_column: str = "pt_root_id",
    position_column: str = "pt_position",
) -> Nuclei:
    """Check a table of nuclei as CAVE or a file gives it, and bring it into our form.

    Parameters
    ----------
    raw : pandas.DataFrame
        With the columns named below; the position is one column of (x, y, z) or three, `<position>_x`, `_y`, `_z`.
        A position that is not whole is rounded to the nearest voxel.
    resolution_nm : (3,) float
        Size of a voxel of the positions.
    where : str
        What the table is called in an error.

    Raises
    ------
    DatasetError
        The table is empty, lacks a column, names a nucleus twice, or holds ids that are not exact integers.
    """
    if raw.empty:
        raise DatasetError(f"{where}: the table is empty; it must have a row for each nucleus")
    ids = _ids(raw, id_column, where, may_miss=False)
    _check_unique(ids, id_column, where)
    resolution = _resolution(resolution_nm, where)
    positions = _positions(raw, position_column, resolution, where)
    absent = _without_position(positions)
    frame = pd.DataFrame({"nucleus_id": ids, "root_id": _roots(raw, root_column, where)})
    whole = np.rint(np.where(absent[:, None], 0, positions)).astype(np.int64)
    for axis, name in enumerate(_AXES):
        frame[f"{name}_vx"] = pd.arrays.IntegerArray(whole[:, axis], absent.copy())
    frame = frame.sort_values("nucleus_id", kind="stable", ignore_index=True)
    return Nuclei(frame, resolution)


def check_own_ids(raw: pd.DataFrame, where: str) -> None:
    """Check that the column `id` of a table of nuclei holds ids of nuclei, and not those of notes about nuclei.

    Raises
    ------
    DatasetError
        There is a column in which a reference table names the nucleus, and it holds other ids.
    """
    for column in OTHER_IDS:
        if column not in raw or not pd.api.types.is_integer_dtype(raw[column].dtype):
            continue
        differs = (raw["id"] != raw[column]).fillna(False).to_numpy(dtype=bool)
        if differs.any():
            row = _first(differs)
            own, other = raw["id"].iloc[row - 1], raw[column].iloc[row - 1]
            raise DatasetError(
                f"{where}: id is {own} and {column} is {other} in row {row}, as in a table that refers to another one, "
                "so which of both is the nucleus is not known; use the table of the nuclei, or one whose id is theirs"
            )


def synapses_from_raw(raw: pd.DataFrame, *, resolution_nm: Sequence[float], where: str) -> Synapses:
    """Check a table of synapses as CAVE or a file gives it, and bring it into our form.

    Parameters
    ----------
    raw : pandas.DataFrame
        Columns `id`, `pre_pt_root_id`, `post_pt_root_id`, `ctr_pt_position` or `post_pt_position` or both and, where
        there is one, `size`; a position is one column of (x, y, z) or three, `<position>_x`, `_y`, `_z`. Where a table
        lacks one of the two positions, or a row post_pt_position, the other is used in its place. A table without rows
        is a valid answer.
    resolution_nm : (3,) float
        Size of a voxel of the positions.
    where : str
        What the table is called in an error.

    Raises
    ------
    DatasetError
        The table lacks a column, a row its position, a synapse has two rows, or ids are not exact integers.
    """
    resolution = _resolution(resolution_nm, where)
    ids = _ids(raw, "id", where, may_miss=False)
    pre = _roots(raw, "pre_pt_root_id", where)
    post = _roots(raw, "post_pt_root_id", where)
    *others, point = synapse_points(raw.columns, where)
    centre = _positions(raw, point, resolution, where)
    absent = np.flatnonzero(_without_position(centre))
    if absent.size:
        raise DatasetError(f"{where}: {point} is empty in row {absent[0] + 1}; every synapse needs one")
    target = centre
    if others:
        target = _positions(raw, "post_pt_position", resolution, where)
        target = np.where(_without_position(target)[:, None], centre, target)

    order = np.lexsort((ids, post))
    order = order[pre[order] != post[order]]
    _check_unique(ids[order], "id", where)
    columns: dict[str, Any] = {
        "synapse_id": ids[order],
        "pre_root_id": pre[order],
        "post_root_id": post[order],
    }
    for prefix, points in (("ctr", centre), ("post", target)):
        for axis, name in enumerate(_AXES):
            columns[f"{prefix}_{name}_vx"] = points[order, axis]
    columns["size"] = _sizes(raw, where)[order] if "size" in raw.columns else np.nan
    return Synapses(pd.DataFrame(columns), resolution)


def synapse_points(columns: Sequence[str] | pd.Index, where: str) -> list[str]:
    """Positions that a table of synapses has: post_pt_position, ctr_pt_position or both, in this order.

    Raises
    ------
    DatasetError
        It has neither; says which columns it has.
    """
    points = [point for point in ("post_pt_position", "ctr_pt_position") if position_columns(columns, point)]
    if not points:
        raise no_such_column("ctr_pt_position or post_pt_position", columns, where)
    return points


def position_columns(columns: Sequence[str] | pd.Index, position: str) -> list[str]:
    """Columns that hold a position: `[position]`, or its three parts, or none when the table lacks it."""
    parts = [f"{position}_{axis}" for axis in _AXES]
    if all(part in columns for part in parts):
        return parts
    return [position] if position in columns else []


def no_such_column(column: str, columns: Sequence[str] | pd.Index, where: str) -> NoSuchColumn:
    """Say that a table lacks a column, and which it has."""
    names = [" ".join(str(name).split()) for name in columns[:_MOST_NAMES]]
    more = f" and {len(columns) - _MOST_NAMES} more" if len(columns) > _MOST_NAMES else ""
    return NoSuchColumn(f"{where}: no column {column}; the table has {', '.join(names)}{more}")


def _roots(raw: pd.DataFrame, column: str, where: str) -> Ids:
    roots = _ids(raw, column, where, may_miss=True)
    roots[roots == _NO_ROOT] = 0
    return roots


def _ids(raw: pd.DataFrame, column: str, where: str, *, may_miss: bool) -> Ids:
    """Ids of a column, exact; 0 for a missing one when it may miss."""
    if column not in raw.columns:
        raise no_such_column(column, raw.columns, where)
    values = raw[column]
    missing = values.isna().to_numpy()
    if missing.any() and not may_miss:
        raise DatasetError(f"{where}: {column} is empty in row {_first(missing)}; every row needs an id")
    if pd.api.types.is_integer_dtype(values.dtype):
        whole = _from_integers(values, missing)
    elif pd.api.types.is_float_dtype(values.dtype):
        whole = _from_floats(values, missing, column, where)
    else:
        whole = _from_objects(values, missing, column, where)
    wrong = (whole < 0) | (whole > _LARGEST_ID)
    if wrong.any():
        row = _first(wrong)
        raise DatasetError(
            f"{where}: {column} is {whole[row - 1]} in row {row}; ids must lie between 0 and 2^63-1 ({_LARGEST_ID})"
        )
    return whole.astype(np.int64)


def _from_integers(values: pd.Series, missing: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    signed = not pd.api.types.is_unsigned_integer_dtype(values.dtype)
    if missing.any():
        values = values.fillna(0)
    return values.to_numpy(dtype=np.int64 if signed else np.uint64)


def _from_floats(values: pd.Series, missing: npt.NDArray[np.bool_], column: str, where: str) -> npt.NDArray[np.float64]:
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    numbers = np.where(missing, 0.0, numbers)
    lossy = ~(np.abs(numbers) < _EXACT_IN_FLOAT) | (numbers != np.trunc(numbers))
    if lossy.any():
        row = _first(lossy)
        raise DatasetError(
            f"{where}: {column} holds floats ({float(numbers[row - 1])!r} in row {row}), which lose the last digits of "
            "ids from 2^53 on; write the column as integers (pandas: Int64, which may have gaps) from the original ids"
        )
    return numbers


def _from_objects(
    values: pd.Series, missing: npt.NDArray[np.bool_], column: str, where: str
) -> npt.NDArray[np.object_]:
    numbers = values.to_numpy(dtype=object, copy=True)
    numbers[missing] = 0
    for row, number in enumerate(numbers, 1):
        if not isinstance(number, int | np.integer) or isinstance(number, bool):
            raise DatasetError(
                f"{where}: {column} is {quoted(number)} ({type(number).__name__}) in row {row}; ids must be integers, "
                "write the column as int64"
            )
    return numbers


def _positions(raw: pd.DataFrame, position: str, resolution_nm: Resolution, where: str) -> npt.NDArray[np.float64]:
    """Positions, (n, 3) float64, NaN where a row has none."""
    names = position_columns(raw.columns, position)
    if not names:
        expected = f"{position} (nor {position}_x, {position}_y, {position}_z)"
        raise no_such_column(expected, raw.columns, where)
    if len(names) == 1:
        points = [_point(value, row, position, where) for row, value in enumerate(raw[position], 1)]
        numbers = np.array(points, dtype=np.float64).reshape(-1, 3)
    else:
        numbers = np.column_stack([_numbers(raw[name], name, where) for name in names])
    wrong = (np.abs(numbers) >= _EXACT_IN_FLOAT) | (np.abs(numbers) * resolution_nm > _FARTHEST_NM)
    if wrong.any():
        row = _first(np.any(wrong, axis=1))
        raise DatasetError(f"{where}: {position} is {numbers[row - 1].tolist()} in row {row}; no voxel lies there")
    return numbers


def _sizes(raw: pd.DataFrame, where: str) -> npt.NDArray[np.float64]:
    """Sizes of synapses, (n,) float64, NaN where a row has none."""
    sizes = _numbers(raw["size"], "size", where)
    wrong = np.abs(sizes) > _LARGEST_SIZE
    if wrong.any():
        row = _first(wrong)
        raise DatasetError(f"{where}: size is {sizes[row - 1]} in row {row}; expected a number below {_LARGEST_SIZE:g}")
    return sizes


def _without_position(positions: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    return np.asarray(np.any(np.isnan(positions), axis=1))


def _numbers(values: pd.Series, column: str, where: str) -> npt.NDArray[np.float64]:
    if pd.api.types.is_bool_dtype(values.dtype):
        raise DatasetError(f"{where}: {column} must hold numbers; it holds true and false")
    try:
        return values.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{where}: {column} must hold numbers; {error}") from error


def _point(value: Any, row: int, position: str, where: str) -> tuple[float, ...]:
    nothing = (np.nan,) * 3
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return nothing
    if isinstance(value, list | tuple | np.ndarray) and len(value) == 3:
        if any(pd.isna(number) for number in value):
            return nothing
        if all(isinstance(number, int | float | np.number) for number in value):
            return tuple(float(number) for number in value)
    raise DatasetError(f"{where}: {position} is {quoted(value)} in row {row}; expected three numbers x, y, z")


def _check_unique(ids: Ids, column: str, where: str) -> None:
    repeated = pd.Series(ids).duplicated(keep=False).to_numpy()
    if repeated.any():
        value = ids[_first(repeated) - 1]
        times = int((ids == value).sum())
        raise DatasetError(f"{where}: {column} {value} stands in {times} rows; every id must have one row")


def _resolution(resolution_nm: Sequence[float], where: str) -> Resolution:
    sizes = tuple(float(size) for size in resolution_nm)
    if len(sizes) != 3 or not all(np.isfinite(size) and size > 0 for size in sizes):
        raise DatasetError(f"{where}: the resolution is {list(resolution_nm)}; expected three lengths in nm above 0")
    return sizes[0], sizes[1], sizes[2]


def _first(rows: npt.NDArray[np.bool_]) -> int:
    """Number of the first row that is true, counted from 1."""
    return int(np.flatnonzero(rows)[0]) + 1
