"""Nuclei and synapses from files, for volumes that CAVE does not serve."""

import contextlib
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from somatic.arrow_files import column_names, read_arrow, read_parquet
from somatic.csv_files import encoding_fault, header_fault, tidy_names
from somatic.dataset import FileSource
from somatic.errors import DatasetError, TransientError, one_line, quoted
from somatic.protocols import protocol_of
from somatic.storage.faults import is_fault_of_a_place, is_passing
from somatic.table_places import open_table
from somatic.tables import (
    OTHER_IDS,
    Nuclei,
    Resolution,
    Synapses,
    check_own_ids,
    no_such_column,
    nuclei_from_raw,
    position_columns,
    synapses_from_raw,
)
from somatic.urls import url_fault

_INTEGERS = {
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(),
    pa.uint16(): pd.UInt16Dtype(),
    pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
}
"""A column with gaps would otherwise become float64 and lose the last digits of its ids."""

_NULLS = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "<NA>"]
_CSV = pa.csv.ParseOptions(newlines_in_values=True)
"""A column of remarks, which we do not read, may have line breaks."""

_LONGEST_POSITION = 200
_NUMBER = rf"([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?|{'|'.join(re.escape(null) for null in _NULLS if null)})"
_POINT = rf"^\s*[\[(]?\s*{_NUMBER}[,\s]+{_NUMBER}[,\s]+{_NUMBER}\s*[\])]?\s*$"


class FileTables:
    """The tables of a dataset of files; they hold one version.

    Attributes
    ----------
    version : int
        The version that the files are said to hold.
    timestamp : None
        Files do not say when they were true.
    nucleus_segmentation : str or None
        URL of the nucleus layer.
    notes : tuple of str
        As for `somatic.cave.tables.CaveTables`; files have none.
    """

    notes: tuple[str, ...] = ()
    timestamp: datetime | None = None

    def __init__(self, files: FileSource) -> None:
        self._files = files
        self.version = files.version
        self.nucleus_segmentation = files.nucleus_segmentation.url if files.nucleus_segmentation else None

    @property
    def synapse_resolution_nm(self) -> Resolution | None:
        """Size of a voxel of the positions of synapses along x, y, z; None when the dataset has no synapses."""
        if self._files.synapses is None:
            return None
        return self._files.synapse_resolution_nm or self._files.resolution_nm

    def nuclei(self) -> Nuclei:
        """All nuclei.

        Raises
        ------
        DatasetError
            The file is not there, cannot be read, or is not a table of nuclei.
        """
        place = self._files.nuclei
        raw = read_columns(place, ids=["id", "pt_root_id"], positions=["pt_position"], optional_ids=OTHER_IDS)
        check_own_ids(raw, shown_place(place))
        return nuclei_from_raw(raw, resolution_nm=self._files.resolution_nm, where=shown_place(place))

    def synapses(self, root_ids: npt.ArrayLike, lower_nm: npt.ArrayLike, upper_nm: npt.ArrayLike) -> Synapses | None:
        """Synapses onto any of some roots whose post_pt lies in a box.

        Parameters
        ----------
        root_ids : (n,) int64
            Postsynaptic roots; 0 means none and is passed over.
        lower_nm, upper_nm : (3,) float
            The box in nm, inclusive, widened to whole voxels.

        Returns
        -------
        Synapses or None
            None when the dataset has no synapses.

        Raises
        ------
        DatasetError
            The file is not there, cannot be read, or is not a table of synapses.
        """
        if self._all_synapses is None:
            return None
        frame, resolution_nm = self._all_synapses.frame, self._all_synapses.resolution_nm
        roots = np.unique(np.asarray(root_ids))
        if roots.size and roots.dtype.kind not in "iu":
            raise TypeError(f"root ids must be integers, got an array of {roots.dtype}")
        roots = roots[roots > 0].astype(np.int64)
        post = frame["post_root_id"].to_numpy()
        starts, stops = np.searchsorted(post, roots, "left"), np.searchsorted(post, roots, "right")
        rows = [np.arange(start, stop) for start, stop in zip(starts, stops, strict=True)]
        found = frame.iloc[np.concatenate([*rows, np.empty(0, dtype=np.int64)])]
        points = found[["post_x_vx", "post_y_vx", "post_z_vx"]].to_numpy()
        lower_vx = np.floor(np.asarray(lower_nm, dtype=np.float64) / resolution_nm)
        upper_vx = np.ceil(np.asarray(upper_nm, dtype=np.float64) / resolution_nm)
        inside = np.all((points >= lower_vx) & (points <= upper_vx), axis=1)
        return Synapses(found[inside].reset_index(drop=True), resolution_nm)

    @cached_property
    def _all_synapses(self) -> Synapses | None:
        """Every synapse, sorted by root so that those of a cell lie together."""
        place = self._files.synapses
        if place is None:
            return None
        raw = read_columns(
            place,
            ids=["id", "pre_pt_root_id", "post_pt_root_id"],
            any_positions=["ctr_pt_position", "post_pt_position"],
            optional_numbers=["size"],
        )
        if raw.empty:
            raise DatasetError(f"{shown_place(place)}: the table is empty; leave synapses out where there are none")
        resolution_nm = self._files.synapse_resolution_nm or self._files.resolution_nm
        return synapses_from_raw(raw, resolution_nm=resolution_nm, where=shown_place(place))


