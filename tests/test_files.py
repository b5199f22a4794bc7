"""Tables from CSV, Parquet and Feather files."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from file_server import Fault, FileServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shared import scene_of

from somatic.dataset import FileSource, load_dataset
from somatic.errors import DatasetError, TransientError
from somatic.file_tables import FileTables, read_columns
from somatic.source import open_segmentation_url, open_source

ROOT = 864691135012345678
LARGEST = 2**63 - 1
_POOLS: list[pa.MemoryPool] = []
SUFFIXES = ["csv", "csv.gz", "parquet", "feather"]

every_suffix = pytest.mark.parametrize("suffix", SUFFIXES)
ids = st.integers(0, LARGEST)
one_folder = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(frame: pd.DataFrame, path: Path | str) -> str:
    """Write a table the way a user of pandas would, by its suffix; returns the path."""
    name = str(path)
    if name.endswith((".csv", ".csv.gz")):
        frame.to_csv(name, index=False)
    elif name.endswith(".parquet"):
        frame.to_parquet(name)
    else:
        frame.to_feather(name)
    return name


def tables(nuclei: str, synapses: str | None = None, **more: object) -> FileTables:
    """The tables of two files."""
    source = {"nuclei": nuclei, "synapses": synapses, "resolution_nm": [4, 4, 40], **more}
    return FileTables(FileSource.model_validate(source))


def nuclei_frame() -> pd.DataFrame:
    """Two nuclei, one of them without a root and one column that nobody needs."""
    return pd.DataFrame(
        {
            "note": ["a, b", "line\nbreak"],
            "id": [2, 1],
            "pt_root_id": pd.array([ROOT, None], dtype="Int64"),
            "pt_position_x": [10, -4],
            "pt_position_y": [20, 5],
            "pt_position_z": [30, 6],
        }
    )


def synapse_frame() -> pd.DataFrame:
    """Five synapses on a line along x, onto cells 5 and 6; the fourth is a cell's onto itself."""
    return pd.DataFrame(
        {
            "id": [1, 2, 3, 4, 5],
            "pre_pt_root_id": [9, 9, 9, 5, 8],
            "post_pt_root_id": [5, 5, 6, 5, 5],
            "ctr_pt_position_x": [100, 200, 200, 200, 300],
            "ctr_pt_position_y": [0, 0, 0, 0, 0],
            "ctr_pt_position_z": [0, 0, 0, 0, 0],
        }
    )


def refusal(place: Path | str) -> str:
    """The one line with which a file of nuclei is refused."""
    with pytest.raises(DatasetError) as caught:
        tables(str(place)).nuclei()
    assert "\n" not in str(caught.value)
    assert str(place) in str(caught.value)
    return str(caught.value)


@every_suffix
@one_folder
@given(rows=st.lists(st.tuples(ids, st.none() | ids), min_size=1, max_size=20, unique_by=lambda row: row[0]))
def test_ids_survive_every_format(tmp_path: Path, suffix: str, rows: list[tuple[int, int | None]]) -> None:
    """Ids up to 2^63-1, with and without gaps beside them, come back from a file digit by digit."""
    frame = pd.DataFrame(
        {
            "id": [number for number, _ in rows],
            "pt_root_id": pd.array([root for _, root in rows], dtype="Int64"),
        }
    ).assign(pt_position_x=1, pt_position_y=2, pt_position_z=3)
    found = tables(write(frame, tmp_path / f"nuclei.{suffix}")).nuclei().frame
    expected = sorted((number, 0 if root in (None, 1) else root) for number, root in rows)
    assert list(zip(found["nucleus_id"], found["root_id"], strict=True)) == expected


@every_suffix
def test_nuclei_of_a_file(tmp_path: Path, suffix: str) -> None:
    """The same table comes out of every format."""
    made = tables(write(nuclei_frame(), tmp_path / f"nuclei.{suffix}")).nuclei()
    assert made.frame.to_numpy().tolist() == [[1, 0, -4, 5, 6], [2, ROOT, 10, 20, 30]]
    assert [str(kind) for kind in made.frame.dtypes] == ["int64", "int64", "Int64", "Int64", "Int64"]
    assert made.resolution_nm == (4.0, 4.0, 40.0)


