"""Synapses as `somatic.cave.tables` reads them from a CAVE server."""

import numpy as np
import pandas as pd
import pytest
from cave_stack import (
    BIG,
    DATASTACK,
    N_SYNAPSES,
    SYNAPSE_NM,
    TOKEN,
    opened,
    synapse_frame,
    synapses_by_hand,
    with_tables,
)

from sandbox.cave.server import CaveServer, CaveTable
from somatic.errors import DatasetError


@pytest.mark.parametrize("version", [943, 1300])
@pytest.mark.parametrize(
    ("table", "point", "centre"),
    [
        ("synapses", "post_pt", "ctr_pt"),
        ("synapses_centre_only", "ctr_pt", "ctr_pt"),
        ("synapses_post_only", "post_pt", "post_pt"),
    ],
)
@pytest.mark.parametrize("cap", [30, 500_000])
def test_synapses_in_a_box(version: int, table: str, point: str, centre: str, cap: int) -> None:
    """All synapses of the roots in the box come, at their own table's voxel size, and none two voxels outside of it.

    Where a table has one of the two points only, as FlyWire's, it stands for both.
    """
    lower_nm, upper_nm = np.array([970.0, 0.0, 4500.0]), np.array([3000.0, 2910.0, 15000.0])
    roots = [BIG, BIG + 6]
    with CaveServer(DATASTACK, token=TOKEN, row_cap=cap) as server:
        synapses = opened(server, version, synapses=table).synapses(np.array(roots), lower_nm, upper_nm)
    assert synapses is not None
    assert synapses.resolution_nm == SYNAPSE_NM
    found = synapses.frame.set_index("synapse_id")
    inside = synapses_by_hand(roots, lower_nm, upper_nm, point)
    margin_nm = 2 * np.array(SYNAPSE_NM)
    nearby = synapses_by_hand(roots, lower_nm - margin_nm, upper_nm + margin_nm, point)
    assert len(inside) > 20
    assert set(inside["id"]) <= set(found.index) <= set(nearby["id"])
    assert found.index.is_unique
    truth = nearby.set_index("id").loc[found.index]
    assert (found["pre_root_id"] == truth["pre_pt_root_id"]).all()
    assert (found["post_root_id"] == truth["post_pt_root_id"]).all()
    for axis in "xyz":
        assert (found[f"ctr_{axis}_vx"] == truth[f"{centre}_position_{axis}"]).all()
        assert (found[f"post_{axis}_vx"] == truth[f"{point}_position_{axis}"]).all()


def test_a_point_on_the_face_of_the_box_is_in_it(server: CaveServer) -> None:
    """Rounding a box to voxels never loses a point on its faces, a box without extent included."""
    frame = synapse_frame()
    tables = opened(server, synapses="synapses")
    for row in (1, 2, 3):
        point_nm = frame.loc[row, [f"post_pt_position_{axis}" for axis in "xyz"]].to_numpy(float) * SYNAPSE_NM
        synapses = tables.synapses([frame["post_pt_root_id"][row]], point_nm, point_nm)
        assert synapses is not None
        assert frame["id"][row] in synapses.frame["synapse_id"].tolist()


def test_many_roots_are_asked_for_in_batches(server: CaveServer) -> None:
    """250 roots take three queries, and each query is one request."""
    tables = opened(server, synapses="synapses")
    tables.synapses([BIG], [0, 0, 0], [1, 1, 1])
    before = len(server.requests)
    everything = tables.synapses(BIG + 3 * np.arange(250), [-100, -100, -100], [1e5, 1e5, 1e5])
    assert everything is not None
    assert len(everything.frame) == N_SYNAPSES - N_SYNAPSES // 9
    assert [request.method for request in server.requests[before:]] == ["POST"] * 3


