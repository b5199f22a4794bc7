"""Which nuclei, in which order, in which chunks."""

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from somatic.errors import PermanentError, StoreError
from somatic.features import Row
from somatic.planning.hilbert import hilbert_index
from somatic.storage.parquet import parquet_bytes, table_from_parquet
from somatic.storage.store import ResultStore
from somatic.tables import Nuclei, Resolution

NO_ROOT = "no root id at this version"
NO_POSITION = "no position in the table"

POSITION = ("x_vx", "y_vx", "z_vx")
NULL = np.iinfo(np.int64).min
"""Stands for a missing coordinate where only integers can stand."""

_COLUMNS = ("nucleus_id", "soma_id", *POSITION, "chunk", "n_nuclei_in_segment", "attempt", "status_reason")
_SCHEMA = pa.schema(
    [
        pa.field(name, pa.string() if name == "status_reason" else pa.int64(), name in (*POSITION, "status_reason"))
        for name in _COLUMNS
    ]
)


@dataclass(frozen=True, eq=False)
class Plan:
    """The nuclei of one extraction, cut into chunks.

    Attributes
    ----------
    rows : pandas.DataFrame
        One a nucleus, along the curve, those to be skipped last:
        `nucleus_id` int64; `soma_id` int64, the root id, 0 for none; `x_vx`, `y_vx`, `z_vx` Int64, centre in voxels of
        the nucleus table, NA for none; `chunk` int64, from 0, -1 for a nucleus that is skipped or was done when this
        was planned; `n_nuclei_in_segment` int64, nuclei of the whole table that share the root id, 0 without a root;
        `attempt` int64, from 1; `status_reason` object, why it is skipped, else None.
    resolution_nm : (3,) float
        Size of a voxel of the centres.
    hash : str
        16 hexadecimal digits, of the rows and the resolution.
    """

    rows: pd.DataFrame
    resolution_nm: Resolution
    hash: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hash", _hash(self.rows, self.resolution_nm))

    @property
    def n_chunks(self) -> int:
        """Number of chunks; they are numbered from 0."""
        return int(self.rows["chunk"].max()) + 1 if len(self.rows) else 0

    @property
    def name(self) -> str:
        """Name of the plan's file in a store."""
        return _file_name(self.hash)


def make_plan(
    nuclei: Nuclei,
    *,
    radius_nm: float,
    chunk: int = 10,
    limit: int | None = None,
    sample: int | None = None,
    seed: int = 0,
    ids: Collection[int] | None = None,
    attempts: Mapping[int, int] | None = None,
    is_done: Callable[[pd.DataFrame], npt.NDArray[np.bool_]] | None = None,
) -> Plan:
    """Choose nuclei, put them in an order in which neighbours follow each other, and cut it into chunks.

    Parameters
    ----------
    nuclei : Nuclei
        All nuclei of the dataset at this version.
    radius_nm : float
        Half the side of a cutout; nuclei closer than this to each other count as at one place.
    chunk : int
        Cells in a chunk; the last one may have fewer.
    limit : int, optional
        Only the first so many by nucleus id.
    sample : int, optional
        Only so many, chosen by a hash of the nucleus id and `seed`: the same ones whatever the order of the table,
        and a smaller sample is part of a larger one.
    ids : collection of int, optional
        Only these nuclei; `limit` or `sample` then choose among them.
    attempts : mapping of int to int, optional
        Number of the attempt of some nuclei (`Ledger.next_attempts`), 1 for the others.
    is_done : callable, optional
        Which rows need nothing any more (`Ledger.is_done`): they are in no chunk, so that chunks and shards are full
        of work when little is left.

    Raises
    ------
    PermanentError
        An id is not in the table, or a number is not positive.
    """
    for name, number in (("chunk", chunk), ("limit", limit), ("sample", sample)):
        if number is not None and number < 1:
            raise PermanentError(f"{name} is {number}; it must be 1 or more")
    if limit is not None and sample is not None:
        raise PermanentError(f"limit {limit} and sample {sample} are both given; choose one of them")
    if ids is not None:
        check_known(nuclei, ids)
    rows = _all_rows(nuclei)
    rows["attempt"] = rows["nucleus_id"].map(dict(attempts or {})).fillna(1).astype(np.int64)
    order = _along_curve(rows, nuclei.resolution_nm, radius_nm)
    chosen = _chosen(rows["nucleus_id"], limit, sample, seed, ids)
    order = order[chosen[order]]
    rows = rows.iloc[order].reset_index(drop=True)
    measured = rows["status_reason"].isna().to_numpy()
    if is_done is not None:
        measured &= ~is_done(rows)
    rows["chunk"] = _chunk_numbers(measured, chunk)
    return Plan(rows[list(_COLUMNS)], nuclei.resolution_nm)