@pytest.mark.parametrize("suffix", ["parquet", "feather"])
@pytest.mark.parametrize("kind", [pa.list_(pa.int32()), pa.list_(pa.float64(), 3), pa.large_list(pa.int64())], ids=str)
def test_positions_as_lists(tmp_path: Path, suffix: str, kind: pa.DataType) -> None:
    """Every kind of list that Arrow knows holds a position; a row may lack it."""
    points = pa.array([[10, 20, 30], None], type=kind)
    table = pa.table({"id": [1, 2], "pt_root_id": [5, 6], "pt_position": points})
    path = tmp_path / f"nuclei.{suffix}"
    writer = pa.parquet.write_table if suffix == "parquet" else pa.feather.write_feather
    writer(table, str(path))
    frame = tables(str(path)).nuclei().frame
    assert frame["x_vx"].tolist() == [10, pd.NA]
    assert frame.loc[0, ["x_vx", "y_vx", "z_vx"]].tolist() == [10, 20, 30]


@pytest.mark.parametrize(
    "text",
    ["[10, -20, 30]", "10 -20 30", "[10 -20  30]", "(10,-20,30)", " 10.0 , -2e1 , 30 ", "[ 10. -20.  30.]"],
)
def test_positions_as_text(tmp_path: Path, text: str) -> None:
    """A position in a CSV is what Python, numpy or a person writes."""
    path = tmp_path / "nuclei.csv"
    path.write_text(f'id,pt_root_id,pt_position\n1,5,"{text}"\n2,6,\n')
    frame = tables(str(path)).nuclei().frame
    assert frame.loc[0, ["x_vx", "y_vx", "z_vx"]].tolist() == [10, -20, 30]
    assert frame["z_vx"].isna().tolist() == [False, True]


@pytest.mark.parametrize("empty", ["", "NA", "nan", "None", "<NA>", "NULL"])
def test_gaps_in_a_csv(tmp_path: Path, empty: str) -> None:
    """A root that is not known is written in many ways, and none costs the others their digits."""
    path = tmp_path / "nuclei.csv"
    path.write_text(f"id,pt_root_id,pt_position\n1,{empty},1 2 3\n2, {ROOT} ,4 5 6\n3,7.0,4 5 6\n")
    assert tables(str(path)).nuclei().frame["root_id"].tolist() == [0, ROOT, 7]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ["cannot be read as csv"]),
        ("id,pt_root_id,pt_position\n", ["empty"]),
        ("id,pt_position\n1,1 2 3\n", ["no column pt_root_id", "the table has id, pt_position"]),
        ("id;pt_root_id\n1;2\n", ["it has semicolons between its columns; write commas"]),
        ("id\tpt_root_id\n1\t2\n", ["it has tabs between its columns; write commas"]),
        ("id,id,pt_root_id,pt_position\n1,2,5,1 2 3\n", ["the table has two columns 'id'; keep one of them"]),
        ("id,pt_root_id, pt_root_id,pt_position\n1,5,6,1 2 3\n", ["the table has two columns 'pt_root_id'"]),
        ("id,pt_root_id,pt_position\n1,5,[nan 1 2 3]\n", ["pt_position is '[nan 1 2 3]' in row 1"]),
        ("id,pt_root_id,pt_position\n1,5,1 2 3\n2,8.6469113501234573e+17,1 2 3\n", ["e+17", "row 2", "Int64"]),
        ("id,pt_root_id,pt_position\n1,864691135012345728.0,1 2 3\n", ["864691135012345728.0", "row 1"]),
        ("id,pt_root_id,pt_position\n1,9223372036854775808,1 2 3\n", ["9223372036854775808", "row 1", "2^63-1"]),
        ("id,pt_root_id,pt_position\n1,99999999999999999999,1 2 3\n", ["99999999999999999999", "row 1"]),
        ("id,pt_root_id,pt_position\n1,-5,1 2 3\n", ["'-5'", "row 1"]),
        ("id,pt_root_id,pt_position\nA,5,1 2 3\n", ["id is 'A' in row 1"]),
        ("id,pt_root_id,pt_position\n1,5,1 2 3\n1,6,1 2 3\n", ["id 1 stands in 2 rows"]),
        ("id,pt_root_id,pt_position\n1,5,1 2\n", ["pt_position is '1 2' in row 1", "x, y, z"]),
        ("id,pt_root_id,pt_position\n1,5,1 2 3.4.5\n", ["1 2 3.4.5", "row 1"]),
        ("id,pt_root_id,pt_position_x,pt_position_y,pt_position_z\n1,5,a,2,3\n", ["'a'", "double"]),
        ("id,pt_root_id,pt_position\n1,5\n", ["Expected 3 columns, got 2"]),
    ],
)
def test_wrong_csv_files_are_refused(tmp_path: Path, text: str, said: list[str]) -> None:
    """A wrong CSV is refused in one line that says where and what."""
    path = tmp_path / "nuclei.csv"
    path.write_text(text)
    message = refusal(path)
    assert [part for part in said if part not in message] == []