def test_no_root_is_no_query(server: CaveServer) -> None:
    """0 and 1 mean no root: nothing is asked for them, and the answer is an empty table of the right types."""
    tables = opened(server, synapses="synapses")
    tables.synapses([BIG], [0, 0, 0], [1, 1, 1])
    before = len(server.requests)
    for nothing in ([0, 1], []):
        synapses = tables.synapses(nothing, [0, 0, 0], [1e5, 1e5, 1e5])
        assert synapses is not None
        assert synapses.frame.empty
        assert synapses.frame["post_root_id"].dtype == np.int64
    assert len(server.requests) == before


@pytest.mark.parametrize("roots", [[str(BIG)], [float(BIG)], np.array([BIG], dtype=object)])
def test_root_ids_must_be_integers(server: CaveServer, roots: list) -> None:
    """Strings, to which CAVE gives wrong rows, floats and objects are refused."""
    with pytest.raises(TypeError, match="root ids must be integers"):
        opened(server, synapses="synapses").synapses(roots, [0, 0, 0], [1, 1, 1])


@pytest.mark.parametrize(("lower", "upper"), [([5, 5, 5], [1, 1, 1]), ([0, 0], [1, 1]), ([0, 0, 0], [1, 1, np.nan])])
def test_box_must_be_a_box(server: CaveServer, lower: list, upper: list) -> None:
    """Corners the wrong way round, too few numbers and NaN are refused before anything is sent."""
    with pytest.raises(ValueError, match="not a box"):
        opened(server, synapses="synapses").synapses([BIG], lower, upper)


def test_dataset_without_synapses(server: CaveServer) -> None:
    """Without a synapse table the answer is None, and so is its resolution."""
    tables = opened(server)
    assert tables.synapses([BIG], [0, 0, 0], [1, 1, 1]) is None
    assert tables.synapse_resolution_nm is None


def test_synapse_table_that_is_none(server: CaveServer) -> None:
    """A table without the columns of synapses says which are missing and which it has."""
    with pytest.raises(DatasetError, match="no column pre_pt_root_id; the table has id, "):
        opened(server, synapses="nucleus_detection_v0").synapses([BIG], [0, 0, 0], [1, 1, 1])


def test_synapse_table_without_points() -> None:
    """Neither ctr_pt nor post_pt: both are named."""
    frame = synapse_frame().filter(regex="^(?!ctr_|post_pt_pos)")
    with (
        CaveServer(with_tables(bare=CaveTable(frame, SYNAPSE_NM, "synapse")), token=TOKEN) as server,
        pytest.raises(DatasetError, match="no column ctr_pt_position or post_pt_position; the table has id, "),
    ):
        opened(server, synapses="bare").synapses([BIG], [0, 0, 0], [1, 1, 1])


def test_notes_on_synapses() -> None:
    """A table that only refers to synapses names the table to use; one that has all columns of its own is used."""
    notes = pd.DataFrame({"id": [1, 2], "target_id": synapse_frame()["id"][:2], "tag": "spine"})
    own = synapse_frame().assign(target_id=synapse_frame()["id"].to_numpy()[::-1])
    reference = {"schema_type": "synapse_reference", "reference_table": "synapses", "resolution_nm": SYNAPSE_NM}
    stack = with_tables(notes=CaveTable(frame=notes, **reference), own=CaveTable(frame=own, **reference))
    everywhere = [-100, -100, -100], [1e5, 1e5, 1e5]
    with CaveServer(stack, token=TOKEN) as server:
        with pytest.raises(DatasetError, match='it only refers to synapses; write synapses = "synapses"') as caught:
            opened(server, synapses="notes").synapses([BIG], *everywhere)
        assert "\n" not in str(caught.value)
        found, truth = (opened(server, synapses=name).synapses([BIG], *everywhere) for name in ("own", "synapses"))
        assert found is not None
        assert truth is not None
        pd.testing.assert_frame_equal(found.frame, truth.frame)
        assert [request.status for request in server.requests].count(500) == 0
