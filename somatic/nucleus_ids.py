"""A list of nucleus ids in a file."""

import re

import numpy as np

from somatic.csv_files import encoding_fault
from somatic.errors import DatasetError, NoSuchColumn, quoted
from somatic.file_tables import opened, read_columns, shown_place

_TABLES = (".csv", ".csv.gz", ".parquet", ".feather")
_COLUMNS = ("nucleus_id", "id")
_MOST_DIGITS = 20
_MOST_BYTES = 2**28


def read_nucleus_ids(place: str) -> list[int]:
    """Read the ids of nuclei.

    Parameters
    ----------
    place : str
        Path or URL of a table (.csv, .csv.gz, .parquet, .feather) with a column `nucleus_id` or `id`, or of a text in
        UTF-8 with any other name, with ids between white space, commas or semicolons, and comments after #.

    Returns
    -------
    list of int
        Each once, ascending.

    Raises
    ------
    DatasetError
        The file cannot be read, has no ids, or something else in their place.
    """
    where = shown_place(place)
    ids = _from_table(place) if where.lower().endswith(_TABLES) else _from_text(place)
    if not ids:
        raise DatasetError(f"{where}: no nucleus ids in it; write one on each line")
    return sorted(ids)


def _from_table(place: str) -> set[int]:
    try:
        column = read_columns(place, ids=_COLUMNS[:1], positions=())[_COLUMNS[0]]
    except NoSuchColumn:
        column = read_columns(place, ids=_COLUMNS[1:], positions=())[_COLUMNS[1]]
    if column.isna().any() or not np.issubdtype(column.to_numpy().dtype, np.integer):
        raise DatasetError(f"{shown_place(place)}: column {column.name} must hold an integer in every row")
    return set(map(int, column))


def _from_text(place: str) -> set[int]:
    where, what = shown_place(place), "a list of nucleus ids"
    with opened(place, what) as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise DatasetError(f"{where}: larger than {_MOST_BYTES // 2**20} MiB, which no list of nucleus ids is")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fault = encoding_fault(content[:4]) or "is not text in UTF-8"
        raise DatasetError(f"{where}: cannot be read as {what}: it {fault}") from error
    ids = set()
    for number, line in enumerate(text.splitlines(), start=1):
        for word in re.split(r"[\s,;]+", line.partition("#")[0].strip()):
            # Python makes no number of thousands of digits.
            if word and not (word.isdecimal() and len(word) <= _MOST_DIGITS):
                raise DatasetError(
                    f"{where}: {quoted(word)} in line {number} is not a nucleus id; write one on each line"
                )
            if word:
                ids.add(int(word))
    return ids
