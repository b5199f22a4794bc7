"""Which nuclei are planned, in which order, in which chunks, and what that will take."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import FIRST_ID, FIRST_ROOT, RADIUS_NM, RESOLUTION_NM, made_nuclei

from somatic.errors import PermanentError, StoreError
from somatic.extracting.estimate import LayerSize, make_estimate, voxels_to_read
from somatic.planning.hilbert import hilbert_index
from somatic.planning.plan import (
    NO_POSITION,
    NO_ROOT,
    Plan,
    load_plan,
    make_plan,
    n_nuclei_in_segment,
    save_plan,
    skipped_rows,
    with_nothing_done,
)
from somatic.storage.store import ResultStore
from somatic.tables import Nuclei


def ids(plan: Plan) -> list[int]:
    """Nucleus ids of a plan, counted from FIRST_ID."""
    return [nucleus_id - FIRST_ID for nucleus_id in plan.rows["nucleus_id"].tolist()]


@pytest.mark.parametrize("bits", [1, 2, 3, 5])
def test_curve_visits_every_cell_and_steps_to_a_neighbour(bits: int) -> None:
    """The curve passes each cell of a grid once, and consecutive cells share a face."""
    side = range(2**bits)
    grid = np.array([(x, y, z) for x in side for y in side for z in side])
    index = hilbert_index(grid, bits)
    assert sorted(index.tolist()) == list(range(8**bits))
    steps = np.abs(np.diff(grid[np.argsort(index)], axis=0)).sum(axis=1)
    assert (steps == 1).all()


def test_curve_through_two_by_two_by_two() -> None:
    """The smallest curve is the Gray code: one coordinate changes at each step, from corner to corner."""
    path = [(0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0), (1, 1, 0), (1, 1, 1), (1, 0, 1), (1, 0, 0)]
    assert hilbert_index(np.array(path), 1).tolist() == list(range(8))


def test_curve_refuses_what_lies_outside() -> None:
    """A cell outside the grid has no place on the curve."""
    with pytest.raises(ValueError, match="between 0 and 3"):
        hilbert_index(np.array([[0, 4, 0]]), 2)


def test_neighbours_share_chunks() -> None:
    """Cells in eight far clusters of ten make eight chunks of ten, one a cluster."""
    corners = np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * [40_000, 40_000, 4_000]
    jitter = np.random.default_rng(1).integers(0, 1_000, (80, 3))
    positions = np.tile(corners, (10, 1)) + jitter
    nuclei = made_nuclei(80)
    nuclei.frame[["x_vx", "y_vx", "z_vx"]] = pd.DataFrame(positions, dtype="Int64")
    rows = make_plan(nuclei, radius_nm=RADIUS_NM, chunk=10).rows
    clusters = [(rows.loc[rows["chunk"] == chunk, "nucleus_id"] - FIRST_ID) % 8 for chunk in range(8)]
    assert [len(cluster) for cluster in clusters] == [10] * 8
    assert all(cluster.nunique() == 1 for cluster in clusters)


def test_plan_of_a_table_that_is_read_by_eye() -> None:
    """Every nucleus stands in the plan once, with root, centre, chunk and, when skipped, the reason."""
    nuclei = made_nuclei(7, rootless=[2], placeless=[2, 5])
    plan = make_plan(nuclei, radius_nm=RADIUS_NM, chunk=2)
    rows = plan.rows.set_index("nucleus_id")
    assert sorted(ids(plan)) == [0, 1, 2, 3, 4, 5, 6]
    assert sorted(rows["chunk"]) == [-1, -1, 0, 0, 1, 1, 2]
    assert plan.n_chunks == 3
    assert rows.loc[FIRST_ID + 2, "status_reason"] == NO_ROOT
    assert rows.loc[FIRST_ID + 5, "status_reason"] == NO_POSITION
    assert rows.loc[FIRST_ID + 2, "soma_id"] == 0
    assert rows.loc[FIRST_ID + 3, "soma_id"] == FIRST_ROOT + 3
    assert rows["status_reason"].isna().sum() == 5
    assert (rows["attempt"] == 1).all()
    asked = nuclei.frame.set_index("nucleus_id").loc[FIRST_ID + 3, ["x_vx", "y_vx", "z_vx"]]
    assert rows.loc[FIRST_ID + 3, ["x_vx", "y_vx", "z_vx"]].tolist() == asked.tolist()


def test_nuclei_that_share_a_root_are_counted_over_the_whole_table() -> None:
    """A root with three nuclei says 3 also when only one of them is planned; no root says 0."""
    nuclei = made_nuclei(6, rootless=[4, 5])
    nuclei.frame.loc[[0, 1, 3], "root_id"] = FIRST_ROOT
    assert n_nuclei_in_segment(nuclei.frame["root_id"]).tolist() == [3, 3, 1, 3, 0, 0]
    rows = make_plan(nuclei, radius_nm=RADIUS_NM, ids=[FIRST_ID + 3, FIRST_ID + 5]).rows
    assert dict(zip(rows["nucleus_id"] - FIRST_ID, rows["n_nuclei_in_segment"], strict=True)) == {3: 3, 5: 0}


def test_limit_takes_the_first_by_id() -> None:
    """A limit means the smallest ids, not the first along the curve; more than there are means all."""
    nuclei = made_nuclei(30)
    assert sorted(ids(make_plan(nuclei, radius_nm=RADIUS_NM, limit=4))) == [0, 1, 2, 3]
    assert sorted(ids(make_plan(nuclei, radius_nm=RADIUS_NM, limit=99))) == list(range(30))


def test_sample_is_the_same_for_any_table_and_grows() -> None:
    """A sample hangs on ids and seed only, is spread, and is part of each larger sample."""
    nuclei = made_nuclei(200)
    four, forty = (set(ids(make_plan(nuclei, radius_nm=RADIUS_NM, sample=n))) for n in (4, 40))
    assert len(four) == 4
    assert four < forty
    assert forty != set(range(40))
    elsewhere = made_nuclei(200, seed=5)
    assert set(ids(make_plan(elsewhere, radius_nm=RADIUS_NM, sample=40))) == forty
    assert set(ids(make_plan(nuclei, radius_nm=RADIUS_NM, sample=40, seed=1))) != forty
    # Written down, since a scientist's sample of today must be that of next year.
    assert four == {11, 88, 139, 184}


def test_explicit_ids() -> None:
    """Nuclei that are named are planned, however often they are named; limit and sample choose among them."""
    nuclei = made_nuclei(30)
    named = [FIRST_ID + i for i in (21, 3, 3, 12)]
    assert sorted(ids(make_plan(nuclei, radius_nm=RADIUS_NM, ids=named))) == [3, 12, 21]
    assert sorted(ids(make_plan(nuclei, radius_nm=RADIUS_NM, ids=named, limit=2))) == [3, 12]
    assert set(ids(make_plan(nuclei, radius_nm=RADIUS_NM, ids=named, sample=1))) < {3, 12, 21}


def test_a_plan_as_if_nothing_had_been_done() -> None:
    """Chunks as of a plan of the same nuclei that was made before any of them was measured."""
    nuclei = made_nuclei(40, rootless=[3])
    whole = make_plan(nuclei, radius_nm=RADIUS_NM, chunk=7)
    half = make_plan(
        nuclei, radius_nm=RADIUS_NM, chunk=7, is_done=lambda rows: (rows["nucleus_id"] % 2 == 0).to_numpy()
    )
    assert half.n_chunks < whole.n_chunks
    assert with_nothing_done(half, 7)["chunk"].tolist() == whole.rows["chunk"].tolist()


def test_unknown_ids_are_named() -> None:
    """Ids that are no nuclei are refused, five of them named."""
    wrong = [FIRST_ID - i for i in range(1, 8)]
    with pytest.raises(PermanentError) as caught:
        make_plan(made_nuclei(3), radius_nm=RADIUS_NM, ids=[FIRST_ID, *wrong])
    named = ", ".join(str(nucleus_id) for nucleus_id in sorted(wrong)[:5])
    assert str(caught.value) == (
        f"no such nucleus in the table of 3 nuclei: {named}, ...; check the ids and the version"
    )


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ({"chunk": 0}, "chunk is 0; it must be 1 or more"),
        ({"limit": 0}, "limit is 0"),
        ({"sample": -1}, "sample is -1"),
        ({"limit": 2, "sample": 2}, "choose one of them"),
    ],
)
def test_numbers_that_make_no_plan(choice: dict, text: str) -> None:
    """A number that makes no sense is refused with its name."""
    with pytest.raises(PermanentError, match=text):
        make_plan(made_nuclei(3), radius_nm=RADIUS_NM, **choice)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 40),
    chunk=st.integers(1, 12),
    limit=st.none() | st.integers(1, 50),
    rootless=st.sets(st.integers(0, 39)),
    placeless=st.sets(st.integers(0, 39)),
)
def test_every_chosen_nucleus_once(
    n: int, chunk: int, limit: int | None, rootless: set[int], placeless: set[int]
) -> None:
    """Whatever the table: each chosen nucleus once, chunks without gaps, all full but the last."""
    nuclei = made_nuclei(max(n, 1), rootless=list(rootless), placeless=list(placeless))
    plan = make_plan(nuclei, radius_nm=RADIUS_NM, chunk=chunk, limit=limit)
    expected = range(max(n, 1))[:limit]
    assert sorted(ids(plan)) == list(expected)
    measured = [i for i in expected if i not in rootless and i not in placeless]
    sizes = plan.rows.loc[plan.rows["chunk"] >= 0, "chunk"].value_counts().sort_index()
    assert sizes.index.tolist() == list(range(plan.n_chunks))
    assert sizes.sum() == len(measured)
    assert (sizes.iloc[:-1] == chunk).all()


def test_order_of_the_table_does_not_matter() -> None:
    """The same nuclei in another order of rows make the same plan."""
    nuclei = made_nuclei(50, rootless=[7])
    shuffled = Nuclei(nuclei.frame.sample(frac=1, random_state=1), nuclei.resolution_nm)
    plan, again = (make_plan(table, radius_nm=RADIUS_NM, chunk=7) for table in (nuclei, shuffled))
    pd.testing.assert_frame_equal(plan.rows, again.rows)
    assert plan.hash == again.hash


def test_hash_moves_with_everything_that_is_planned() -> None:
    """Another root, centre, chunk size, attempt or resolution makes another plan."""
    nuclei = made_nuclei(20)
    other_root, other_place = made_nuclei(20), made_nuclei(20)
    other_root.frame.loc[3, "root_id"] += 1
    other_place.frame.loc[3, "z_vx"] += 1
    plans = [
        make_plan(nuclei, radius_nm=RADIUS_NM),
        make_plan(nuclei, radius_nm=RADIUS_NM, chunk=9),
        make_plan(nuclei, radius_nm=RADIUS_NM, attempts={FIRST_ID + 1: 2}),
        make_plan(nuclei, radius_nm=RADIUS_NM, limit=19),
        make_plan(other_root, radius_nm=RADIUS_NM),
        make_plan(other_place, radius_nm=RADIUS_NM),
        make_plan(Nuclei(nuclei.frame, (4.0, 4.0, 45.0)), radius_nm=RADIUS_NM),
    ]
    assert len({plan.hash for plan in plans}) == len(plans)
    assert all(len(plan.hash) == 16 and int(plan.hash, 16) >= 0 for plan in plans)


def test_plan_comes_back_from_the_store(store_url: str) -> None:
    """A plan that was saved is read back exactly, with ids above 2^53, gaps, attempts and resolution."""
    nuclei = made_nuclei(20, rootless=[2], placeless=[3])
    plan = make_plan(nuclei, radius_nm=RADIUS_NM, chunk=3, attempts={FIRST_ID + 4: 2})
    store = ResultStore(store_url)
    save_plan(store, plan)
    back = load_plan(ResultStore(store_url), plan.hash)
    pd.testing.assert_frame_equal(back.rows, plan.rows)
    assert back.resolution_nm == RESOLUTION_NM
    assert back.hash == plan.hash


def test_saved_plan_is_immutable(store_url: str) -> None:
    """Saving a plan again leaves its file as it is."""
    plan = make_plan(made_nuclei(20, rootless=[2]), radius_nm=RADIUS_NM)
    store = ResultStore(store_url)
    save_plan(store, plan)
    store.put(plan.name, store.get(plan.name) + b" ")
    first = store.get(plan.name)
    save_plan(store, plan)
    assert store.get(plan.name) == first


def test_plan_of_another_process_has_the_same_bytes(tmp_path: Path) -> None:
    """The same nuclei make the same file, name and bytes, in a process with another hash seed."""
    plan = make_plan(made_nuclei(20, rootless=[2]), radius_nm=RADIUS_NM)
    here, there = ResultStore(str(tmp_path / "here")), ResultStore(str(tmp_path / "there"))
    save_plan(here, plan)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from stores import *; from somatic.planning.plan import *; from somatic.storage.store import ResultStore\n"
        "save_plan(ResultStore(sys.argv[2]), make_plan(made_nuclei(20, rootless=[2]), radius_nm=RADIUS_NM))"
    )
    tests = Path(__file__).parent
    subprocess.run(
        [sys.executable, "-c", script, str(tests), there.url],
        cwd=tests.parent,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        check=True,
    )
    assert there.get(plan.name) == here.get(plan.name)


def test_plan_that_is_not_there(store_url: str) -> None:
    """A plan that was never saved is named."""
    with pytest.raises(StoreError, match=r"plans/0123456789abcdef\.parquet"):
        load_plan(ResultStore(store_url), "0123456789abcdef")


def test_plan_file_under_a_wrong_name(store_url: str) -> None:
    """A plan file that was exchanged for another is noticed."""
    store = ResultStore(store_url)
    plan, other = (make_plan(made_nuclei(n), radius_nm=RADIUS_NM) for n in (3, 4))
    save_plan(store, plan)
    store.put(other.name, store.get(plan.name))
    with pytest.raises(StoreError, match="does not hold what its name says"):
        load_plan(store, other.hash)


def test_rows_of_skipped_nuclei() -> None:
    """A skipped nucleus gets a row with id, root, reason and, where it has one, its centre; plain JSON types."""
    plan = make_plan(made_nuclei(4, rootless=[1], placeless=[3]), radius_nm=RADIUS_NM)
    rows = {row["nucleus_id"] - FIRST_ID: row for row in skipped_rows(plan.rows, plan.resolution_nm, 7, "published")}
    assert set(rows) == {1, 3}
    assert (rows[1]["status"], rows[1]["reason"], rows[1]["soma_id"]) == ("skipped", NO_ROOT, 0)
    assert rows[1]["centre_z_nm"] == 40.0 * rows[1]["z_vx"]
    assert (rows[3]["reason"], rows[3]["soma_id"]) == (NO_POSITION, FIRST_ROOT + 3)
    assert "centre_x_nm" not in rows[3]
    assert json.loads(json.dumps(rows[3])) == rows[3]


def test_voxels_of_files() -> None:
    """Counted by hand: a cutout of 10 x 10 x 10 voxels in files of 8 x 8 x 8, inside, at the edge, outside."""
    layer = LayerSize((100.0, 100.0, 100.0), offset_vx=(10, 10, 10), size_vx=(20, 20, 20), file_vx=(8, 8, 8))
    centres_vx = np.array(
        [
            [18, 18, 18],  # 13 to 23, that is 3 to 13 from the offset: files 0 and 1 on each axis, 16 voxels
            [10, 18, 18],  # 5 to 15 on x, of which 0 to 5 from the offset: file 0, 8 voxels
            [29, 18, 18],  # 24 to 34 on x: 14 to 20 from the offset: files 1 and 2, 8 + 4 voxels
            [99, 18, 18],
        ]
    )
    voxels = voxels_to_read(centres_vx * 100.0, 500.0, layer)
    assert voxels.tolist() == [16**3, 8 * 16**2, 12 * 16**2, 0]


def test_estimate_counts_what_is_left() -> None:
    """Of 25 cells in 9 chunks of 3, with the first 4 chunks and one more cell done, 12 cells in 5 chunks are left."""
    plan = make_plan(made_nuclei(26, rootless=[0]), radius_nm=RADIUS_NM, chunk=3)
    missing = plan.rows[plan.rows["chunk"] >= 4].iloc[1:]
    layer = LayerSize((64.0, 64.0, 40.0), (0, 0, 0), (10_000, 10_000, 100_000), (256, 256, 32))
    estimate = make_estimate(
        plan,
        missing,
        layer=layer,
        radius_nm=RADIUS_NM,
        worker_memory_bytes=123,
        chunks_per_shard=2,
        cave_requests=7,
        cells_per_request=4,
        bytes_per_voxel=0.5,
    )
    assert (estimate.cells, estimate.skipped, estimate.done, estimate.missing) == (25, 1, 13, 12)
    # Chunks 4 to 8; shards of chunks 4-5, 6-7 and 8 with 5, 6 and 1 cells, so 2, 2 and 1 queries of synapses.
    assert (estimate.chunks, estimate.shards, estimate.cave_requests) == (5, 3, 12)
    # On a graph one more for each cell and for each chunk.
    on_graph = make_estimate(
        plan,
        missing,
        layer=layer,
        radius_nm=RADIUS_NM,
        worker_memory_bytes=123,
        chunks_per_shard=2,
        cave_requests=7,
        cells_per_request=4,
        requests_per_cell=1,
        requests_per_chunk=1,
    )
    assert on_graph.cave_requests == 12 + 12 + 5
    assert estimate.worker_memory_bytes == 123
    one_box = 468 * 468 * 750
    assert 12 * 0.5 * one_box < estimate.segmentation_bytes < 12 * 0.5 * 1024 * 1024 * 832


def test_plan_of_minnie65_size_is_made_in_seconds() -> None:
    """144,000 nuclei, as many as minnie65 has, are planned in a few seconds of processor time."""
    nuclei = made_nuclei(144_000)
    begun = time.process_time()
    plan = make_plan(nuclei, radius_nm=RADIUS_NM)
    # Many times what it takes, since a machine may be slower or busy.
    assert time.process_time() - begun < 20
    assert plan.n_chunks == 14_400
    jumps_nm = np.abs(np.diff(plan.rows[["x_vx", "y_vx", "z_vx"]].to_numpy(dtype=float) * RESOLUTION_NM, axis=0))
    # In random order the median distance along x would be 117,000 nm.
    assert np.median(jumps_nm[:, 0]) < RADIUS_NM
