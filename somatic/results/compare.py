"""Two tables of features side by side: how far each feature deviates, and on which cells most."""

import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.csv

from somatic.arrow_files import read_arrow
from somatic.csv_files import encoding_fault, header_fault, tidy_names
from somatic.errors import DatasetError, one_line, quoted
from somatic.features import MEASURED
from somatic.results.released import CONVERTED, is_released, to_our_units
from somatic.storage.parquet import table_from_parquet
from somatic.storage.places import FEATURES
from somatic.storage.store import ResultStore
from somatic.table_places import unzipped

_EXACT_IN_FLOAT = 2**53


@dataclass(frozen=True, eq=False)
class Comparison:
    """A table of features against a reference.

    Attributes
    ----------
    features : pandas.DataFrame
        One row a feature that both have, in the order of the table of features:
        `n` nuclei compared, `n_different` with unequal values; `only_results`, `only_reference` nuclei where just one
        side has a value;
        `median_rel`, `p95_rel`, `max_rel` deviation relative to the reference, `median_abs`, `p95_abs`, `max_abs` in
        the unit of the feature; `worst`, up to three nucleus ids that deviate most, as a tuple.
        A deviation is NaN when nothing was compared, and infinite relative to a reference of 0. For a flag 0 means
        equal and 1 different.
    n_both, n_only_results, n_only_reference : int
        Nuclei in both tables, and in one only.
    absent_results, absent_reference : tuple of str
        Features that a table lacks.
    released_results, released_reference : bool
        Whether a table is the one that Elabbady et al. released. Its units were converted to ours; its values are
        normalised and deviate from raw ones by up to 10 %.
    """

    features: pd.DataFrame
    n_both: int
    n_only_results: int
    n_only_reference: int
    absent_results: tuple[str, ...]
    absent_reference: tuple[str, ...]
    released_results: bool
    released_reference: bool


def compare(results: str | pd.DataFrame, reference: str | pd.DataFrame) -> Comparison:
    """Compare two tables of features, nucleus by nucleus.

    Parameters
    ----------
    results, reference : str or pandas.DataFrame
        A table, or the URL of one (.parquet, .feather, .csv, .csv.gz), or the URL of a folder with features.parquet.
        It must have `nucleus_id` and may have any of the features by the names, and in the units, of
        `somatic.features.COLUMNS`. The released table is recognised by its columns and converted to these units.

    Raises
    ------
    DatasetError
        A table cannot be read, has no nucleus_id, names a nucleus twice, or holds ids that lost digits.
    StoreError, StoreUnavailable
        The place of a table could not be read, for good or for now.
    """
    ours, released_results = _features(results, "the first table")
    theirs, released_reference = _features(reference, "the second table")
    both = ours.index.intersection(theirs.index, sort=True)
    left, right = ours.loc[both], theirs.loc[both]
    shared = [name for name in MEASURED if name in ours.columns and name in theirs.columns]
    rows = [_deviation(name, left[name], right[name], both.to_numpy()) for name in shared]
    columns = ["feature", "n", "n_different", "only_results", "only_reference", *_STATISTICS, "worst"]
    return Comparison(
        features=pd.DataFrame(rows, columns=columns).set_index("feature"),
        n_both=len(both),
        n_only_results=len(ours) - len(both),
        n_only_reference=len(theirs) - len(both),
        absent_results=tuple(name for name in MEASURED if name not in ours.columns),
        absent_reference=tuple(name for name in MEASURED if name not in theirs.columns),
        released_results=released_results,
        released_reference=released_reference,
    )


_STATISTICS = ("median_rel", "p95_rel", "max_rel", "median_abs", "p95_abs", "max_abs")


def _deviation(name: str, ours: pd.Series, theirs: pd.Series, ids: npt.NDArray[np.int64]) -> dict[str, object]:
    a, b = _numbers(name, ours), _numbers(name, theirs)
    known = ~np.isnan(a) & ~np.isnan(b)
    absolute = np.abs(a[known] - b[known])
    flag = pd.api.types.is_bool_dtype(ours.dropna().infer_objects())
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = absolute if flag else np.where(absolute == 0, 0, absolute / np.abs(b[known]))
    order = np.lexsort((ids[known], -absolute, -relative))[:3]
    return {
        "feature": name,
        "n": int(known.sum()),
        "n_different": int((absolute > 0).sum()),
        "only_results": int((~np.isnan(a) & np.isnan(b)).sum()),
        "only_reference": int((np.isnan(a) & ~np.isnan(b)).sum()),
        **dict(zip(_STATISTICS, (*_summary(relative), *_summary(absolute)), strict=True)),
        "worst": tuple(int(ids[known][i]) for i in order if absolute[i] > 0),
    }


