"""Flags: cells whose numbers a person should look at before using them, by rules that docs/results.md lists."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from somatic.features import COLUMNS, Column
from somatic.storage.parquet import parquet_bytes
from somatic.storage.places import FLAGS
from somatic.storage.store import ResultStore

MARKS = (0.001, 0.999)
"""Shares of the cells at which the marks of a feature lie."""
CELLS_FOR_MARKS = 1000
"""With fewer cells the marks would be the smallest and the largest value, whatever these are."""
MAX_UNLABELLED = 0.2
MOST_OF_NUCLEUS = 0.5
MAX_MESH_DEVIATION = 0.01

FLAG_COLUMNS = (
    Column("several_nuclei", pa.bool_(), "", "another nucleus of the query has the same root id", nullable=False),
    Column(
        "several_somata", pa.bool_(), "", "n_somata is over 1: two somata in one segment (corrected)", nullable=False
    ),
    Column(
        "nucleus_apart",
        pa.bool_(),
        "",
        "frac_nucleus_in_segment is below 0.5: the nucleus is segmented apart (corrected)",
        nullable=False,
    ),
    Column("soma_volume_beyond", pa.bool_(), "", "soma_volume_um lies beyond the marks", nullable=False),
    Column("nucleus_volume_beyond", pa.bool_(), "", "nucleus_volume_um lies beyond the marks", nullable=False),
    Column("unlabelled", pa.bool_(), "", "frac_unlabelled is over 0.2", nullable=False),
    Column("clipped", pa.bool_(), "", "the nucleus lies within 3 um of the bounds of its layer", nullable=False),
    Column("nucleus_in_pieces", pa.bool_(), "", "n_nucleus_pieces is over 1: one of several was measured", nullable=False),
    Column(
        "nucleus_mesh_changed",
        pa.bool_(),
        "",
        "nucleus_mesh_deviation is over 0.01: the nucleus mesh was closed with a change of its volume or area",
        nullable=False,
    ),
    Column(
        "nucleus_off_centre",
        pa.bool_(),
        "",
        "centre_to_nucleus_nm is over 0: the nucleus does not hold its own position",
        nullable=False,
    ),
)
"""Why to look at a cell; each is false where the number that it asks for is null."""

_FLAG_SCHEMA = pa.schema([COLUMNS[0].field, *(column.field for column in FLAG_COLUMNS)])


def marks(values: npt.NDArray[np.float64]) -> tuple[float, float] | None:
    """Find the values of a feature that one in a thousand lies below, and above.

    Parameters
    ----------
    values : (n,) float
        Those that could be measured.

    Returns
    -------
    (float, float) or None
        Both are values that occur. None for fewer than `CELLS_FOR_MARKS` values.
    """
    if len(values) < CELLS_FOR_MARKS:
        return None
    low, high = np.quantile(values, MARKS, method="inverted_cdf")
    return float(low), float(high)


def measured_values(features: pa.Table, name: str) -> npt.NDArray[np.float64]:
    """The values of a numeric feature without the nulls, (n,) float."""
    return features[name].drop_null().cast(pa.float64(), safe=False).to_numpy()


def find_flags(features: pa.Table) -> pa.Table:
    """Flag the cells of a table of features.

    Parameters
    ----------
    features : pyarrow.Table
        Columns of `somatic.features.SCHEMA`. The marks are those of this table.

    Returns
    -------
    pyarrow.Table
        `nucleus_id` and the columns of `FLAG_COLUMNS`, a row for each row of the table, in its order.
    """
    found = {
        "several_nuclei": pc.and_(pc.greater(features["n_nuclei_in_segment"], 1), pc.greater(features["soma_id"], 0)),
        "several_somata": pc.greater(features["n_somata"], 1),
        "nucleus_apart": pc.less(features["frac_nucleus_in_segment"], MOST_OF_NUCLEUS),
        "soma_volume_beyond": _beyond(features, "soma_volume_um"),
        "nucleus_volume_beyond": _beyond(features, "nucleus_volume_um"),
        "unlabelled": pc.greater(features["frac_unlabelled"], MAX_UNLABELLED),
        "clipped": features["nucleus_is_clipped"],
        "nucleus_in_pieces": pc.greater(features["n_nucleus_pieces"], 1),
        "nucleus_mesh_changed": pc.greater(features["nucleus_mesh_deviation"], MAX_MESH_DEVIATION),
        "nucleus_off_centre": pc.greater(features["centre_to_nucleus_nm"], 0),
    }
    flags = [pc.fill_null(found[column.name], False) for column in FLAG_COLUMNS]
    return pa.Table.from_arrays([features["nucleus_id"], *flags], schema=_FLAG_SCHEMA)


def put_flags(store: ResultStore, features: pa.Table) -> pa.Table:
    """Write flags.parquet beside a table of features, and give it.

    Raises
    ------
    StoreError, StoreUnavailable
        It was not written, for good or for now.
    """
    flags = find_flags(features)
    store.put(FLAGS, parquet_bytes(flags))
    return flags


def count_flags(flags: pa.Table) -> dict[str, int]:
    """Of how many nuclei each flag is true."""
    return {column.name: pc.sum(flags[column.name]).as_py() or 0 for column in FLAG_COLUMNS}


def _beyond(features: pa.Table, name: str) -> pa.ChunkedArray:
    found = marks(measured_values(features, name))
    if found is None:
        return pa.chunked_array([pa.repeat(pa.scalar(False), features.num_rows)])
    return pc.or_(pc.less(features[name], found[0]), pc.greater(features[name], found[1]))