def with_nothing_done(plan: Plan, chunk: int) -> pd.DataFrame:
    """Rows of a plan as they were if nothing had been done when it was made; `chunk` as for `make_plan`."""
    return plan.rows.assign(chunk=_chunk_numbers(plan.rows["status_reason"].isna().to_numpy(), chunk))


def check_known(nuclei: Nuclei, ids: Iterable[int]) -> None:
    """Check that every id is a nucleus of the table.

    Raises
    ------
    PermanentError
        Some are not; up to five are named.
    """
    known = set(nuclei.frame["nucleus_id"].tolist())
    unknown = sorted(set(ids) - known)
    if unknown:
        named = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        raise PermanentError(
            f"no such nucleus in the table of {len(known)} nuclei: {named}; check the ids and the version"
        )


def save_plan(store: ResultStore, plan: Plan) -> None:
    """Write a plan; one that is there already stays as it is.

    Raises
    ------
    StoreError, StoreUnavailable
        It was not written, for good or for now.
    """
    metadata = {"resolution_nm": " ".join(map(repr, plan.resolution_nm))}
    columns = [pa.array(plan.rows[name], type=_SCHEMA.field(name).type, from_pandas=True) for name in _COLUMNS]
    table = pa.Table.from_arrays(columns, schema=_SCHEMA.with_metadata(metadata))
    store.put_new(plan.name, parquet_bytes(table))


def load_plan(store: ResultStore, plan_hash: str) -> Plan:
    """Read a plan by its hash.

    Raises
    ------
    StoreError, StoreUnavailable
        There is no such plan, its file is damaged, or it could not be read for now.
    """
    name = _file_name(plan_hash)
    where = store.url_of(name)
    table = table_from_parquet(store.get(name), where, _COLUMNS, _SCHEMA)
    rows = pd.DataFrame({name: table[name].to_pandas(types_mapper=_nullable) for name in _COLUMNS})
    integers = {name: np.int64 for name in _COLUMNS if not _SCHEMA.field(name).nullable}
    plan = Plan(rows.astype(integers).astype({"status_reason": object}), _resolution_of(table, where))
    # The second because whoever writes a plan can give it the name of what it holds.
    if plan.hash != plan_hash or not plan.rows["chunk"].between(-1, len(rows) - 1).all():
        raise StoreError(f"{where} does not hold what its name says; delete it and plan again")
    return plan


def _resolution_of(table: pa.Table, where: str) -> Resolution:
    try:
        x_nm, y_nm, z_nm = map(float, (table.schema.metadata or {})[b"resolution_nm"].split())
    except (LookupError, ValueError):
        raise StoreError(f"{where} does not say how large a voxel is; delete it and plan again") from None
    if not all(0 < size_nm < math.inf for size_nm in (x_nm, y_nm, z_nm)):
        raise StoreError(f"{where} has voxels of {x_nm} x {y_nm} x {z_nm} nm; delete it and plan again")
    return x_nm, y_nm, z_nm


def skipped_rows(
    rows: pd.DataFrame, resolution_nm: Resolution, materialization_version: int, definitions: str
) -> list[Row]:
    """Rows of the table for the nuclei among `rows` of a plan that are to be skipped, for `put_rows`."""
    skipped = rows[rows["status_reason"].notna()]
    made: list[Row] = []
    for nucleus_id, soma_id, *centre_vx, attempt, reason in zip(
        *(skipped[name].tolist() for name in ("nucleus_id", "soma_id", *POSITION, "attempt", "status_reason")),
        strict=True,
    ):
        row: Row = {
            "nucleus_id": nucleus_id,
            "soma_id": soma_id,
            "materialization_version": materialization_version,
            "definitions": definitions,
            "status": "skipped",
            "reason": reason,
            "attempt": attempt,
            "transient": False,
        }
        for axis, position_vx, size_nm in zip("xyz", centre_vx, resolution_nm, strict=True):
            if position_vx is not pd.NA:
                row[f"{axis}_vx"] = position_vx
                row[f"centre_{axis}_nm"] = position_vx * size_nm
        made.append(row)
    return made


