"""docs/definitions.md: its table is what the benchmark measures, its columns are ours, its pictures are there."""

import re
from pathlib import Path

import pytest

from benchmarks.definitions import table
from somatic.features import COLUMNS

PAGE = Path(__file__).parents[1] / "docs" / "definitions.md"


def numbers(text: str) -> dict[str, list[float]]:
    """First column to the numbers of the others, of the rows of the table of errors."""
    rows = re.findall(r"^\| (.*?) \| (?:%|nm) \| ([-+.|\d ]+) \|$", text, re.MULTILINE)
    return {what: [float(value) for value in values.split(" | ")] for what, values in rows}


def test_the_table_of_errors() -> None:
    """As the command prints it; the corrected definitions are nearer to the truth in every row."""
    documented, measured = numbers(PAGE.read_text()), numbers(table())
    assert len(measured) > 10
    assert list(documented) == list(measured)
    for what, values in measured.items():
        # Another family of processors may round another way.
        assert documented[what] == pytest.approx(values, abs=0.15), what
        published, _, corrected, worst = values
        assert abs(corrected) <= max(abs(published), 0.05), what
        assert abs(worst) < 5, what


def test_columns_and_pictures() -> None:
    """It names only columns that there are, and every picture that it shows lies beside it."""
    text = PAGE.read_text()
    named = {name for row in re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    named = {name for name in named if not name.startswith("_")}
    assert named <= {column.name for column in COLUMNS}
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert len(pictures) == 5
    assert all((PAGE.parent / picture).is_file() for picture in pictures)