def read_columns(
    place: str,
    *,
    ids: Sequence[str],
    positions: Sequence[str] = (),
    any_positions: Sequence[str] = (),
    optional_ids: Sequence[str] = (),
    optional_numbers: Sequence[str] = (),
) -> pd.DataFrame:
    """Read some columns of a CSV, Parquet or Feather file, and no others.

    Parameters
    ----------
    place : str
        Path, or URL of a protocol in `somatic.protocols.READABLE`, that ends in .csv, .csv.gz, .parquet or .feather.
    ids : sequence of str
        Columns of ids, read without passing through floats.
    positions, any_positions : sequence of str
        Positions, each one column of (x, y, z), as lists or as text, or three columns `<position>_x`, `_y`, `_z`; all
        of the former, and of the latter at least one.
    optional_ids : sequence of str
        Columns of ids that the file may lack, or have with something else in it, which is not read then.
    optional_numbers : sequence of str
        Columns of numbers that the file may lack.

    Returns
    -------
    pandas.DataFrame
        Ids as the file holds them (from CSV: UInt64), positions as `<position>_x`, `_y`, `_z` float64.

    Raises
    ------
    DatasetError
        The file is missing, unreadable, of an unknown kind, or lacks a column.
    TransientError
        A server did not answer.
    """
    where = shown_place(place)
    kind = _kind(where)
    with opened(place, kind) as file:
        of_file = _column_names(file, kind)
    names = tidy_names(of_file) if kind == "csv" else of_file
    if kind == "csv" and (fault := header_fault(of_file)):
        raise DatasetError(f"{where}: it {fault}")
    wanted = list(ids)
    for column in ids:
        if column not in names:
            raise no_such_column(column, names, where)
    if any_positions and not any(position_columns(names, position) for position in any_positions):
        raise no_such_column(" or ".join(any_positions), names, where)
    for position in (*positions, *any_positions):
        columns = position_columns(names, position)
        if not columns and position in positions:
            raise no_such_column(f"{position}, nor {position}_x, {position}_y, {position}_z", names, where)
        wanted += columns
    maybe_ids = [column for column in optional_ids if column in names]
    wanted += [*maybe_ids, *(column for column in optional_numbers if column in names)]
    for column in wanted:
        if names.count(column) > 1:
            raise DatasetError(f"{where}: the table has two columns {quoted(column)}; keep one of them")
    with opened(place, kind) as file:
        if kind == "csv":
            table = _read_csv(file, dict(zip(names, of_file, strict=True)), wanted, ids, optional_numbers)
        else:
            table = read_parquet(file, wanted) if kind == "parquet" else read_arrow(file, wanted)
    if kind == "csv":
        for column in ids:
            table = _replace(table, column, {column: _ids_from_text(table[column], column, where)})
    for column in maybe_ids:
        try:
            found = _ids_from_text(table[column], column, where) if kind == "csv" else table[column]
        except DatasetError:
            found = None
        table = _replace(table, column, {} if found is None else {column: found})
    for position in (*positions, *any_positions):
        if position in table.column_names:
            table = _replace(table, position, _split(table[position], position, where))
    return table.to_pandas(types_mapper=_INTEGERS.get, ignore_metadata=True, split_blocks=True, self_destruct=True)


