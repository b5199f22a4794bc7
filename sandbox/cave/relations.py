"""Tables and views as the database of a CAVE server has them: typed columns in the order of an answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from sandbox.cave.tables import CaveTable, CaveView, Resolution

HOUSEKEEPING = ("id", "created", "deleted", "superceded_id", "valid")


@dataclass(frozen=True, eq=False)
class Relation:
    """A table or a view, ready to be queried.

    Parameters
    ----------
    name : str
    frame : DataFrame
        Nullable dtypes; RangeIndex.
    columns : dict of str to list of str
        What a query may name, in the order of an answer, and the columns of `frame` behind it: one, or three for
        a position.
    resolution_nm : tuple of 3 float
    notice_text : str or None
    hides_missing_roots : bool
        Whether an answer shows 1 where a root or supervoxel is NA (filters still see NA).
    """

    name: str
    frame: pd.DataFrame
    columns: dict[str, list[str]]
    resolution_nm: Resolution
    notice_text: str | None = None
    hides_missing_roots: bool = False

    def column(self, name: str) -> pd.Series:
        """Return a column that is no position; KeyError for any other name."""
        behind = self.columns[name]
        if len(behind) != 1:
            raise KeyError(name)
        return self.frame[behind[0]]

    def position(self, name: str) -> list[pd.Series]:
        """Return x, y and z of a position in voxels; KeyError for any other name."""
        behind = self.columns[name]
        if len(behind) != 3:
            raise KeyError(name)
        return [self.frame[column] for column in behind]


def relation_of_table(name: str, table: CaveTable, is_merged: bool) -> Relation:
    """Return a table as a merged or a split version has it."""
    frame = _typed(table.frame, "Float32", f"table {name}")
    if "valid" not in frame:
        after_id = list(frame.columns).index("id") + 1
        frame.insert(after_id, "valid", pd.Series(True, index=frame.index, dtype="boolean"))
    if not is_merged:
        frame = _split(frame, table)
    return Relation(
        name, frame, _grouped(frame), table.resolution_nm, table.notice_text, hides_missing_roots=not is_merged
    )


def relation_of_view(name: str, view: CaveView) -> Relation:
    """Return a view; its floats are doubles, those of a table are not."""
    frame = _typed(view.frame, "Float64", f"view {name}")
    return Relation(name, frame, _grouped(frame), view.resolution_nm, view.notice_text)


def schema(relation: Relation) -> dict[str, dict[str, str]]:
    """Return the type of each column as the server names types."""
    types: dict[str, dict[str, str]] = {}
    for name, behind in relation.columns.items():
        dtype = relation.frame[behind[0]].dtype
        if len(behind) == 3:
            types[name] = {"type": "SpatialPoint"}
        elif isinstance(dtype, pd.DatetimeTZDtype):
            types[name] = {"type": "string", "format": "date-time"}
        elif pd.api.types.is_bool_dtype(dtype):
            types[name] = {"type": "boolean"}
        elif pd.api.types.is_integer_dtype(dtype):
            types[name] = {"type": "integer"}
        elif pd.api.types.is_float_dtype(dtype):
            types[name] = {"type": "float"}
        else:
            types[name] = {"type": "string"}
    return types


def is_segmentation_column(name: str) -> bool:
    """Tell whether a column comes from the segmentation, not from who annotated."""
    return name.endswith(("_root_id", "_supervoxel_id"))


def _split(frame: pd.DataFrame, table: CaveTable) -> pd.DataFrame:
    moments = {"created": pd.to_datetime(table.created, utc=True), "deleted": pd.NaT}
    for column, moment in moments.items():
        if column not in frame:
            frame[column] = pd.Series(moment, index=frame.index, dtype="datetime64[ns, UTC]")
    if "superceded_id" not in frame:
        frame["superceded_id"] = pd.Series(pd.NA, index=frame.index, dtype="Int64")
    rest = [str(column) for column in frame if column not in HOUSEKEEPING]
    annotation = [column for column in rest if not is_segmentation_column(column)]
    segmentation = [column for column in rest if is_segmentation_column(column)]
    return frame[[*HOUSEKEEPING, *annotation, *segmentation]]


def _grouped(frame: pd.DataFrame) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {}
    for column in frame.columns:
        base = column[:-2]
        if column.endswith(("_x", "_y", "_z")) and {f"{base}_{axis}" for axis in "xyz"} <= set(frame.columns):
            columns[base] = [f"{base}_{axis}" for axis in "xyz"]
        else:
            columns[column] = [column]
    return columns


def _typed(frame: pd.DataFrame, float_dtype: str, where: str) -> pd.DataFrame:
    frame = frame.reset_index(drop=True)
    positions = {column for behind in _grouped(frame).values() if len(behind) == 3 for column in behind}
    typed = {}
    for column, values in frame.items():
        name, dtype = str(column), values.dtype
        is_id = name == "id" or name.endswith("_id")
        if (is_id or name in positions) and not pd.api.types.is_integer_dtype(dtype):
            raise ValueError(f"{where}: column {name} must hold integers (Int64 where one is NA), not {dtype}")
        typed[name] = values.astype(_database_dtype(dtype, is_id, name in positions, float_dtype))
    return pd.DataFrame(typed)


def _database_dtype(dtype, is_id: bool, is_position: bool, float_dtype: str) -> Any:
    if is_position:
        return "Int32"
    if pd.api.types.is_bool_dtype(dtype):
        return "boolean"
    if pd.api.types.is_integer_dtype(dtype):
        return "Int64" if is_id or dtype.itemsize == 8 else "Int32"
    if pd.api.types.is_float_dtype(dtype):
        return float_dtype
    if isinstance(dtype, pd.DatetimeTZDtype):
        return "datetime64[ns, UTC]"
    return "string"
