"""`somatic.nucleus_ids`: lists of nuclei in tables."""

from pathlib import Path

import pytest

from somatic.errors import DatasetError, NoSuchColumn
from somatic.nucleus_ids import read_nucleus_ids

FIRST_ID = 2**53 + 1


@pytest.mark.parametrize("columns", ["nucleus_id", "id", "id,nucleus_id"])
def test_either_column(tmp_path: Path, columns: str) -> None:
    """nucleus_id where there is one, else id; each once, ascending, to the last digit."""
    path = tmp_path / "some.csv"
    before = "1," * columns.count(",")
    path.write_text(f"{columns}\n" + "".join(f"{before}{FIRST_ID + n}\n" for n in (2, 0, 2)))
    assert read_nucleus_ids(str(path)) == [FIRST_ID, FIRST_ID + 2]


def test_neither_column(tmp_path: Path) -> None:
    """The line says what the table has."""
    path = tmp_path / "some.csv"
    path.write_text("cell,size\n1,2\n")
    with pytest.raises(NoSuchColumn, match=r"some\.csv: no column id; the table has cell, size"):
        read_nucleus_ids(str(path))


def test_a_file_that_is_called_no_column(tmp_path: Path) -> None:
    """What is wrong with nucleus_id is said, and id not taken in its place."""
    path = tmp_path / "no column.csv"
    path.write_text("id,nucleus_id\n1,two\n")
    with pytest.raises(DatasetError, match="nucleus_id is 'two' in row 1"):
        read_nucleus_ids(str(path))