def _kind(where: str) -> str:
    ending = re.search(r"\.(csv|parquet|feather)(\.gz)?$", where.lower())
    if ending is None or (ending[2] and ending[1] != "csv"):
        raise DatasetError(f"{where}: unknown kind of file; expected .csv, .csv.gz, .parquet or .feather")
    return ending[1]


@contextmanager
def opened(place: str, kind: str) -> Iterator[IO[bytes]]:
    """Open a file of a table for reading, and have whatever goes wrong with it inside be one line that names it.

    Parameters
    ----------
    place : str
        As for `read_columns`, with any ending.
    kind : str
        What it is read as.

    Raises
    ------
    DatasetError
        There is no such file, or it cannot be read as this.
    TransientError
        A server did not answer.
    """
    where = shown_place(place)
    if fault := url_fault(place):
        raise DatasetError(f"{where}: {fault}")
    try:
        with open_table(place) as file:
            yield file
    except DatasetError:
        raise
    except MemoryError:
        # Also that of Arrow, which is an ArrowException as well.
        raise
    except (pa.ArrowException, ImportError, ValueError, EOFError, zlib.error) as error:
        if kind == "csv" and (fault := encoding_fault(_head(place))):
            raise DatasetError(f"{where}: it {fault}") from error
        raise DatasetError(f"{where}: cannot be read as {kind}: {one_line(error)}") from error
    except Exception as error:
        if not is_fault_of_a_place(error):
            raise
        raise _place_error(error, place) from error


def _head(place: str) -> bytes:
    """The first bytes of a file that could be opened before; none where it cannot now."""
    with contextlib.suppress(Exception), open_table(place) as file:
        return file.read(4)
    return b""


def _place_error(error: Exception, place: str) -> DatasetError | TransientError:
    """What keeps a file from being opened or read."""
    where = shown_place(place)
    # Over HTTP fsspec finds no file whatever happened; the reason is behind it.
    cause: BaseException | None = error
    while isinstance(cause, FileNotFoundError):
        cause = cause.__cause__
    if type(cause).__module__.startswith("aiohttp"):
        error = cast(Exception, cause)
    if isinstance(error, FileNotFoundError) or getattr(error, "status", None) in (404, 410):
        return DatasetError(f"{where}: no such file")
    if isinstance(error, PermissionError):
        return DatasetError(f"{where}: no permission to read it")
    # Some clients repeat the whole URL, whose query may be a signature.
    said = re.sub(r"\?[^\s'\"]+", "", one_line(error)) if "?" in place else one_line(error)
    if is_passing(error):
        return TransientError(f"{where}: cannot be read now: {said}; try again later")
    return DatasetError(f"{where}: cannot be read: {said}")


def _column_names(file: IO[bytes], kind: str) -> list[str]:
    if kind == "csv":
        with pa.csv.open_csv(file, parse_options=_CSV) as reader:
            return reader.schema.names
    return column_names(file, parquet=kind == "parquet")


