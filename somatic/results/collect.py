"""The table of features: each nucleus exactly once, out of all that was measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from somatic.errors import PermanentError, StoreError, printable
from somatic.features import features_versions
from somatic.planning.plan import NULL, POSITION, Plan, n_nuclei_in_segment, skipped_rows
from somatic.results.chunks import CHUNK_SCHEMA, IDENTITY
from somatic.results.ledger import Ledger, chunk_names
from somatic.software import code_version
from somatic.storage.parquet import get_tables, shaped
from somatic.storage.places import ATTEMPTS, CHUNKS, FEATURES
from somatic.storage.store import ResultStore
from somatic.tables import Nuclei

NO_RESULT = "not measured yet: the run ended before this cell; run the same command again"


_FAILURE_COLUMNS = ("nucleus_id", "soma_id", "reason", "error_class", "transient")
_LONGEST_REASON = 1000
_DECISIVE = ("nucleus_id", "soma_id", "attempt", "status", "transient")
_SOURCES = ("soma_source", "nucleus_source", "synapse_source")
COUNTED = (*_FAILURE_COLUMNS, "status", "chunk", "source", *_SOURCES)
"""Columns of gathered rows that `count` and `failure_frame` need."""


@dataclass(frozen=True)
class Parts:
    """Numbers of somata, of nuclei, and of cells whose synapses were counted."""

    somata: int = 0
    nuclei: int = 0
    synapses: int = 0

    @classmethod
    def of(cls, rows: pa.Table, source: str) -> "Parts":
        """Those of rows with `PROVENANCE_COLUMNS` that have a source, "measured" or "reused"."""
        return cls(*(_number(pc.equal(rows[name], source)) for name in _SOURCES))


@dataclass(frozen=True)
class Counts:
    """Nuclei by how they came out. `failed` includes `transient`, and `transient` includes `unmeasured`."""

    total: int
    ok: int
    failed: int
    skipped: int
    transient: int
    """Failed for a reason that may be gone when the same command runs again."""
    unmeasured: int
    """Without any result."""
    carried: int
    """Reused whole from another table; part of `ok` and `failed`."""
    reused: Parts = Parts()
    """Parts that were reused, also of cells of which another part was measured."""

    @property
    def complete(self) -> bool:
        """Whether running the same command again would change nothing."""
        return self.transient == 0


def gather(
    store: ResultStore,
    plan: Plan,
    nuclei: Nuclei,
    *,
    materialization_version: int,
    definitions: str,
    memory_bytes: int | None = None,
    fault: str | None = None,
) -> pa.Table:
    """Find the row of each nucleus, as `somatic.results.table.put_tables` writes it.

    There is one for every nucleus of the plan, and for every other nucleus of the present nucleus table that is done.
    Of several results of a cell that of the highest attempt stands. A cell of the plan that is not done has the reason
    of its latest failure, or says that it was not measured.

    Parameters
    ----------
    store : ResultStore
        Where the chunk files lie.
    plan : Plan
        What had to be done.
    nuclei : Nuclei
        All nuclei of the dataset at this version.
    materialization_version : int
        For the rows of cells without a result.
    definitions : str
        As `materialization_version`.
    memory_bytes : int, optional
        As for `Ledger`.
    fault : str, optional
        What ended the run before it came to all cells, for the rows of the others.

    Returns
    -------
    pyarrow.Table
        Columns of `somatic.results.chunks.CHUNK_SCHEMA`, sorted by nucleus id.

    Raises
    ------
    PermanentError
        A nucleus would be lost or doubled.
    StoreError, StoreUnavailable
        A file could not be read, for good or for now.
    """
    done, missing = _measured(store, plan, nuclei, memory_bytes)
    failed = _failures(store, missing) if len(missing) else CHUNK_SCHEMA.empty_table()
    without = missing[~missing["nucleus_id"].isin(failed["nucleus_id"].to_pylist())]
    no_result = f"not measured yet: {fault}" if fault else NO_RESULT
    made = _rows_without_file(without, plan, materialization_version, definitions, no_result)
    rows = pa.concat_tables([done, failed, made])
    del done
    rows = rows.sort_by("nucleus_id")
    rows = _with_counts_of_today(rows, nuclei)
    _check(rows, plan, nuclei)
    return rows


def _measured(
    store: ResultStore, plan: Plan, nuclei: Nuclei, memory_bytes: int | None
) -> tuple[pa.Table, pd.DataFrame]:
    """The row that stands of each cell that is done, and the rows of the plan of those that are not."""
    rows = _get_rows(store, chunk_names(store))
    missing = _missing(rows, plan, memory_bytes)
    wanted = _wanted(plan, nuclei)
    wanted = wanted[~wanted["nucleus_id"].isin(missing["nucleus_id"])]
    return _latest(rows, wanted, ("attempt", "ok", "memory")), missing


def _missing(rows: pa.Table, plan: Plan, memory_bytes: int | None) -> pd.DataFrame:
    ledger = Ledger(memory_bytes)
    ledger.add(rows)
    return ledger.missing(plan.rows)


def reasons_of(failures: pd.DataFrame) -> dict[str, int]:
    """Why cells failed (`failure_frame`) and how many did, the commonest first; ids make no difference."""
    reasons = failures["reason"].astype(str).str.slice(0, _LONGEST_REASON).map(printable)
    alike = reasons.groupby(reasons.str.replace(r"\d{3,}", "...", regex=True))
    found = {text if len(group) > 1 else group.iloc[0]: len(group) for text, group in alike}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _get_rows(store: ResultStore, names: Sequence[str]) -> pa.Table:
    """Rows of many files; a file of an older version may lack a column, which is null then."""
    parts = [CHUNK_SCHEMA.empty_table()]
    tables = get_tables(store, names, schema=CHUNK_SCHEMA)
    # Thousands of little tables at once would take several times the memory of their rows.
    while some := list(islice(tables, 100)):
        parts.append(shaped(pa.concat_tables(some, promote_options="default"), CHUNK_SCHEMA).combine_chunks())
    rows = pa.concat_tables(parts)
    for name in _DECISIVE:
        if rows[name].null_count:
            raise StoreError(f"{store.url}: a file of measured rows has no {name}; see {CHUNKS} and {ATTEMPTS} there")
    return rows


def _wanted(plan: Plan, nuclei: Nuclei) -> pd.DataFrame:
    """Identity of each nucleus that may have a row: those of the plan as planned, the others as the table has them."""
    planned = plan.rows[list(IDENTITY)]
    present = nuclei.frame.rename(columns={"root_id": "soma_id"})[list(IDENTITY)]
    others = present[~present["nucleus_id"].isin(planned["nucleus_id"])]
    return _exact(pd.concat([planned, others], ignore_index=True))


def _latest(rows: pa.Table, wanted: pd.DataFrame, order: Sequence[str]) -> pa.Table:
    """The row of each wanted cell that comes last in this order."""
    keys = _exact(rows.select(list(IDENTITY)).to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get))
    keys["attempt"] = rows["attempt"].to_numpy()
    keys["ok"] = pc.equal(rows["status"], "ok").to_numpy()
    keys["memory"] = rows["memory_bytes"].fill_null(0).to_numpy()
    keys["finished"] = rows["finished"].cast(pa.int64()).fill_null(0).to_numpy()
    keys["chunk"] = rows["chunk"].to_pylist()
    keys["row"] = np.arange(len(keys))
    keys = keys.merge(wanted, on=list(IDENTITY)).sort_values([*order, "chunk", "row"], kind="stable")
    kept = keys.drop_duplicates("nucleus_id", keep="last")["row"]
    return rows.take(pa.array(kept, type=pa.int64()))


def _exact(frame: pd.DataFrame) -> pd.DataFrame:
    """Identity as int64 only, so that no join goes through floats."""
    return (
        frame.astype({name: pd.Int64Dtype() for name in POSITION}).fillna(dict.fromkeys(POSITION, NULL)).astype("int64")
    )


def _failures(store: ResultStore, missing: pd.DataFrame) -> pa.Table:
    """Latest transient failure of each missing cell at its planned attempt, if it has one."""
    runs = (f"{ATTEMPTS}/{run}" for run in store.names(ATTEMPTS))
    names = [f"{run}/{name}" for run in runs for name in store.names(run)]
    tried = _get_rows(store, names)
    planned = dict(zip(missing["nucleus_id"], missing["attempt"], strict=True))
    recent = [
        attempt >= planned.get(nucleus_id, attempt + 1)
        for nucleus_id, attempt in zip(tried["nucleus_id"].to_pylist(), tried["attempt"].to_pylist(), strict=True)
    ]
    tried = tried.filter(pa.array(recent, type=pa.bool_()))
    return _latest(tried, _exact(missing[list(IDENTITY)]), ("attempt", "finished"))


def _rows_without_file(
    missing: pd.DataFrame, plan: Plan, materialization_version: int, definitions: str, no_result: str
) -> pa.Table:
    """Rows of cells that stand in no file: those to be skipped, and those that no run has come to."""
    reasons = missing["status_reason"].fillna(no_result)
    rows = skipped_rows(missing.assign(status_reason=reasons), plan.resolution_nm, materialization_version, definitions)
    for row in rows:
        row.update(features_versions(), code_version=code_version())
        if row["reason"] == no_result:
            row.update(status="failed", transient=True)
    return pa.Table.from_pylist(rows, schema=CHUNK_SCHEMA)


def _with_counts_of_today(rows: pa.Table, nuclei: Nuclei) -> pa.Table:
    """With n_nuclei_in_segment of the present nucleus table, which may have gained or lost nuclei of other cells."""
    counts = n_nuclei_in_segment(nuclei.frame["root_id"])
    by_id = dict(zip(nuclei.frame["nucleus_id"].tolist(), counts.tolist(), strict=True))
    values = [by_id.get(nucleus_id) or None for nucleus_id in rows["nucleus_id"].to_pylist()]
    index = rows.schema.get_field_index("n_nuclei_in_segment")
    return rows.set_column(index, rows.schema.field(index), pa.array(values, type=pa.int64()))


def _check(rows: pa.Table, plan: Plan, nuclei: Nuclei) -> None:
    """Check that no nucleus is lost or doubled."""
    ids = rows["nucleus_id"].to_numpy()
    doubled = ids[1:][np.diff(ids) == 0]
    lost = np.setdiff1d(plan.rows["nucleus_id"], ids)
    foreign = np.setdiff1d(ids, np.union1d(plan.rows["nucleus_id"], nuclei.frame["nucleus_id"]))
    for what, wrong in (("twice in", doubled), ("not in", lost), ("no nucleus of the dataset but in", foreign)):
        if len(wrong):
            raise PermanentError(
                f"nucleus {wrong[0]} is {what} the collected table ({len(wrong)} such); this is a fault of somatic, "
                f"please report it; {FEATURES} was left as it was"
            )


def of_plan(rows: pa.Table, plan: Plan) -> pa.Table:
    """Those of gathered rows that a plan asked for."""
    return rows.filter(pc.is_in(rows["nucleus_id"], pa.array(plan.rows["nucleus_id"])))


def count(rows: pa.Table) -> Counts:
    """Count gathered rows."""
    return Counts(
        total=rows.num_rows,
        ok=_number(pc.equal(rows["status"], "ok")),
        failed=_number(pc.equal(rows["status"], "failed")),
        skipped=_number(pc.equal(rows["status"], "skipped")),
        transient=_number(rows["transient"]),
        unmeasured=_number(pc.and_(pc.is_null(rows["chunk"]), rows["transient"])),
        carried=_number(pc.equal(rows["source"], "carried")),
        reused=Parts.of(rows, "reused"),
    )


def failure_frame(rows: pa.Table) -> pd.DataFrame:
    """Those of gathered rows that failed: `nucleus_id`, `soma_id` int64, `reason`, `error_class`, `transient`."""
    failed = rows.filter(pc.equal(rows["status"], "failed"))
    return failed.select(_FAILURE_COLUMNS).to_pandas()


def _number(mask: pa.ChunkedArray) -> int:
    return pc.sum(mask).as_py() or 0
