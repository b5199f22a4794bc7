"""`somatic compare`."""

from pathlib import Path

import pandas as pd
import pytest
from command_line import Run

FIRST = 2**60
"""Ids that a float would not hold."""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder of results with four nuclei."""
    folder = tmp_path / "results" / "phantom" / "v1" / "0123abcd"
    folder.mkdir(parents=True)
    pd.DataFrame(
        {
            "nucleus_id": [FIRST + i for i in range(4)],
            "soma_volume_um": [1010.0, 2000.0, 3000.0, None],
            "soma_synapse_number": pd.array([50, 60, 70, None], dtype="Int64"),
            "frac_zero": [0.9, 0.9, 0.9, None],
        }
    ).to_parquet(folder / "features.parquet", index=False)
    return folder


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A published table: CSV, some of the published columns, other cells too."""
    path = tmp_path / "published.csv"
    path.write_text(
        f"nucleus_id,soma_volume_um,soma_synapse_number,cell_type\n"
        f"{FIRST},1000.0,50,23P\n{FIRST + 1},2000.0,60,BC\n{FIRST + 2},3000.0,80,MC\n{FIRST + 3},4000.0,,NGC\n"
        f"{FIRST + 9},1.0,1,MC\n"
    )
    return path


def test_deviations(run: Run, results: Path, published: Path) -> None:
    """Against a published CSV: per feature how many, median, 95 % and largest deviation in percent, the worst cell."""
    ran = run("compare", results, published)
    assert (ran.status, ran.err) == (0, "")
    # But for a path, which is left whole so that it can be copied.
    assert max(len(line) for line in ran.out.splitlines() if "/" not in line) <= 80
    shown = {words[0]: words[1:] for words in map(str.split, ran.out.splitlines()) if len(words) > 4}
    # By hand: (0, 0, 1) % of 3 volumes, (0, 0, 12.5) % of 3 numbers.
    assert shown["soma_volume_um"] == ["3", "0", "1", "1", str(FIRST)]
    assert shown["soma_synapse_number"] == ["3", "0", "12", "12", str(FIRST + 2)]
    assert "4 nuclei in both tables\n" in ran.out
    assert f"1 only in {published}\n" in ran.out
    assert "soma_volume_um 1" in ran.out  # null in one of the two
    assert "cell_type" not in ran.out
    absent = ran.out.partition(f"not in {published}:")[2].split(", ")
    assert "frac_zero" in [name.strip() for name in absent]


def test_the_released_table(run: Run, results: Path, published: Path) -> None:
    """The table that Elabbady et al. released is named as such, with what was converted and what its values are."""
    table = pd.read_csv(published).assign(is_column=False, predicted_class="", predicted_subclass="")
    table.to_csv(published, index=False)
    ran = run("compare", results, published)
    assert ran.status == 0
    [line] = [line for line in ran.out.splitlines() if line.startswith(f"{published} is ")]
    for part in ("microns_SomaData_AllCells_v661", "ratios (1/um)", "folding area (nm^2)", "normalised", "10 %"):
        assert part in line


def test_a_table_with_itself(run: Run, results: Path) -> None:
    """Equal tables deviate nowhere, and no cell is the worst."""
    ran = run("compare", results, results / "features.parquet")
    assert ran.status == 0
    assert "frac_zero" in ran.out
    for line in ran.out.splitlines():
        if line.strip().startswith(("soma_volume", "soma_synapse", "frac_zero")):
            assert line.split()[1:] in (["3", "0", "0", "0"], [])


def test_a_wide_terminal_shows_more_of_the_worst(
    run: Run, results: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 160 columns up to three cells are named."""
    monkeypatch.setenv("COLUMNS", "160")
    table = pd.read_csv(published)
    table.assign(soma_volume_um=table["soma_volume_um"] * [1, 2, 3, 1, 1]).to_csv(published, index=False)
    [line] = [line for line in run("compare", results, published).out.splitlines() if "soma_volume_um" in line][:1]
    assert [int(word.strip(",")) for word in line.split()[5:]] == [FIRST + 2, FIRST + 1, FIRST]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nucleus_id,soma_volume_um\n5,1.0\n", ["no nucleus of", "(4 and 1 nuclei)", "same dataset"]),
        (f"nucleus_id,cell_type\n{FIRST},MC\n", ["no feature in common", "soma_volume_um"]),
        ("id,soma_volume_um\n5,1.0\n", ["no column nucleus_id", "id, soma_volume_um"]),
        (f"nucleus_id,soma_volume_um\n{FIRST},large\n", ["soma_volume_um", "numbers"]),
        (f"nucleus_id,soma_volume_um\n{FIRST},1\n{FIRST},2\n", [f"nucleus_id {FIRST} more than once"]),
        ("", ["published.csv", "cannot be read"]),
    ],
)
def test_tables_that_cannot_be_compared(run: Run, results: Path, published: Path, text: str, says: list[str]) -> None:
    """Nothing in common, or no table of features: status 1, and what is missing."""
    published.write_text(text)
    ran = run("compare", results, published)
    assert (ran.status, ran.out) == (1, "")
    for part in says:
        assert part in ran.error


@pytest.mark.parametrize("place", ["nowhere", "nowhere.parquet", "results"])
def test_places_without_a_table(run: Run, published: Path, place: str) -> None:
    """A place without a table: where it was looked for."""
    ran = run("compare", place, published)
    assert ran.status == 1
    assert ran.error.startswith(f"cannot read {Path.cwd() / place}")
    assert "No such file" in ran.error