def _read_csv(
    file: IO[bytes], of_file: dict[str, str], columns: Sequence[str], ids: Sequence[str], numbers: Sequence[str]
) -> pa.Table:
    """Some columns of a CSV; `of_file` has the name in its header of each."""
    is_number = {
        column: column in numbers or (column not in ids and column.endswith(("_x", "_y", "_z"))) for column in columns
    }
    as_said = pa.csv.ConvertOptions(
        include_columns=[of_file[column] for column in columns],
        column_types={of_file[name]: pa.float64() if number else pa.string() for name, number in is_number.items()},
        null_values=[*_NULLS, *(f" {null}" for null in _NULLS)],
        strings_can_be_null=True,
    )
    table = pa.csv.read_csv(file, parse_options=_CSV, convert_options=as_said)
    return table.rename_columns(list(columns))


def _ids_from_text(texts: pa.ChunkedArray, column: str, where: str) -> pa.ChunkedArray:
    """Ids of a CSV, exact. `5.0` is what pandas writes for 5 in a column with gaps; it is exact up to 15 digits."""
    digits = pc.replace_substring_regex(pc.utf8_trim(texts, characters=' \t"'), r"^([0-9]{1,15})\.0*$", r"\1")
    wrong = pc.index(pc.match_substring_regex(digits, "^[0-9]{1,19}$"), False).as_py()
    if wrong >= 0:
        raise DatasetError(
            f"{where}: {column} is {quoted(texts[wrong].as_py())} in row {wrong + 1}; ids must be whole numbers from 0 "
            "to 2^63-1 with all their digits (pandas: write the column as Int64)"
        )
    return digits.cast(pa.uint64())


def _split(points: pa.ChunkedArray, position: str, where: str) -> dict[str, Any]:
    """A column of (x, y, z) as three columns of float64."""
    names = [f"{position}_{axis}" for axis in "xyz"]
    if pa.types.is_string(points.type) or pa.types.is_large_string(points.type):
        texts = points.to_pandas()
        # An expression takes long over a long text that it does not match.
        said = texts.where(texts.str.len() <= _LONGEST_POSITION).str.extract(_POINT)
        numbers = said.apply(pd.to_numeric, errors="coerce")
        # A part that is said to be none is one, as in a list of Parquet.
        wrong = np.flatnonzero((numbers.isna() & ~said.isin(_NULLS)).any(axis=1) & texts.notna())
        parts = [pa.array(numbers[axis], type=pa.float64(), from_pandas=True) for axis in range(3)]
    elif _is_list_of_numbers(points.type):
        wrong = np.flatnonzero(pc.not_equal(pc.list_value_length(points), 3).fill_null(False).to_numpy())
        parts = []
        if not wrong.size:
            parts = [pc.list_element(points, axis).cast(pa.float64(), safe=False) for axis in range(3)]
    else:
        raise DatasetError(f"{where}: {position} holds {points.type}; expected lists of three numbers x, y, z")
    if wrong.size:
        row = int(wrong[0])
        raise DatasetError(
            f"{where}: {position} is {quoted(points[row].as_py())} in row {row + 1}; expected three numbers x, y, z"
        )
    return dict(zip(names, parts, strict=True))


def _is_list_of_numbers(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return is_list and (pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type))


def _replace(table: pa.Table, column: str, columns: dict[str, Any]) -> pa.Table:
    table = table.drop_columns([column])
    for name, values in columns.items():
        table = table.append_column(name, values)
    return table


def _said(error: BaseException) -> str:
    """What a server or its client says, without the query of a URL."""
    return re.sub(r"\?[^\s'\")]*", "", one_line(_cause(error)))


def _cause(error: BaseException) -> BaseException:
    """What a missing file comes from, where it comes from anything."""
    while isinstance(error, FileNotFoundError) and error.__cause__:
        error = error.__cause__
    return error


def shown_place(place: str) -> str:
    """A place as a text may show it: without the query of a URL, where a signature may stand, and a password."""
    if protocol_of(place) == "file":
        return place
    protocol, _, rest = place.partition("?")[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{protocol}://{host.rpartition('@')[2]}{slash}{path}"
