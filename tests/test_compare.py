"""Two tables of features side by side."""

import gzip
import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from shared import in_shared
from stores import RADIUS_NM, made_nuclei, run

from somatic.errors import DatasetError, StoreError
from somatic.planning.plan import make_plan
from somatic.results.collect import gather
from somatic.results.compare import compare
from somatic.results.table import put_tables
from somatic.storage.store import ResultStore

FIRST_ID = 2**62 + 1

WRITERS: dict[str, Callable[[pd.DataFrame], bytes]] = {
    "table.csv": lambda frame: frame.to_csv(index=False).encode(),
    "table.csv.gz": lambda frame: gzip.compress(frame.to_csv(index=False).encode()),
    "table.parquet": lambda frame: frame.to_parquet(),
    "table.feather": lambda frame: _feather(frame),
}


def _feather(frame: pd.DataFrame) -> bytes:
    sink = io.BytesIO()
    frame.to_feather(sink)
    return sink.getvalue()


def features(volumes: list[float | None], first: int = 0) -> pd.DataFrame:
    """A table with one feature; nucleus ids count up from FIRST_ID + first."""
    ids = [FIRST_ID + first + i for i in range(len(volumes))]
    return pd.DataFrame({"nucleus_id": ids, "soma_volume_um": pd.array(volumes, dtype="Float64")})


def test_deviations_counted_by_hand() -> None:
    """Reference 100, 200, 400, 1000; results 101, 190, 400, 1500: relative 0.01, 0.05, 0, 0.5."""
    result = compare(features([101, 190, 400, 1500]), features([100, 200, 400, 1000]))
    row = result.features.loc["soma_volume_um"]
    assert (row["n"], row["n_different"]) == (4, 3)
    assert row["median_rel"] == pytest.approx(0.01)
    assert row["p95_rel"] == pytest.approx(0.5)
    assert row["max_rel"] == pytest.approx(0.5)
    assert (row["median_abs"], row["p95_abs"], row["max_abs"]) == (1, 500, 500)
    assert row["worst"] == (FIRST_ID + 3, FIRST_ID + 1, FIRST_ID)


def test_the_second_table_is_the_reference() -> None:
    """Twice the reference deviates by 1, half of it by 0.5."""
    assert compare(features([2]), features([1])).features.loc["soma_volume_um", "max_rel"] == 1
    assert compare(features([1]), features([2])).features.loc["soma_volume_um", "max_rel"] == 0.5


def test_percentiles_of_many() -> None:
    """Of deviations of 1 to 100 per cent the median is 50, the 95th percentile 95, the largest 100."""
    reference = np.full(100, 1000.0)
    result = compare(features(list(reference + 10 * np.arange(1, 101))), features(list(reference)))
    row = result.features.loc["soma_volume_um"]
    assert row[["median_rel", "p95_rel", "max_rel"]].tolist() == pytest.approx([0.5, 0.95, 1.0])


def test_equal_tables() -> None:
    """A table deviates from itself by nothing, and has no worst nuclei."""
    table = features([1, 0, None])
    row = compare(table, table).features.loc["soma_volume_um"]
    assert (row["n"], row["max_rel"], row["max_abs"], row["worst"]) == (2, 0, 0, ())


def test_nulls_are_counted_by_side() -> None:
    """A value on one side only is counted there and compared nowhere."""
    result = compare(features([1, None, None, 4, 5]), features([1, 2, None, None, None]))
    row = result.features.loc["soma_volume_um"]
    assert (row["n"], row["only_results"], row["only_reference"]) == (1, 2, 1)


def test_nuclei_of_one_table_only() -> None:
    """Rows meet by nucleus id, not by their place; those without a partner are counted."""
    ours = features([10, 20, 30, 40]).iloc[::-1]
    theirs = features([30, 40, 50], first=2)
    result = compare(ours, theirs)
    assert (result.n_both, result.n_only_results, result.n_only_reference) == (2, 2, 1)
    assert result.features.loc["soma_volume_um", "max_abs"] == 0


def test_ids_that_are_equal_as_floats_are_kept_apart() -> None:
    """Ids above 2^53 that differ in the last digit are different nuclei."""
    assert float(FIRST_ID) == float(FIRST_ID + 1)
    assert compare(features([1]), features([1], first=1)).n_both == 0