def test_blanks_after_commas(tmp_path: Path) -> None:
    """A header and rows with blanks after the commas are those without; a gap after a blank is one."""
    path = tmp_path / "nuclei.csv"
    path.write_text(
        f'id, pt_root_id ,"pt_position_x", "pt_position_y", pt_position_z, note\n'
        f"{LARGEST}, {ROOT}, 1, 2, 3, a\n1, , 4, 5, 6, b\n2, NA, , nan, 7, c\n"
    )
    frame = tables(str(path)).nuclei().frame
    assert frame["nucleus_id"].tolist() == [1, 2, LARGEST]
    assert frame["root_id"].tolist() == [0, 0, ROOT]
    assert frame["x_vx"].tolist() == [4, pd.NA, 1]
    assert frame["z_vx"].tolist() == [6, pd.NA, 3]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
def test_other_encodings(tmp_path: Path, encoding: str, suffix: str) -> None:
    """A text as Excel saves "Unicode Text" is said to be that; a mark before UTF-8 is no part of the first name."""
    text = f"id,pt_root_id,pt_position\n1,{ROOT},1 2 3\n"
    mark = {"utf-16-be": b"\xfe\xff"}.get(encoding, b"")
    path = tmp_path / f"nuclei.{suffix}"
    pack = gzip.compress if suffix.endswith("gz") else bytes
    path.write_bytes(pack(mark + text.encode(encoding)))
    assert 'it is in UTF-16, and not in UTF-8; save it as UTF-8 (in Excel: "CSV UTF-8")' in refusal(path)
    path.write_bytes(pack(text.encode("utf-8-sig")))
    assert tables(str(path)).nuclei().frame["root_id"].tolist() == [ROOT]


@pytest.mark.parametrize(
    "nothing",
    ["[nan, nan, nan]", "[nan nan nan]", "(None, None, None)", "[null,null,null]", "[1, nan, 3]", "nan, 2, 3"],
)
def test_positions_of_nothing(tmp_path: Path, nothing: str) -> None:
    """A row without a position is one however its list says so, in CSV as in Parquet."""
    frame = pd.DataFrame({"id": [1, 2], "pt_root_id": [ROOT, ROOT], "pt_position": [nothing, "[1, 2, 3]"]})
    from_csv = tables(write(frame, tmp_path / "nuclei.csv")).nuclei().frame
    lists = pa.array([[None, None, None], [1, 2, 3]], pa.list_(pa.int64()))
    table = pa.table({"id": [1, 2], "pt_root_id": [ROOT, ROOT], "pt_position": lists})
    pa.parquet.write_table(table, tmp_path / "nuclei.parquet")
    from_parquet = tables(str(tmp_path / "nuclei.parquet")).nuclei().frame
    for found in (from_csv, from_parquet):
        assert found["x_vx"].tolist() == [pd.NA, 1]
        assert found["z_vx"].tolist() == [pd.NA, 3]


