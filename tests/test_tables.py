"""Tables of nuclei and synapses, from raw frames of every kind that CAVE and files give."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from caveclient.materializationengine import concatenate_position_columns
from hypothesis import given
from hypothesis import strategies as st
from shared import RECORDINGS

from somatic.errors import DatasetError
from somatic.tables import nuclei_from_raw, synapses_from_raw

ROOT = 864691135012345678
RESOLUTION = (4, 4, 40)
LARGEST = 2**63 - 1

recorded_answers = pytest.mark.skipif(not RECORDINGS.is_dir(), reason=f"needs the recordings in {RECORDINGS}")
some_ids = st.lists(st.integers(0, LARGEST), min_size=1, max_size=30, unique=True)


def recorded(number: str) -> pd.DataFrame:
    """A recorded answer of CAVE, as caveclient reads it."""
    with pa.ipc.open_stream((RECORDINGS / f"{number}.arrow").read_bytes()) as stream:
        return stream.read_pandas()


def nuclei_frame(**changes: object) -> pd.DataFrame:
    """Three nuclei, with other columns where a test says so; None takes a column away."""
    columns: dict[str, object] = {
        "id": [30, 10, 20],
        "pt_root_id": [ROOT, ROOT + 1, 0],
        "pt_position_x": [1, 4, 7],
        "pt_position_y": [2, 5, 8],
        "pt_position_z": [3, 6, 9],
    }
    columns.update(changes)
    return pd.DataFrame({name: values for name, values in columns.items() if values is not None})


def synapse_frame(**changes: object) -> pd.DataFrame:
    """Three synapses, the second of a cell onto itself."""
    columns: dict[str, object] = {
        "id": [3, 2, 1],
        "pre_pt_root_id": [8, 7, 0],
        "post_pt_root_id": [7, 7, 7],
        "ctr_pt_position_x": [1, 4, 7],
        "ctr_pt_position_y": [2, 5, 8],
        "ctr_pt_position_z": [3, 6, 9],
    }
    columns.update(changes)
    return pd.DataFrame({name: values for name, values in columns.items() if values is not None})


def nuclei(raw: pd.DataFrame) -> pd.DataFrame:
    """The frame of nuclei that comes out."""
    return nuclei_from_raw(raw, resolution_nm=RESOLUTION, where="nuclei.csv").frame


def synapses(raw: pd.DataFrame) -> pd.DataFrame:
    """The frame of synapses that comes out."""
    return synapses_from_raw(raw, resolution_nm=RESOLUTION, where="synapses.csv").frame


def refusal(make: object, raw: pd.DataFrame) -> str:
    """The one line with which a table is refused."""
    with pytest.raises(DatasetError) as caught:
        make(raw)  # type: ignore[operator]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nuclei_are_sorted_and_typed() -> None:
    """Rows come out by nucleus id with the types that the rest of the code relies on."""
    frame = nuclei(nuclei_frame())
    assert frame.to_numpy().tolist() == [[10, ROOT + 1, 4, 5, 6], [20, 0, 7, 8, 9], [30, ROOT, 1, 2, 3]]
    assert [str(kind) for kind in frame.dtypes] == ["int64", "int64", "Int64", "Int64", "Int64"]
    assert list(frame.columns) == ["nucleus_id", "root_id", "x_vx", "y_vx", "z_vx"]


@pytest.mark.parametrize("joined", [False, True], ids=["split", "joined"])
@recorded_answers
def test_a_recorded_view_of_nuclei(joined: bool) -> None:
    """A view as CAVE answered it: 300 nuclei, roots NA (1) and 0 (6) become 0, both forms of positions agree."""
    raw = recorded("027")
    if joined:
        raw = concatenate_position_columns(raw)
    made = nuclei_from_raw(raw, position_column="pt_position_lookup", resolution_nm=RESOLUTION, where="view")
    frame = made.frame.set_index("nucleus_id")
    assert len(frame) == 300
    assert (frame["root_id"] == 0).sum() == 7
    assert frame.loc[200001].tolist() == [864691130000000001, 102842, 82331, 14532]
    assert made.resolution_nm == (4.0, 4.0, 40.0)


@recorded_answers
def test_a_recorded_synapse_query() -> None:
    """Synapses as CAVE answered them: 19 rows, ctr_pt and post_pt both kept."""
    frame = synapses(recorded("024"))
    assert len(frame) == 19
    assert list(next(frame.itertuples(index=False))) == [
        *(79, 864691130000000009, 864691130000000004),
        *(165480, 131074, 26732),
        *(165482, 131076, 26734),
        3933,
    ]


@recorded_answers
def test_a_recorded_answer_without_rows() -> None:
    """No synapse is a valid answer of CAVE, with all columns in their types."""
    frame = synapses(recorded("035"))
    assert len(frame) == 0
    assert [str(kind) for kind in frame.dtypes] == ["int64"] * 3 + ["float64"] * 7


@pytest.mark.parametrize("kind", ["int64", "uint64", "Int64", "UInt64", "object", "int64[pyarrow]"])
@given(ids=some_ids)
def test_ids_survive_exactly(kind: str, ids: list[int]) -> None:
    """Every id up to 2^63-1 comes out as it went in, whatever integer type holds it."""
    raw = pd.DataFrame({"id": pd.array(ids, dtype=kind), "pt_root_id": pd.array(ids[::-1], dtype=kind)})
    raw = raw.assign(pt_position_x=1, pt_position_y=2, pt_position_z=3)
    frame = nuclei(raw)
    expected = sorted(zip(ids, [0 if root == 1 else root for root in ids[::-1]], strict=True))
    assert frame["nucleus_id"].tolist() == [number for number, _ in expected]
    assert frame["root_id"].tolist() == [root for _, root in expected]
    assert frame["root_id"].dtype == np.int64


@pytest.mark.parametrize(
    "roots",
    [
        pd.array([ROOT, None, 1], dtype="Int64"),
        pd.array([ROOT, 0, None], dtype="int64[pyarrow]"),
        [ROOT, None, 0],
        pd.Series([ROOT, None, float("nan")], dtype=object),
    ],
    ids=["Int64", "pyarrow", "None", "NaN among integers"],
)
def test_a_missing_root_is_zero(roots: object) -> None:
    """NA, 0 and 1 mean no root, and do not cost the other roots their digits."""
    raw = nuclei_frame(pt_root_id=pd.Series(roots, dtype=object if isinstance(roots, list) else None))
    assert nuclei(raw)["root_id"].tolist() == [0, 0, ROOT]


def test_small_ids_may_be_floats_with_gaps() -> None:
    """Pandas makes floats of integers with gaps; below 2^53 nothing was lost."""
    raw = nuclei_frame(pt_root_id=[2.0**53 - 1, np.nan, 7.0])
    assert nuclei(raw)["root_id"].tolist() == [0, 7, 2**53 - 1]


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("pt_root_id", [7.0, float(ROOT), 9.0], ["pt_root_id", "row 2", "floats", "Int64"]),
        ("pt_root_id", [7.0, 8.5, 9.0], ["8.5", "row 2"]),
        ("pt_root_id", [7.0, np.inf, 9.0], ["inf", "row 2"]),
        ("pt_root_id", pd.Series([7, float(ROOT), 9], dtype=object), ["float", "row 2"]),
        ("pt_root_id", ["7", "8", "9"], ["'7'", "str", "row 1", "int64"]),
        ("pt_root_id", [True, False, True], ["True", "bool", "row 1"]),
        ("pt_root_id", np.array([7, 2**63, 9], dtype=np.uint64), ["9223372036854775808", "row 2", "2^63-1"]),
        ("pt_root_id", pd.Series([7, 2**70, 9], dtype=object), [str(2**70), "row 2", "2^63-1"]),
        ("pt_root_id", [7, 8, -9], ["-9", "row 3"]),
        ("id", [5, 6, 5], ["id 5", "2 rows"]),
        ("id", pd.array([5, None, 7], dtype="Int64"), ["id is empty in row 2"]),
        ("id", None, ["no column id", "pt_root_id, pt_position_x"]),
        ("pt_root_id", None, ["no column pt_root_id"]),
        ("pt_position_y", None, ["no column pt_position", "pt_position_x, pt_position_z"]),
        ("pt_position_y", [1, 2, np.inf], ["pt_position is", "inf", "row 3"]),
        ("pt_position_y", ["1", "2", "three"], ["pt_position_y", "numbers", "three"]),
        ("pt_position_y", [True, True, False], ["pt_position_y", "numbers"]),
    ],
)
def test_wrong_nuclei_are_refused(column: str, values: object, said: list[str]) -> None:
    """What cannot be right is refused with table, column, row and value."""
    message = refusal(nuclei, nuclei_frame(**{column: values}))
    assert message.startswith("nuclei.csv: ")
    assert [part for part in said if part not in message] == []


def test_an_empty_table_of_nuclei_is_refused() -> None:
    """A table without rows is a mistake somewhere."""
    assert "empty" in refusal(nuclei, nuclei_frame().iloc[:0])


@pytest.mark.parametrize(
    "points",
    [
        [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
        [(1, 2, 3), (4, 5, 6), (7, 8, 9)],
        [np.array([1, 2, 3]), np.array([4.0, 5.0, 6.0]), np.array([7, 8, 9], dtype=np.int32)],
    ],
    ids=["lists", "tuples", "arrays"],
)
def test_positions_may_be_joined(points: list[object]) -> None:
    """A column of (x, y, z) gives what three columns give."""
    raw = nuclei_frame(pt_position_x=None, pt_position_y=None, pt_position_z=None, pt_position=points)
    pd.testing.assert_frame_equal(nuclei(raw), nuclei(nuclei_frame()))


@pytest.mark.parametrize(
    "changes",
    [
        {"pt_position_y": [2, np.nan, 8]},
        {"pt_position_y": pd.array([2, None, 8], dtype="Int32")},
        {"pt_position_x": None, "pt_position": [[1, 2, 3], None, [7, 8, 9]]},
        {"pt_position_x": None, "pt_position": [[1, 2, 3], [4, pd.NA, 6], [7, 8, 9]]},
    ],
)
def test_a_row_without_a_position_has_none(changes: dict[str, object]) -> None:
    """A row that lacks any part of its position has NA in all three; the others keep theirs."""
    frame = nuclei(nuclei_frame(**changes))
    assert frame.loc[0, ["x_vx", "y_vx", "z_vx"]].isna().all()
    assert frame.loc[1:, ["x_vx", "y_vx", "z_vx"]].to_numpy().tolist() == [[7, 8, 9], [1, 2, 3]]


def test_positions_are_rounded_to_voxels() -> None:
    """A nucleus lies at a voxel: the nearest one."""
    frame = nuclei(nuclei_frame(pt_position_x=[1.4, -4.6, 7.0]))
    assert frame["x_vx"].tolist() == [-5, 7, 1]


@pytest.mark.parametrize("point", ["[1, 2, 3]", [1, 2], [1, 2, "3"], 5])
def test_a_position_that_is_none_is_refused(point: object) -> None:
    """A joined position is three numbers; the line shows what it was and where."""
    raw = nuclei_frame(pt_position_x=None, pt_position=[[1, 2, 3], point, [7, 8, 9]])
    message = refusal(nuclei, raw)
    assert repr(point) in message
    assert "row 2" in message


def test_other_column_names() -> None:
    """Tables name their columns as they like."""
    raw = nuclei_frame().rename(columns=lambda name: name.replace("pt_", "soma_").replace("id", "ID"))
    made = nuclei_from_raw(
        raw,
        id_column="ID",
        root_column="soma_root_ID",
        position_column="soma_position",
        resolution_nm=[9, 9, 45],
        where="table",
    )
    pd.testing.assert_frame_equal(made.frame, nuclei(nuclei_frame()))
    assert made.resolution_nm == (9.0, 9.0, 45.0)


def test_synapses_onto_the_same_cell_are_dropped() -> None:
    """A synapse of a cell onto itself does not count; one from an unknown cell does."""
    frame = synapses(synapse_frame())
    assert frame["synapse_id"].tolist() == [1, 3]
    assert frame["pre_root_id"].tolist() == [0, 8]


def test_synapses_are_sorted_by_cell() -> None:
    """The order of the rows that CAVE happens to send does not show."""
    raw = synapse_frame(post_pt_root_id=[9, 5, 5], pre_pt_root_id=[1, 2, 3])
    assert synapses(raw)["synapse_id"].tolist() == [1, 2, 3]
    pd.testing.assert_frame_equal(synapses(raw), synapses(raw.iloc[::-1]))


def test_synapses_without_post_pt_take_their_centre() -> None:
    """Where the source has no post_pt, in the table or in a row, ctr_pt serves for both."""
    bare = synapses(synapse_frame())
    assert bare[["post_x_vx", "post_y_vx", "post_z_vx"]].to_numpy().tolist() == [[7, 8, 9], [1, 2, 3]]
    some = synapses(synapse_frame(post_pt_position=[[1.5, 2, 3], [4, 5, 6], None]))
    assert some[["post_x_vx", "post_y_vx", "post_z_vx"]].to_numpy().tolist() == [[7, 8, 9], [1.5, 2, 3]]
    assert some[["ctr_x_vx", "ctr_y_vx", "ctr_z_vx"]].to_numpy().tolist() == [[7, 8, 9], [1, 2, 3]]


def test_synapses_without_ctr_pt_take_their_post_pt() -> None:
    """FlyWire's tables have no ctr_pt: post_pt serves for both."""
    renamed = synapse_frame().rename(columns=lambda name: name.replace("ctr_pt", "post_pt"))
    for prefix in ("ctr", "post"):
        points = synapses(renamed)[[f"{prefix}_{axis}_vx" for axis in "xyz"]]
        assert points.to_numpy().tolist() == [[7, 8, 9], [1, 2, 3]]
    renamed["post_pt_position_x"] = [1, np.nan, 7]
    assert "post_pt_position is empty in row 2" in refusal(synapses, renamed)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id": [1, 2, 1]}, ["id 1", "2 rows"]),
        ({"ctr_pt_position_z": [3, 6, np.nan]}, ["ctr_pt_position", "row 3"]),
        ({"ctr_pt_position_z": None}, ["no column ctr_pt_position or post_pt_position"]),
        ({"pre_pt_root_id": None}, ["no column pre_pt_root_id"]),
        ({"post_pt_root_id": [7.0, float(ROOT), 7.0]}, ["post_pt_root_id", "row 2", "Int64"]),
    ],
)
def test_wrong_synapses_are_refused(changes: dict[str, object], said: list[str]) -> None:
    """What would miscount synapses is refused with column and row."""
    message = refusal(synapses, synapse_frame(**changes))
    assert [part for part in said if part not in message] == []


@pytest.mark.parametrize("resolution", [(4, 4), (4, 4, 0), (4, 4, np.nan), (4, 4, -40)])
def test_a_resolution_is_three_lengths(resolution: tuple[float, ...]) -> None:
    """A table without a usable voxel size is refused."""
    with pytest.raises(DatasetError, match="three lengths in nm"):
        nuclei_from_raw(nuclei_frame(), resolution_nm=resolution, where="table")