def test_reference_of_zero() -> None:
    """Against a reference of 0 any other value deviates infinitely, and 0 not at all; the median stays finite."""
    row = compare(features([0, 0, 3]), features([0, 0, 0])).features.loc["soma_volume_um"]
    assert (row["median_rel"], row["max_rel"], row["max_abs"]) == (0, math.inf, 3)
    assert row["worst"] == (FIRST_ID + 2,)


def test_flags_and_counts() -> None:
    """A flag that differs deviates by 1 either way; a count deviates relative to the reference."""
    ids = [FIRST_ID, FIRST_ID + 1, FIRST_ID + 2]
    ours = pd.DataFrame(
        {"nucleus_id": ids, "nucleus_is_clipped": [True, False, None], "soma_synapse_number": [55, 50, None]}
    )
    theirs = pd.DataFrame(
        {"nucleus_id": ids, "nucleus_is_clipped": [False, False, True], "soma_synapse_number": [50, 50, 50]}
    )
    rows = compare(ours, theirs).features
    assert rows.loc["nucleus_is_clipped", ["n", "max_rel", "max_abs"]].tolist() == [2, 1, 1]
    assert rows.loc["nucleus_is_clipped", "worst"] == (FIRST_ID,)
    assert rows.loc["soma_synapse_number", "max_rel"] == pytest.approx(0.1)


def test_absent_and_foreign_columns() -> None:
    """A feature that a table lacks is named; a column that is no feature is left alone."""
    ours = features([1]).assign(frac_zero=0.5)
    theirs = features([1]).assign(cell_type="L2a", n_components=1)
    result = compare(ours, theirs)
    assert result.features.index.tolist() == ["soma_volume_um"]
    assert "frac_zero" in result.absent_reference
    assert "frac_zero" not in result.absent_results
    assert "n_components" in result.absent_results


def test_nothing_in_common() -> None:
    """Two tables without a common nucleus give a result that says so."""
    result = compare(features([1]), features([2], first=5))
    assert result.n_both == 0
    assert result.features.loc["soma_volume_um", "n"] == 0
    assert math.isnan(result.features.loc["soma_volume_um", "max_rel"])


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file(store_url: str, name: str) -> None:
    """CSV, gzipped CSV, Parquet and Feather are read from a folder or a bucket, ids exact and nulls null."""
    ResultStore(store_url).put(name, WRITERS[name](features([1, None, 3])))
    result = compare(f"{store_url}/{name}", features([1, 2, 3]))
    assert (result.n_both, result.features.loc["soma_volume_um", "n"]) == (3, 2)
    assert result.features.loc["soma_volume_um", "max_abs"] == 0


def test_folder_of_results(store_url: str) -> None:
    """The folder of an extraction stands for its features.parquet, with a slash at its end or without."""
    store = ResultStore(store_url)
    nuclei = made_nuclei(5, rootless=[2])
    plan = make_plan(nuclei, radius_nm=RADIUS_NM)
    run(store, plan)
    put_tables(store, plan, gather(store, plan, nuclei, materialization_version=1300, definitions="published"))
    for url in (store.url, f"{store.url}/"):
        result = compare(url, features([0, 1, 2, 3, 8]))
        row = result.features.loc["soma_volume_um"]
        assert (row["n"], row["only_reference"], row["max_rel"], row["worst"]) == (4, 1, 0.5, (FIRST_ID + 4,))