@pytest.mark.parametrize("suffix", ["parquet", "feather"])
def test_a_column_that_is_there_twice(tmp_path: Path, suffix: str) -> None:
    """It is refused where it is read, and passed over where it is not."""
    names = ["id", "pt_root_id", "pt_root_id", "pt_position_x", "pt_position_y", "pt_position_z"]
    put = pa.parquet.write_table if suffix == "parquet" else pa.feather.write_feather
    columns = [pa.array([1]), pa.array([ROOT]), pa.array([ROOT + 1]), *[pa.array([4])] * 3]
    put(pa.table(columns, names=names), tmp_path / f"nuclei.{suffix}")
    assert "the table has two columns 'pt_root_id'; keep one of them" in refusal(tmp_path / f"nuclei.{suffix}")


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "parquet", "feather"])
def test_files_that_cannot_be_read(tmp_path: Path, suffix: str) -> None:
    """A missing file, and bytes of another kind, are refused and named."""
    assert "no such file" in refusal(tmp_path / f"missing.{suffix}")
    path = tmp_path / f"noise.{suffix}"
    path.write_bytes(bytes(range(256)) * 8)
    refusal(path)


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    """Half a file is an error, not half a table."""
    frame = pd.DataFrame({"id": range(9999), "pt_root_id": range(9999)})
    frame = frame.assign(pt_position_x=1, pt_position_y=2, pt_position_z=3)
    for suffix in ("csv.gz", "parquet", "feather"):
        path = Path(write(frame, tmp_path / f"nuclei.{suffix}"))
        path.write_bytes(path.read_bytes()[:2000])
        refusal(path)


@pytest.mark.parametrize("name", ["nuclei.xlsx", "nuclei", "nuclei.parquet.gz", "nuclei.pkl"])
def test_unknown_kinds_are_refused(tmp_path: Path, name: str) -> None:
    """The suffix decides, and pickles are never read."""
    assert "expected .csv, .csv.gz, .parquet or .feather" in refusal(tmp_path / name)


def test_parquet_that_lost_digits_is_refused(tmp_path: Path) -> None:
    """Pandas makes floats of ids with gaps unless told otherwise; the line says what to do."""
    frame = nuclei_frame().assign(pt_root_id=[float(ROOT), np.nan])
    message = refusal(write(frame, tmp_path / "nuclei.parquet"))
    assert "pt_root_id" in message
    assert "Int64" in message


def test_lists_of_the_wrong_length_are_refused(tmp_path: Path) -> None:
    """A position has three numbers."""
    frame = pd.DataFrame({"id": [1, 2], "pt_root_id": [5, 6], "pt_position": [[1, 2, 3], [1, 2]]})
    assert "[1, 2] in row 2" in refusal(write(frame, tmp_path / "nuclei.parquet"))
    frame["pt_position"] = [["a", "b", "c"], ["d", "e", "f"]]
    assert "three numbers" in refusal(write(frame, tmp_path / "texts.parquet"))


def test_an_index_may_hold_a_column(tmp_path: Path) -> None:
    """A column that pandas kept as its index is a column of the file."""
    frame = nuclei_frame().set_index("id")
    found = tables(write(frame, tmp_path / "nuclei.parquet")).nuclei().frame
    assert found["nucleus_id"].tolist() == [1, 2]


def test_only_needed_columns_are_read(tmp_path: Path) -> None:
    """A large column that is not needed never comes into memory."""
    n = 200_000
    words = np.random.default_rng(1).bytes(200 * n)
    vectors = [words[start : start + 200] for start in range(0, len(words), 200)]
    frame = pd.DataFrame({"id": np.arange(n), "pt_root_id": 5, "vector": vectors})
    frame = frame.assign(pt_position_x=1, pt_position_y=2, pt_position_z=3)
    path = write(frame, tmp_path / "nuclei.parquet")
    assert Path(path).stat().st_size > 40e6
    # Kept for good: threads of Arrow may give memory back to it later.
    pool = pa.proxy_memory_pool(pa.default_memory_pool())
    _POOLS.append(pool)
    before = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        found = read_columns(path, ids=["id", "pt_root_id"], positions=["pt_position"])
    finally:
        pa.set_memory_pool(before)
    assert found.shape == (n, 5)
    assert 0 < pool.max_memory() < 20e6


