"""A list of nucleus ids in a file."""

import re
from pathlib import Path

import numpy as np

from somatic.errors import DatasetError, NoSuchColumn, quoted
from somatic.file_tables import read_columns

_TABLES = (".csv", ".csv.gz", ".parquet", ".feather")
_COLUMNS = ("nucleus_id", "id")
_MOST_DIGITS = 20


def read_nucleus_ids(place: str) -> list[int]:
    """Read the ids of nuclei.

    Parameters
    ----------
    place : str
        A table (.csv, .csv.gz, .parquet, .feather) with a column `nucleus_id` or `id`, or a text file of any other
        name with ids between white space or commas, and comments after #.

    Returns
    -------
    list of int
        Each once, ascending.

    Raises
    ------
    DatasetError
        The file cannot be read, has no ids, or something else in their place.
    """
    ids = _from_table(place) if place.lower().endswith(_TABLES) else _from_text(place)
    if not ids:
        raise DatasetError(f"{place}: no nucleus ids in it; write one on each line")
    return sorted(ids)


def _from_table(place: str) -> set[int]:
    try:
        column = read_columns(place, ids=_COLUMNS[:1], positions=())[_COLUMNS[0]]
    except NoSuchColumn:
        column = read_columns(place, ids=_COLUMNS[1:], positions=())[_COLUMNS[1]]
    if column.isna().any() or not np.issubdtype(column.to_numpy().dtype, np.integer):
        raise DatasetError(f"{place}: column {column.name} must hold an integer in every row")
    return set(map(int, column))


def _from_text(place: str) -> set[int]:
    try:
        text = Path(place).read_text(encoding="utf-8")
    except OSError as error:
        raise DatasetError(f"{place}: cannot be read as a list of nucleus ids: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{place}: cannot be read as a list of nucleus ids: it is no text in UTF-8") from error
    ids = set()
    for number, line in enumerate(text.splitlines(), start=1):
        for word in re.split(r"[\s,]+", line.partition("#")[0].strip()):
            # Python makes no number of thousands of digits.
            if word and not (word.isdecimal() and len(word) <= _MOST_DIGITS):
                raise DatasetError(f"{place}: {quoted(word)} in line {number} is no nucleus id; write one on each line")
            if word:
                ids.add(int(word))
    return ids
