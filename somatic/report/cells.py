"""Which cells a report lists: those with the most extreme features, and all that failed."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from somatic.features import FEATURES_OF_SHAPE, SCHEMA
from somatic.report.plots import label
from somatic.results.flags import FLAG_COLUMNS

_EXTREMES = 3
_CELLS_AN_EXTREME = 20
MAX_FAILURES = 50_000
"""More are not listed one by one, so that the page opens."""


def extremes(features: pa.Table) -> dict[int, list[str]]:
    """Find the cells with the smallest and largest values of each of `FEATURES_OF_SHAPE`.

    Returns
    -------
    dict of int to list of str
        Nucleus id, and of which features it has which value; only cells that are ok.
    """
    is_ok = pc.equal(features["status"], "ok")
    found: dict[int, list[str]] = {}
    for name in FEATURES_OF_SHAPE:
        known = features.select(["nucleus_id", name]).filter(pc.and_(is_ok, pc.is_valid(features[name])))
        values = known[name].cast(pa.float64(), safe=False).to_numpy()
        if not len(values) or (len(values) > 1 and values.min() == values.max()):
            continue
        order = np.argsort(values, kind="stable")
        n_extremes = min(_EXTREMES, 1 + len(values) // _CELLS_AN_EXTREME)
        for which, rows in (("smallest", order[:n_extremes]), ("largest", order[n_extremes:][-n_extremes:])):
            for row in rows:
                note = f"{which} {label(name, SCHEMA.field(name).metadata[b'unit'].decode())}: {values[row]:.5g}"
                found.setdefault(known["nucleus_id"][int(row)].as_py(), []).append(note)
    return found


def listed_cells(features: pa.Table, flags: pa.Table) -> list[dict[str, Any]]:
    """Rows of the list: extreme cells, then failed ones.

    Parameters
    ----------
    features, flags : pyarrow.Table
        Of a result set, with the same nuclei in the same order.

    Returns
    -------
    list of dict
        `nucleus`, `soma` as strings; `status`, `why`; `flags`, names with commas between; `soma_um3`, `nucleus_um3`,
        None where unknown; `centre_nm`, list of 3, or None.
    """
    notes = extremes(features)
    # Joined by position, which both tables promise.
    table = features.select(
        ["nucleus_id", "soma_id", "status", "reason", "soma_volume_um", "nucleus_volume_um"]
        + [f"centre_{axis}_nm" for axis in "xyz"]
    )
    for column in FLAG_COLUMNS:
        table = table.append_column(column.name, flags[column.name])
    failed = table.filter(pc.equal(table["status"], "failed")).slice(0, MAX_FAILURES)
    extreme = table.filter(pc.is_in(table["nucleus_id"], pa.array(list(notes), pa.int64())))
    return [_listed(row, notes.get(row["nucleus_id"], [])) for row in (*extreme.to_pylist(), *failed.to_pylist())]


def _listed(row: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    centre = [row[f"centre_{axis}_nm"] for axis in "xyz"]
    return {
        # JavaScript has no integers of 64 bits.
        "nucleus": str(row["nucleus_id"]),
        "soma": str(row["soma_id"]),
        "status": row["status"],
        "why": row["reason"] or "; ".join(notes),
        "flags": ", ".join(column.name for column in FLAG_COLUMNS if row[column.name]),
        "soma_um3": _rounded(row["soma_volume_um"]),
        "nucleus_um3": _rounded(row["nucleus_volume_um"]),
        "centre_nm": None if None in centre else centre,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