@every_suffix
def test_synapses_of_a_box(tmp_path: Path, suffix: str) -> None:
    """Synapses onto the cells asked for, in the box, its faces included; none of a cell onto itself."""
    source = tables("unused.csv", write(synapse_frame(), tmp_path / f"synapses.{suffix}"))

    def found(roots: list[int], lower_x_nm: float, upper_x_nm: float) -> list[int]:
        lower, upper = [lower_x_nm, -1, -1], [upper_x_nm, 1, 1]
        made = source.synapses(np.array(roots, dtype=np.int64), lower, upper)
        assert made is not None
        assert made.resolution_nm == (4.0, 4.0, 40.0)
        return made.frame["synapse_id"].tolist()

    assert found([5], 0, 10_000) == [1, 2, 5]
    assert found([6, 5, 5], 0, 10_000) == [1, 2, 5, 3]
    assert found([5], 400, 800) == [1, 2]
    assert found([5], 405, 795) == []
    assert found([7], 0, 10_000) == []
    assert found([], 0, 10_000) == []
    with pytest.raises(TypeError, match="float64"):
        source.synapses([5.0], [0, 0, 0], [1, 1, 1])


def test_a_box_is_widened_to_voxels(tmp_path: Path) -> None:
    """A box that ends within a voxel holds this voxel, never less."""
    source = tables("unused.csv", write(synapse_frame(), tmp_path / "synapses.csv"))
    made = source.synapses([5], [403, 0, 0], [797, 0, 0])
    assert made is not None
    assert made.frame["synapse_id"].tolist() == [1, 2]


def test_post_pt_decides(tmp_path: Path) -> None:
    """Where a synapse lies is where its post_pt is; its resolution is its own."""
    frame = synapse_frame().assign(post_pt_position=[[float(x), 1.0, 2.0] for x in (1, 2, 3, 4, 5)])
    path = write(frame, tmp_path / "synapses.parquet")
    source = tables("unused.csv", path, synapse_resolution_nm=[1000, 1000, 1000])
    made = source.synapses([5, 6], [2000, 0, 0], [3000, 9000, 9000])
    assert made is not None
    assert made.frame["synapse_id"].tolist() == [2, 3]
    assert made.frame["post_y_vx"].tolist() == [1.0, 1.0]
    assert made.frame["ctr_x_vx"].tolist() == [200.0, 200.0]
    assert made.resolution_nm == source.synapse_resolution_nm == (1000.0, 1000.0, 1000.0)


@every_suffix
def test_post_pt_alone(tmp_path: Path, suffix: str) -> None:
    """A table without ctr_pt is used by post_pt; one without either names both."""
    frame = synapse_frame().rename(columns=lambda name: name.replace("ctr_pt", "post_pt"))
    source = tables("unused.csv", write(frame, tmp_path / f"synapses.{suffix}"), synapse_resolution_nm=[10, 10, 10])
    made = source.synapses([5, 6], [1500, 0, 0], [2500, 0, 0])
    assert made is not None
    assert made.frame["synapse_id"].tolist() == [2, 3]
    assert made.frame["ctr_x_vx"].tolist() == made.frame["post_x_vx"].tolist() == [200.0, 200.0]
    bare = tables("unused.csv", write(frame.filter(like="id"), tmp_path / f"bare.{suffix}"))
    with pytest.raises(DatasetError, match="no column ctr_pt_position or post_pt_position; the table has id, pre_pt"):
        bare.synapses([5], [0, 0, 0], [1, 1, 1])