def test_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare file name is a file of this folder."""
    monkeypatch.chdir(tmp_path)
    Path("table.csv").write_bytes(WRITERS["table.csv"](features([1])))
    assert compare("table.csv", "table.csv").n_both == 1


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (pd.DataFrame({"id": [1]}), "has no column nucleus_id; it has id"),
        (pd.DataFrame({"nucleus_id": [1, 2, 1]}), "has nucleus_id 1 more than once"),
        (pd.DataFrame({"nucleus_id": [float(2**62), 1.0]}), "nucleus_id as float, which loses digits"),
        (pd.DataFrame({"nucleus_id": [1.0, np.nan]}), "has 1 rows without a nucleus_id"),
        (pd.DataFrame({"nucleus_id": [1.5]}), "nucleus_id that are no int64"),
        (pd.DataFrame({"nucleus_id": ["1"]}), "nucleus_id that are no int64"),
        (pd.DataFrame({"nucleus_id": pd.array([1, None], dtype="Int64")}), "has 1 rows without a nucleus_id"),
        (pd.DataFrame({"nucleus_id": np.array([2**63 + 1], dtype=np.uint64)}), "nucleus_id that are no int64"),
        (pd.DataFrame({"nucleus_id": [1], "frac_zero": ["much"]}), "frac_zero holds something else than numbers"),
    ],
)
def test_tables_that_cannot_be_compared(table: pd.DataFrame, text: str) -> None:
    """A table with wrong ids or values is refused in one line that names the column."""
    reference = pd.DataFrame({"nucleus_id": [1], "frac_zero": [0.5]})
    with pytest.raises(DatasetError, match=text) as caught:
        compare(table, reference)
    assert "\n" not in str(caught.value)


def test_whole_floats_are_ids() -> None:
    """Small whole ids that some program wrote as floats lost nothing and are taken."""
    table = features([1]).assign(nucleus_id=[12.0])
    assert compare(table, table.assign(nucleus_id=[12])).n_both == 1


def test_unreadable_files(tmp_path: Path) -> None:
    """A file that is not there, or not what its name says, is named."""
    for name in ("table.feather", "table.csv.gz"):
        (tmp_path / name).write_bytes(b"something else")
        with pytest.raises(DatasetError, match=f"{name} cannot be read"):
            compare(str(tmp_path / name), features([1]))
    with pytest.raises(StoreError, match=r"features\.parquet"):
        compare(str(tmp_path), features([1]))
    (tmp_path / "ragged.csv").write_text("nucleus_id,frac_zero\n1,2,3\n")
    with pytest.raises(DatasetError, match=r"ragged\.csv cannot be read"):
        compare(str(tmp_path / "ragged.csv"), features([1]))


@pytest.mark.parametrize("name", ["TABLE.CSV", "Table.Csv.Gz", "TABLE.PARQUET", "Table.Feather"])
def test_endings_in_capitals(tmp_path: Path, name: str) -> None:
    """A table is known by its ending, however that is written."""
    table, lower = features([1, 2]), name.lower()
    if ".csv" in lower:
        table.to_csv(tmp_path / name, index=False, compression="gzip" if lower.endswith("gz") else None)
    elif lower.endswith(".parquet"):
        table.to_parquet(tmp_path / name)
    else:
        table.to_feather(tmp_path / name)
    assert compare(str(tmp_path / name), table).n_both == 2


def test_csv_of_spreadsheets(tmp_path: Path) -> None:
    """Blanks after commas make no other names; another separator and another encoding are named."""
    path = tmp_path / "table.csv"
    path.write_text("nucleus_id, soma_volume_um\n1, 5.5\n")
    row = compare(str(path), pd.DataFrame({"nucleus_id": [1], "soma_volume_um": [5.5]})).features.loc["soma_volume_um"]
    assert (row["n"], row["max_abs"]) == (1, 0)
    path.write_text("nucleus_id;soma_volume_um\n1;5.5\n")
    with pytest.raises(DatasetError, match=r"table\.csv has semicolons between its columns; write commas"):
        compare(str(path), features([1]))
    path.write_bytes("nucleus_id,soma_volume_um\n1,5.5\n".encode("utf-16"))
    with pytest.raises(DatasetError, match=r"table\.csv is in UTF-16, and not in UTF-8; save it as UTF-8"):
        compare(str(path), features([1]))


def test_csv_with_float_ids_above_2_to_53(tmp_path: Path) -> None:
    """A CSV that pandas wrote after ids became floats is refused, not joined to the wrong nuclei."""
    path = tmp_path / "table.csv"
    features([1]).assign(nucleus_id=[float(FIRST_ID)]).to_csv(path, index=False)
    with pytest.raises(DatasetError, match="loses digits"):
        compare(str(path), features([1]))


def test_comparison_needs_no_schema_of_ours() -> None:
    """Columns of other types of the same numbers compare equal: float32, object, Arrow-backed."""
    table = features([1, 2, 3])
    others = [
        table.assign(soma_volume_um=np.array([1, 2, 3], dtype=np.float32)),
        table.assign(soma_volume_um=np.array([1, 2, 3], dtype=object)),
        table.assign(soma_volume_um=pd.array([1, 2, 3], dtype=pd.ArrowDtype(pa.int32()))),
    ]
    for other in others:
        row = compare(other, table).features.loc["soma_volume_um"]
        assert (row["n"], row["max_abs"]) == (3, 0)


RELEASED = {
    "nucleus_id": 154146,
    "nucleus_volume_um": 244.942613,
    "nucleus_area_um": 248.897211,
    "nuclear_area_to_volume_ratio": 1.016145,
    "nuclear_folding_area_um": 3.150695e7,
    "soma_area_um": 1064.862433,
    "soma_synapse_number": 151.794032,
    "soma_synapse_density_um": 0.150997,
}
"""Features of a nucleus in the table that Elabbady et al. released."""
LABELS = {
    "is_column": False,
    "cortical_column_labels": None,
    "predicted_class": "excitatory",
    "predicted_subclass": "L2IT",
    "umap_embedding_x": 3.5,
    "soma_depth_x": 0.0,
    "soma_depth_y": 123.0,
    "soma_depth_z": 0.0,
}
"""Its columns that are no features, by which it is recognised; their values do not matter."""
RAW = {
    "nucleus_id": 154146,
    "nucleus_volume_um": 248.862,
    "nucleus_area_um": 252.036,
    "nuclear_area_to_volume_ratio": 1.31727,
    "nuclear_folding_area_um": 28.684,
    "soma_synapse_number": 149,
    "materialization_version": 661,
}
"""What the published definitions give for that nucleus: (252.036 / 248.862) * (3.90165 / 3), um^2."""


def test_the_released_table() -> None:
    """Its units are converted; then raw values deviate by what normalising did, at most 10 %, as computed by hand."""
    result = compare(pd.DataFrame([RAW]), pd.DataFrame([{**RELEASED, **LABELS}]))
    assert (result.released_results, result.released_reference) == (False, True)
    # A sphere of 244.942613 um^3 has a radius of 3.88144 um: 1.016145 * 3.88144 / 3 = 1.31470.
    expected = {
        "nucleus_volume_um": 3.919387 / 244.942613,
        "nucleus_area_um": 3.138789 / 248.897211,
        "nuclear_area_to_volume_ratio": 0.00257 / 1.31470,
        "nuclear_folding_area_um": 2.82295 / 31.50695,
        "soma_synapse_number": 2.794032 / 151.794032,
    }
    found = result.features["max_rel"]
    assert found.to_dict() == pytest.approx(expected, rel=0.01)
    assert found.max() < 0.1


def test_the_released_table_comes_first() -> None:
    """Either table may be the released one, and both."""
    released = pd.DataFrame([{**RELEASED, **LABELS}])
    result = compare(released, pd.DataFrame([RAW]))
    assert (result.released_results, result.released_reference) == (True, False)
    assert result.features["max_rel"].max() < 0.1
    both = compare(released, released)
    assert (both.released_results, both.released_reference) == (True, True)
    assert both.features["max_abs"].max() == 0


@pytest.mark.parametrize(
    ("columns", "released"),
    [
        (list(LABELS), True),
        (["is_column", "predicted_class"], True),
        (["cortical_column_labels", "soma_depth_y"], True),
        ([], False),
        (["predicted_class"], False),
        ([*LABELS, "materialization_version", "definitions", "status"], False),
    ],
)
def test_how_the_released_table_is_recognised(columns: list[str], released: bool) -> None:
    """A part of its columns will do; one label joined to another table, or all of them to ours, changes nothing."""
    table = pd.DataFrame([RELEASED]).assign(**dict.fromkeys(columns, 1))
    result = compare(pd.DataFrame([RAW]), table)
    assert result.released_reference == released
    area = result.features.loc["nuclear_folding_area_um", "max_rel"]
    assert area == pytest.approx(0.0896 if released else 1, rel=0.01)


def test_gaps_in_the_released_table() -> None:
    """A ratio without its volume is not compared: the row where that is null, the column where there is none."""
    table = pd.DataFrame([{**RELEASED, **LABELS}, {**RELEASED, **LABELS, "nucleus_id": 5, "nucleus_volume_um": None}])
    ours = pd.DataFrame([RAW, {**RAW, "nucleus_id": 5}])
    assert compare(ours, table).features.loc["nuclear_area_to_volume_ratio", "n"] == 1
    without = compare(ours, table.drop(columns="nucleus_volume_um"))
    assert "nuclear_area_to_volume_ratio" in without.absent_reference
    with pytest.raises(DatasetError, match="nuclear_folding_area_um holds something else than numbers"):
        compare(ours, table.assign(nuclear_folding_area_um="much"))


def test_raw_values_of_that_nucleus() -> None:
    """The raw values above are those that the Institute measured in 2021, where their table lies beside the project."""
    table = pd.read_parquet(in_shared("cell_types/minnie65_v83_features.parquet"))
    row = table.set_index("nucleus_id").loc[154146]
    numbers = {name: value for name, value in RAW.items() if name in row.index}
    assert len(numbers) == 5
    assert row[list(numbers)].to_dict() == pytest.approx(numbers, rel=1e-4)
