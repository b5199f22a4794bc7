"""Nuclei from a table or view of CAVE, also from a reference table, whose rows have ids of their own."""

import pandas as pd

from somatic.cave.datastack import Kind
from somatic.cave.errors import CaveNotFound
from somatic.cave.queries import VersionQueries
from somatic.dataset import TableName
from somatic.errors import CaveError, DatasetError
from somatic.tables import (
    OTHER_IDS,
    Nuclei,
    check_own_ids,
    nuclei_from_raw,
    position_columns,
)

_ROOT = "pt_root_id"


def read_nuclei(queries: VersionQueries, source: TableName) -> tuple[Nuclei, str | None]:
    """All nuclei of a version; those without a root id too, with root id 0.

    In a reference table the nucleus is the row of the table that is referred to (`target_id`), and so are its root id
    and its position where the reference table has none of its own.

    Parameters
    ----------
    queries : VersionQueries
    source : TableName
        Name of the table or view, and of its column of positions.

    Returns
    -------
    Nuclei
    str or None
        What a person should know about them.

    Raises
    ------
    DatasetError
        The table is empty, lacks a column (says which it has), names a nucleus twice, has no resolution, or does not
        say which nucleus a row means.
    CaveError
        No such table or view (says the nearest names), no permission, or the counts differ.
    CaveUnavailable
        The server did not answer.
    """
    if source.table is not None:
        referred = queries.reference_table("table", source.table)
        if referred:
            return _of_references(queries, source.table, referred, source.position)
    return _of_rows(queries, "view" if source.view else "table", source.name, source.position), None


def _of_rows(queries: VersionQueries, kind: Kind, name: str, position: str) -> Nuclei:
    where = queries.where(kind, name)
    resolution_nm = queries.resolution_nm(kind, name)
    known = queries.columns(kind, name)
    needed = ["id", _ROOT, position]
    queries.check_columns(known, needed, where)
    # Tables are served without the rows that were corrected since, views need not be.
    optional = (*OTHER_IDS, "valid") if kind == "view" else OTHER_IDS
    raw = queries.rows(kind, name, [*needed, *(column for column in optional if column in known)])
    _check_count(queries.count(kind, name), len(raw), where)
    raw = _valid(raw)
    check_own_ids(raw, where)
    return nuclei_from_raw(raw, position_column=position, resolution_nm=resolution_nm, where=where)


def _of_references(queries: VersionQueries, name: str, referred: str, position: str) -> tuple[Nuclei, str | None]:
    where = queries.where("table", name)
    try:
        further = queries.reference_table("table", referred)
    except CaveNotFound as error:
        raise CaveError(f"{error} ({where} refers to it)") from None
    if further:
        raise DatasetError(
            f"{where}: it refers to {referred}, which itself refers to {further}, so which nucleus a row means is not "
            f'known; write the table of the nuclei, such as table = "{further}"'
        )
    resolution_nm = queries.resolution_nm("table", referred)
    own = queries.columns("table", name, resolution_nm=resolution_nm)
    if "target_id" not in own:
        raise DatasetError(
            f"{where}: it refers to {referred}, but has no column target_id that says to which row, so which nucleus a "
            f'row means is not known; write table = "{referred}"'
        )
    if position_columns(own, position):
        queries.resolution_nm("table", name)  # else its positions come as 0
    joined = queries.columns("table", name, merged=True, resolution_nm=resolution_nm)
    queries.check_columns(joined, ["id", "target_id", "id_ref", _ROOT, position], where)

    # Of a join all columns are selected: without their tables' names CAVE takes some from the wrong one.
    raw = queries.rows("table", name, merged=True, resolution_nm=resolution_nm)
    if (raw["target_id"] != raw["id_ref"]).any():
        raise CaveError(f"{where}: CAVE joined rows of it with others than those that they refer to")
    raw, note = _valid(raw), None
    counted = queries.count("table", name)
    if counted > len(raw):
        raw, note = _with_dangling(queries, name, referred, raw)
    _check_count(counted, len(raw), where)
    again = raw.loc[raw["target_id"].duplicated(), "target_id"].dropna()
    if len(again):
        times = int((raw["target_id"] == again.iloc[0]).sum())
        raise DatasetError(
            f"{where}: {times} of its rows refer to nucleus {again.iloc[0]} of {referred} (target_id), where one per "
            f'nucleus is needed; write table = "{referred}", or a reference table with one row per nucleus'
        )
    nuclei = nuclei_from_raw(
        raw, id_column="target_id", position_column=position, resolution_nm=resolution_nm, where=where
    )
    return nuclei, note


def _with_dangling(queries: VersionQueries, name: str, referred: str, joined: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Add the rows that a join leaves out since they refer to nothing: without root id, so that they are skipped."""
    own = queries.rows("table", name, ["id", "target_id"])
    dangling = own[~own["id"].isin(joined["id"])]
    some = ", ".join(map(str, sorted(dangling["target_id"].dropna())[:5]))
    note = (
        f"{queries.where('table', name)}: {len(dangling)} of {len(own)} rows refer to nuclei that {referred} does not "
        f"have, or has no more ({some}{', ...' if len(dangling) > 5 else ''}); they are skipped"
    )
    return pd.concat([joined, dangling], ignore_index=True), note


def _valid(raw: pd.DataFrame) -> pd.DataFrame:
    """The rows that have not been corrected or deleted since."""
    for column in ("valid", "valid_ref"):
        if column in raw:
            raw = raw[raw[column].fillna(True).astype(bool)]
    return raw


def _check_count(counted: int, n_rows: int, where: str) -> None:
    if counted != n_rows:
        raise CaveError(
            f"{where}: {n_rows} rows came, but the server counts {counted}; rows without an id, or a server that does "
            "not filter as it should"
        )