@every_suffix
@pytest.mark.parametrize("column", ["target_id", "id_ref"])
def test_nuclei_saved_from_a_reference_table(tmp_path: Path, suffix: str, column: str) -> None:
    """Where another column says which nucleus a row means, the ids are not the nuclei's; equal ones, or words, are."""
    largest = 2**63 - 1
    frame = nuclei_frame().assign(id=[largest - 1, 1])
    said = refusal(write(frame.assign(**{column: [largest, 1]}), tmp_path / f"notes.{suffix}"))
    assert f"id is {largest - 1} and {column} is {largest} in row 1, as in a table that refers to another" in said
    for n, others in enumerate(([largest - 1, 1], pd.array([None, 1], dtype="Int64"), ["left", "right"])):
        same = tables(write(frame.assign(**{column: others}), tmp_path / f"nuclei-{n}.{suffix}"))
        assert same.nuclei().frame["nucleus_id"].tolist() == [1, largest - 1]


@one_folder
@given(
    rows=st.lists(st.tuples(st.integers(2, 9), st.integers(2, 9), st.integers(-9, 9)), min_size=1, max_size=40),
    roots=st.lists(st.integers(0, 10), max_size=5),
    ends=st.tuples(st.integers(-10, 10), st.integers(-10, 10)),
)
def test_look_up_finds_what_a_search_row_by_row_finds(
    tmp_path: Path, rows: list[tuple[int, int, int]], roots: list[int], ends: tuple[int, int]
) -> None:
    """The sorted table answers like a plain loop over the rows."""
    frame = pd.DataFrame(rows, columns=["pre_pt_root_id", "post_pt_root_id", "ctr_pt_position_x"])
    frame = frame.assign(id=range(len(rows)), ctr_pt_position_y=0, ctr_pt_position_z=0)
    source = tables("unused.csv", write(frame, tmp_path / "synapses.feather"), synapse_resolution_nm=[1, 1, 1])
    made = source.synapses(np.array(roots, dtype=np.int64), [min(ends), 0, 0], [max(ends), 0, 0])
    expected = [
        number
        for number, (pre, post, x) in enumerate(rows)
        if post in roots and pre != post and min(ends) <= x <= max(ends)
    ]
    assert made is not None
    assert sorted(made.frame["synapse_id"]) == expected


def test_a_dataset_without_synapses(tmp_path: Path) -> None:
    """No synapse table is not the same as no synapse."""
    source = tables(write(nuclei_frame(), tmp_path / "nuclei.csv"))
    assert source.synapses([5], [0, 0, 0], [1, 1, 1]) is None
    assert source.synapse_resolution_nm is None


def test_an_empty_table_of_synapses_is_refused(tmp_path: Path) -> None:
    """A file without rows is a mistake; a dataset without synapses leaves it out."""
    path = write(synapse_frame().iloc[:0], tmp_path / "synapses.parquet")
    with pytest.raises(DatasetError, match="empty; leave synapses out"):
        tables("unused.csv", path).synapses([5], [0, 0, 0], [1, 1, 1])


@every_suffix
def test_tables_on_s3(s3_url: str, suffix: str) -> None:
    """A table may lie at any URL that fsspec reads; one that is missing there is named."""
    url = f"{s3_url}/tables/nuclei.{suffix}"
    write(nuclei_frame(), url)
    assert tables(url).nuclei().frame["root_id"].tolist() == [0, ROOT]
    assert "no such file" in refusal(f"{s3_url}/tables/missing.{suffix}")


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (404, DatasetError, "no such file"),
        (403, DatasetError, "cannot be read: 403"),
        (503, TransientError, "cannot be read now: 503"),
    ],
)
def test_a_server_that_refuses(tmp_path: Path, status: int, kind: type[Exception], says: str) -> None:
    """A table that may not be read is not missing; a signature in its URL, which aiohttp repeats, is cut."""
    with FileServer(tmp_path) as server:
        server.faults["/nuclei.csv"] = Fault(status=status)
        url = server.url("nuclei.csv").removeprefix("precomputed://")
        with pytest.raises(kind) as caught:
            tables(f"{url}?signature=geheim").nuclei()
    assert f"/nuclei.csv: {says}" in str(caught.value)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("kind", [MemoryError, pa.lib.ArrowMemoryError, TypeError, AssertionError])
