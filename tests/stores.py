"""Made-up nuclei, measurements and runs for the tests of what is planned, done and collected."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from somatic.planning.plan import Plan, skipped_rows
from somatic.results.chunks import chunk_row, put_rows
from somatic.results.ledger import Ledger
from somatic.storage.store import ResultStore
from somatic.tables import Nuclei, Resolution, nuclei_from_raw

FIRST_ID = 2**62 + 1
FIRST_ROOT = 2**63 - 1_000_000
RESOLUTION_NM = (4.0, 4.0, 40.0)
RADIUS_NM = 15_000.0
MEMORY = 8 * 2**30

Outcome = Callable[[int, int], str]


def made_nuclei(n: int, *, rootless: Sequence[int] = (), placeless: Sequence[int] = (), seed: int = 0) -> Nuclei:
    """Nuclei FIRST_ID, FIRST_ID + 1, ...; those at the given numbers have no root, or no position."""
    positions = np.random.default_rng(seed).integers(0, 100_000, (n, 3))
    raw = pd.DataFrame(
        {
            "id": [FIRST_ID + i for i in range(n)],
            "pt_root_id": pd.array([0 if i in rootless else FIRST_ROOT + i for i in range(n)], dtype="Int64"),
            "pt_position": [None if i in placeless else p for i, p in enumerate(positions.tolist())],
        }
    )
    return nuclei_from_raw(raw, resolution_nm=RESOLUTION_NM, where="a made-up table")


def nuclei_at(points_vx: Sequence[Sequence[int]], root_id: int, resolution_nm: Resolution) -> Nuclei:
    """Nuclei of one root at some points, in voxels of a resolution."""
    raw = pd.DataFrame(
        {
            "id": [FIRST_ID + i for i in range(len(points_vx))],
            "pt_root_id": pd.array([root_id] * len(points_vx), dtype="Int64"),
            "pt_position": [list(map(int, point)) for point in points_vx],
        }
    )
    return nuclei_from_raw(raw, resolution_nm=resolution_nm, where="a made-up table")


def always_ok(nucleus_id: int, attempt: int) -> str:  # noqa: ARG001
    """Every measurement succeeds."""
    return "ok"


def measured(cell: dict, outcome: str, memory_bytes: int = MEMORY) -> dict:
    """A row as a worker would write it for a row of a plan; the volume is the last digits of the nucleus id."""
    row = {
        "nucleus_id": cell["nucleus_id"],
        "soma_id": cell["soma_id"],
        "n_nuclei_in_segment": cell["n_nuclei_in_segment"],
        "materialization_version": 1300,
        "definitions": "published",
        "status": "ok" if outcome == "ok" else "failed",
        "reason": None if outcome == "ok" else f"it was made to be {outcome}",
    }
    for axis, size_nm in zip("xyz", RESOLUTION_NM, strict=True):
        row[f"centre_{axis}_nm"] = cell[f"{axis}_vx"] * size_nm
    if outcome == "ok":
        row["soma_volume_um"] = float(cell["nucleus_id"] - FIRST_ID)
    error_class = {"permanent": "MissingSegment", "transient": "SegmentationUnavailable", "killed": "CellKilled"}
    return chunk_row(
        row,
        centre_vx=(cell["x_vx"], cell["y_vx"], cell["z_vx"]),
        attempt=cell["attempt"],
        seconds={"read": 0.5, "mask": 0.25},
        error_class=error_class.get(outcome),
        transient=outcome == "transient",
        memory_bytes=memory_bytes if outcome == "killed" else None,
    )


def run(
    store: ResultStore,
    plan: Plan,
    *,
    outcome: Outcome = always_ok,
    order: Sequence[int] | None = None,
    stop_after: int | None = None,
    run_id: str = "run",
    memory_bytes: int = MEMORY,
) -> list[int]:
    """Do what is missing of a plan, chunk by chunk in the given order, until it is killed after so many files.

    Returns the nuclei that were measured, those in flight when it was killed included.
    """
    ledger = Ledger.load(store, memory_bytes)
    missing = ledger.missing(plan.rows)
    work = [missing[missing["chunk"] == chunk] for chunk in (range(plan.n_chunks) if order is None else order)]
    if (missing["chunk"] < 0).any():
        work.append(missing[missing["chunk"] < 0])
    touched: list[int] = []
    for number, rows in enumerate(rows for rows in work if len(rows)):
        cells = [cell for cell in rows.astype(object).to_dict("records") if cell["chunk"] >= 0]
        done = [measured(cell, outcome(cell["nucleus_id"], cell["attempt"]), memory_bytes) for cell in cells]
        touched += [cell["nucleus_id"] for cell in cells]
        if number == stop_after:
            break
        done += skipped_rows(rows, plan.resolution_nm, 1300, "published")
        ledger.add(put_rows(store, done, run_id))
    return touched