def n_nuclei_in_segment(root_ids: pd.Series) -> npt.NDArray[np.int64]:
    """For each nucleus of the whole table, how many share its root id, itself included; 0 without a root."""
    counts = root_ids.map(root_ids.value_counts())
    return np.where(root_ids == 0, 0, counts).astype(np.int64)


def _all_rows(nuclei: Nuclei) -> pd.DataFrame:
    rows = nuclei.frame.rename(columns={"root_id": "soma_id"})
    rows["n_nuclei_in_segment"] = n_nuclei_in_segment(rows["soma_id"])
    reasons = np.full(len(rows), None, dtype=object)
    reasons[rows[list(POSITION)].isna().any(axis=1)] = NO_POSITION
    reasons[rows["soma_id"] == 0] = NO_ROOT
    rows["status_reason"] = reasons
    return rows


def _chunk_numbers(measured: npt.NDArray[np.bool_], chunk: int) -> npt.NDArray[np.int64]:
    return np.where(measured, (np.cumsum(measured) - 1) // chunk, -1)


def _along_curve(rows: pd.DataFrame, resolution_nm: Resolution, radius_nm: float) -> npt.NDArray[np.int64]:
    """Order of all rows: cells along a Hilbert curve, those at one place by id, then those to be skipped by id."""
    measured = rows["status_reason"].isna().to_numpy()
    place = np.full(len(rows), np.iinfo(np.int64).max)
    if measured.any():
        centres_vx = rows.loc[measured, list(POSITION)].to_numpy(dtype=np.int64)
        centres_nm = centres_vx * np.asarray(resolution_nm)
        cells = ((centres_nm - centres_nm.min(axis=0)) // radius_nm).astype(np.int64)
        bits = max(1, int(cells.max()).bit_length())
        shift = max(0, bits - 20)
        place[measured] = hilbert_index(cells >> shift, bits - shift)
    return np.lexsort((rows["nucleus_id"].to_numpy(), place))


def _chosen(
    nucleus_ids: pd.Series, limit: int | None, sample: int | None, seed: int, ids: Collection[int] | None
) -> npt.NDArray[np.bool_]:
    """Which rows are asked for, (n,) bool."""
    chosen = np.ones(len(nucleus_ids), dtype=bool)
    every = nucleus_ids.to_numpy()
    if ids is not None:
        chosen = nucleus_ids.isin(list(ids)).to_numpy()
    number, rank = (limit, every) if sample is None else (sample, _scattered(every, seed))
    if number is not None:
        candidates = np.flatnonzero(chosen)
        kept = candidates[np.lexsort((every[candidates], rank[candidates]))[:number]]
        chosen = np.zeros(len(every), dtype=bool)
        chosen[kept] = True
    return chosen


def _scattered(ids: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.uint64]:
    """A number for each id that depends on nothing but the id and the seed."""
    key = seed.to_bytes(8, "little", signed=True)
    digests = b"".join(hashlib.blake2b(i.tobytes(), digest_size=8, key=key).digest() for i in ids.astype("<i8"))
    return np.frombuffer(digests, dtype="<u8")


def _hash(rows: pd.DataFrame, resolution_nm: Resolution) -> str:
    digest = hashlib.sha256(np.asarray(resolution_nm, dtype="<f8").tobytes())
    for name in _COLUMNS[:-1]:
        values = rows[name].fillna(NULL) if name in POSITION else rows[name]
        digest.update(values.to_numpy(dtype="<i8").tobytes())
    digest.update("\n".join("" if pd.isna(text) else text for text in rows["status_reason"]).encode())
    return digest.hexdigest()[:16]


def _file_name(plan_hash: str) -> str:
    return f"plans/{plan_hash}.parquet"


def _nullable(arrow_type: pa.DataType) -> pd.api.extensions.ExtensionDtype | None:
    return pd.Int64Dtype() if arrow_type == pa.int64() else None