def test_faults_of_a_program_are_no_faults_of_a_file(
    tmp_path: Path, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lack of memory or a mistake in a program stays what it is, wherever the table is."""

    def fail(*_: object, **__: object) -> None:
        raise kind("made to fail")

    write(nuclei_frame(), tmp_path / "nuclei.csv")
    monkeypatch.setattr("pyarrow.csv.read_csv", fail)
    for place in (str(tmp_path / "nuclei.csv"), f"file://{tmp_path}/nuclei.csv"):
        with pytest.raises(kind, match="made to fail"):
            tables(place).nuclei()


@pytest.mark.parametrize("place", ["s3:/bucket/nuclei.csv", "S3://bucket/nuclei.csv", "https:/host/nuclei.csv"])
def test_a_misspelt_url(place: str) -> None:
    """A URL that would be read as the path of a file says what is wrong with it."""
    with pytest.raises(DatasetError) as caught:
        read_columns(place, ids=["id"], positions=())
    assert str(caught.value).startswith(f"{place}: not a valid URL; did you mean {place.split(':')[0].lower()}://")


def test_a_server_that_is_down(tmp_path: Path) -> None:
    """A table on a server that nobody can reach is not one that is missing."""
    with FileServer(tmp_path) as server:
        url = server.url("nuclei.csv").removeprefix("precomputed://")
    with pytest.raises(TransientError, match=r"/nuclei\.csv: cannot be read now: Cannot connect to host") as caught:
        tables(f"{url}?signature=geheim").nuclei()
    assert "geheim" not in str(caught.value)


def test_a_kind_of_url_that_nobody_knows() -> None:
    """A URL of a protocol that is not meant is refused for good, whoever names it."""
    with pytest.raises(DatasetError, match="nowhere://"):
        read_columns("nowhere://bucket/nuclei.csv", ids=["id"], positions=[])


@pytest.mark.parametrize(("scene", "n_nuclei", "n_synapses"), [("real_soma", 1, 280), ("phantom_scene", 2, 591)])
@every_suffix
def test_a_dataset_made_of_a_shared_scene(
    tmp_path: Path, suffix: str, scene: str, n_nuclei: int, n_synapses: int
) -> None:
    """A scene's own tables, in every format and in the units of its own file, come back whole."""
    folder = scene_of(scene)
    rows = json.loads((folder / "tables.json").read_text())
    for name in ("nuclei", "synapses"):
        write(pd.DataFrame(rows[name]), tmp_path / f"{name}.{suffix}")
    (tmp_path / "scene.toml").write_text(
        f'name = "{scene}"\nmip = 0\nsegmentation = "{folder}/seg"\n[files]\nnuclei = "nuclei.{suffix}"\n'
        f'synapses = "synapses.{suffix}"\nresolution_nm = [4, 4, 40]\nnucleus_segmentation = "{folder}/nuclei"\n'
    )
    dataset = load_dataset(tmp_path / "scene.toml")
    source = open_source(dataset)
    nuclei = source.nuclei().frame
    assert list(zip(nuclei["nucleus_id"], nuclei["root_id"], nuclei["x_vx"], strict=True)) == [
        (row["id"], row["pt_root_id"], row["pt_position"][0]) for row in rows["nuclei"]
    ]
    everywhere = source.synapses(nuclei["root_id"].to_numpy(), [-1e9] * 3, [1e9] * 3)
    assert everywhere is not None
    onto = {row["pt_root_id"] for row in rows["nuclei"]}
    expected = [
        row["id"]
        for row in rows["synapses"]
        if row["post_pt_root_id"] in onto and row["pre_pt_root_id"] != row["post_pt_root_id"]
    ]
    assert len(nuclei) == n_nuclei
    assert len(rows["synapses"]) == n_synapses
    assert sorted(everywhere.frame["synapse_id"]) == sorted(expected)
    assert open_segmentation_url(dataset, source) == f"precomputed://file://{folder}/seg"
    assert source.nucleus_segmentation == f"precomputed://file://{folder}/nuclei"
    assert (source.version, source.timestamp) == (0, None)