def _summary(deviation: npt.NDArray[np.float64]) -> Sequence[float]:
    """Median, 95th percentile and maximum; each is a value that occurs, so that infinities do no harm."""
    if not len(deviation):
        return (np.nan, np.nan, np.nan)
    return np.percentile(deviation, (50, 95, 100), method="inverted_cdf").tolist()


def _numbers(name: str, values: pd.Series) -> npt.NDArray[np.float64]:
    try:
        numbers = pd.to_numeric(values.infer_objects()).to_numpy(dtype=np.float64, na_value=np.nan)
        return np.where(np.isfinite(numbers), numbers, np.nan)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"column {name} holds something else than numbers: {error}") from error


def _features(table: str | pd.DataFrame, where: str) -> tuple[pd.DataFrame, bool]:
    """Columns of a table that are features, with nucleus_id as an exact index; whether it is the released table."""
    if isinstance(table, str):
        table, where = _read(table)
    if table.columns.duplicated().any():
        raise DatasetError(f"{where} has two columns {quoted(table.columns[table.columns.duplicated()][0])}")
    if "nucleus_id" not in table.columns:
        found = ", ".join(map(str, table.columns[:8])) or "none"
        raise DatasetError(f"{where} has no column nucleus_id; it has {found}")
    ids = _exact_ids(table["nucleus_id"], where)
    doubled = ids[ids.duplicated()]
    if len(doubled):
        raise DatasetError(f"{where} has nucleus_id {doubled[0]} more than once; keep one row a nucleus")
    features = table[[name for name in MEASURED if name in table.columns]].set_axis(ids, axis=0)
    if not is_released(table.columns):
        return features, False
    numbers = {name: _numbers(name, features[name]) for name in CONVERTED if name in features}
    return to_our_units(features.assign(**numbers)), True


def _exact_ids(values: pd.Series, where: str) -> pd.Index:
    if values.isna().any():
        raise DatasetError(f"{where} has {int(values.isna().sum())} rows without a nucleus_id; leave them out")
    if pd.api.types.is_float_dtype(values) and not (values.abs() < _EXACT_IN_FLOAT).all():
        raise DatasetError(f"{where} holds nucleus_id as float, which loses digits; store it as int64")
    try:
        ids = values.to_numpy()
        exact = ids.astype(np.int64)
        if (exact != ids).any():
            raise ValueError("not every id is a whole number below 2^63")
    except (TypeError, ValueError, OverflowError) as error:
        raise DatasetError(f"{where} holds nucleus_id that are no int64: {error}") from error
    return pd.Index(exact, name="nucleus_id")


def _read(url: str) -> tuple[pd.DataFrame, str]:
    """Table at a URL, and what it is called."""
    if not url.lower().endswith((".parquet", ".feather", ".csv", ".csv.gz")):
        url = f"{url.rstrip('/')}/{FEATURES}"
    folder, _, name = url.rpartition("/")
    store = ResultStore(folder or ("/" if url.startswith("/") else "."))
    data = store.get(name)
    where = store.url_of(name)
    try:
        if name.lower().endswith(".parquet"):
            return _to_pandas(table_from_parquet(data, where)), where
        if name.lower().endswith(".feather"):
            return _to_pandas(read_arrow(data)), where
        text = unzipped(io.BytesIO(data)) if name.lower().endswith(".gz") else pa.BufferReader(data)
        table = pyarrow.csv.read_csv(text)
    except MemoryError:
        # That of Arrow is an ArrowException as well.
        raise
    except (pa.ArrowException, ValueError, OSError, EOFError, zlib.error) as error:
        fault = encoding_fault(data) or f"cannot be read: {one_line(error)}"
        raise DatasetError(f"{where} {fault}") from error
    if wrong := header_fault(table.column_names):
        raise DatasetError(f"{where} {wrong}")
    return _to_pandas(table.rename_columns(tidy_names(table.column_names))), where


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    """As pandas, without an index that pandas may have stored, ids exact."""
    return table.to_pandas(
        ignore_metadata=True, types_mapper={pa.int64(): pd.Int64Dtype(), pa.uint64(): pd.UInt64Dtype()}.get
    )
