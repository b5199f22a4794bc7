"""The words of a run's summary."""

from test_changes import FIRST_ID, ROOT, provenance, row, table

from somatic.results.changes import find_changes
from tasks.markdown import cell, changes_markdown, code


def link(nucleus_id: int, root_id: int, centre_nm: tuple[float, float, float]) -> str | None:
    """A short link to all nuclei but the first."""
    assert root_id == nucleus_id - FIRST_ID + ROOT
    return f"https://x/{nucleus_id - FIRST_ID}/{centre_nm[0]:g}" if nucleus_id > FIRST_ID else None


def test_changes_as_markdown() -> None:
    """Counts by hand, and of each feature that moved the cells that moved most, with both values and a link."""
    before = table(row(0, soma_volume_um=1000.0), row(1), row(2, soma_synapse_number=0), row(3), row(9))
    after = table(
        row(0, 2, soma_volume_um=1010.0),
        row(1, 2, soma_volume_um=400.0, centre_x_nm=44.0),
        row(2, 2, soma_synapse_number=3),
        row(3, 2, soma_touches_box=True, soma_synapse_number=None),
        row(8, 2),
    )
    text = changes_markdown(find_changes(before, after, provenance(n1="measured")), link)
    assert [line for line in text if line.startswith(("##", "| 1", "| 4", "| 6", "| 0"))] == [
        "## Changes since version 1",
        "| 6 | of which anything is different |",
        "| 1 | added |",
        "| 1 | gone |",
        "| 0 | with another root id |",
        "| 1 | with another centre |",
        "| 1 | measured again |",
        "| 4 | with another value of a feature |",
    ]
    assert [line for line in text if line.startswith("| soma")] == [
        f"| soma_volume_um | 2 | 0 | [{FIRST_ID + 1}](https://x/1/44) 500 to 400 (-20 %), "
        f"{FIRST_ID} 1,000 to 1,010 (+1 %) |",
        f"| soma_synapse_number | 2 | 1 | [{FIRST_ID + 2}](https://x/2/4) 0 to 3 |",
        f"| soma_touches_box | 1 | 0 | [{FIRST_ID + 3}](https://x/3/4) no to yes |",
    ]


def test_changes_of_one_version() -> None:
    """Of a table of the same version, with other settings or by another somatic."""
    text = changes_markdown(find_changes(table(row(0)), table(row(0, soma_volume_um=1.0))), link)
    assert "## Changes since the earlier table of this version" in text


def test_nothing_changed() -> None:
    """It is said, rather than shown as a table of noughts."""
    text = changes_markdown(find_changes(table(row(0)), table(row(0, 2))), link)
    assert text[-1] == "Nothing is different from the earlier version."


def test_texts_in_tables() -> None:
    """A border, a line end, a backtick or a tag in a reason stays a text in its cell; a URL stays code."""
    assert cell("a | b\n`c` <i>") == r"a \| b \`c\` \<i\>"
    assert code("s3://bucket/x") == "`s3://bucket/x`"
    assert code("s3://a`b") == "`` s3://a`b ``"
