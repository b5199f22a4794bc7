"""Nuclei, synapses and versions as `somatic.cave.tables` reads them from a CAVE server."""

import ast
import logging
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from sandbox.cave.server import CaveServer, CaveTable, CaveView, Datastack, MaterializedVersion
from somatic.cave.calls import Patience, RateLimiter
from somatic.cave.tables import CaveTables, Version, versions
from somatic.dataset import CaveSource, TableName
from somatic.errors import CaveError, CaveUnavailable, DatasetError

TOKEN = "7b0c2f6e1d5a4938a1f0e2d3c4b5a697"
HURRY = Patience(connect_s=2, answer_s=5, query_s=5, tries=3, wait_s=0.01, longest_wait_s=0.02, busy_pause_s=0.3)
BIG = 864691135000000000
"""A root id as minnie65 has them; float64 has steps of 128 there."""

NUCLEUS_NM = (4.0, 4.0, 40.0)
SYNAPSE_NM = (9.7, 9.7, 45.0)
N_NUCLEI = 60
N_SYNAPSES = 900


def nucleus_frame() -> pd.DataFrame:
    """Nuclei with ids from 3 to 2^63-1, four of them without a root: NA, 0, 1, NA."""
    rng = np.random.default_rng(1)
    ids = np.concatenate([np.arange(3, 40), 10**9 + 7 * np.arange(20), 2**53 + np.arange(1, 3), [2**63 - 1]])
    roots = pd.array(BIG + 3 * np.arange(N_NUCLEI), dtype="Int64")
    roots[[5, 30]] = pd.NA
    roots[6], roots[7] = 0, 1
    frame = pd.DataFrame({"id": ids, "volume": rng.uniform(200, 400, N_NUCLEI)})
    for axis, high in zip("xyz", (300000, 200000, 20000), strict=True):
        frame[f"pt_position_{axis}"] = rng.integers(0, high, N_NUCLEI)
    frame["pt_supervoxel_id"] = 9 * 10**16 + np.arange(N_NUCLEI)
    frame["pt_root_id"] = roots
    return frame.sample(frac=1, random_state=2)


def lookup_frame() -> pd.DataFrame:
    """The same nuclei as a view has them, with a second position."""
    frame = nucleus_frame()
    for axis, shift in zip("xyz", (10, -20, 30), strict=True):
        frame[f"pt_position_lookup_{axis}"] = frame[f"pt_position_{axis}"] + shift
    return frame


def synapse_frame() -> pd.DataFrame:
    """Synapses onto 5 roots between points a few voxels apart; every ninth joins a root to itself."""
    rng = np.random.default_rng(3)
    post = BIG + 3 * rng.integers(0, 5, N_SYNAPSES)
    pre = np.where(np.arange(N_SYNAPSES) % 9 == 0, post, BIG + 3 * rng.integers(10, 50, N_SYNAPSES))
    frame = pd.DataFrame({"id": 2**60 + 5 * np.arange(N_SYNAPSES), "pre_pt_root_id": pre, "post_pt_root_id": post})
    centre = rng.integers(0, 400, (N_SYNAPSES, 3))
    for name, points in (("ctr_pt", centre), ("post_pt", centre + rng.integers(-3, 4, (N_SYNAPSES, 3)))):
        for axis, values in zip("xyz", points.T, strict=True):
            frame[f"{name}_position_{axis}"] = values
    frame["size"] = rng.uniform(100, 1000, N_SYNAPSES)
    return frame


def a_version(number: int, **changes: object) -> MaterializedVersion:
    """A version with the tables that the tests ask for."""
    nuclei = CaveTable(
        nucleus_frame(), NUCLEUS_NM, "nucleus_detection", "precomputed://file:///nuclei", notice_text="Mind the gap"
    )
    reference = pd.DataFrame({"id": [71, 72, 73], "target_id": [5, 3, 4], "cell_type": ["a", "b", "c"]})
    synapses = synapse_frame()
    centre_only = synapses[[c for c in synapses if not c.startswith("post_pt_position")]]
    tables = {
        "nucleus_detection_v0": nuclei,
        "nucleus_ref": CaveTable(
            reference, (1.0, 1.0, 1.0), "cell_type_reference", reference_table="nucleus_detection_v0"
        ),
        "nucleus_empty": replace(nuclei, frame=nucleus_frame().iloc[:0]),
        "nucleus_no_root": replace(nuclei, frame=nucleus_frame().drop(columns="pt_root_id")),
        "synapses": CaveTable(synapses, SYNAPSE_NM, "synapse"),
        "synapses_centre_only": CaveTable(centre_only, SYNAPSE_NM, "synapse"),
    }
    version = MaterializedVersion(
        number,
        datetime(2024, 1, 21, 20, 17, 9, 199182),
        tables=tables,
        views={"nucleus_lookup": CaveView(lookup_frame(), NUCLEUS_NM)},
    )
    return replace(version, **changes)


def a_datastack(*its_versions: MaterializedVersion) -> Datastack:
    """A datastack of these versions."""
    return Datastack(
        "tiny_public",
        "tiny",
        "graphene://{server}/segmentation/table/tiny",
        list(its_versions),
        synapse_table="synapses",
    )


DATASTACK = a_datastack(
    a_version(1300),
    a_version(1000, valid=False),
    a_version(943, is_merged=True, expires_on=datetime(2121, 11, 10, 7, 10, 0, 1)),
    a_version(1400, expires_on=datetime(2020, 1, 1, 0, 0, 0, 1)),
    a_version(1500, status="RUNNING"),
)


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The token that the server wants."""
    monkeypatch.setenv("CAVE_TOKEN", TOKEN)


@pytest.fixture(scope="module")
def started() -> Iterator[tuple[CaveServer, CaveServer]]:
    """Two servers that hold all versions; the second answers with at most 20 rows."""
    with CaveServer(DATASTACK, token=TOKEN) as full, CaveServer(DATASTACK, token=TOKEN, row_cap=20) as cut:
        yield full, cut


@pytest.fixture
def server(started: tuple[CaveServer, CaveServer]) -> Iterator[CaveServer]:
    """The server that answers in full, in good health."""
    yield started[0]
    started[0].clear_faults()


@pytest.fixture
def capped(started: tuple[CaveServer, CaveServer]) -> Iterator[CaveServer]:
    """The server whose answers are cut, in good health."""
    yield started[1]
    started[1].clear_faults()
    started[1].rate_limit(None)


def source(
    server: CaveServer,
    table: str | None = None,
    view: str | None = None,
    position: str = "pt_position",
    **others: str,
) -> CaveSource:
    """Source of a server's nuclei; of its view where nothing is named."""
    view = view if view or table else "nucleus_lookup"
    nuclei = TableName(table=table, view=view, position=position)
    return CaveSource(server=server.url, datastack="tiny_public", nuclei=nuclei, **others)


def opened(server: CaveServer, version: int = 1300, **names: str) -> CaveTables:
    """Tables of a server, at no rate limit."""
    return CaveTables(source(server, **names), version, HURRY, RateLimiter(100_000))


def n_queries(server: CaveServer) -> int:
    """How many queries of rows a server answered so far."""
    return sum(request.method == "POST" for request in server.requests)


# Versions


def test_versions_are_sorted_utc_and_alive(server: CaveServer) -> None:
    """Listed are the versions that can be queried, ascending, all times with their zone."""
    when = datetime(2024, 1, 21, 20, 17, 9, 199182, tzinfo=UTC)
    assert versions(source(server), HURRY) == [
        Version(943, when, datetime(2121, 11, 10, 7, 10, 0, 1, tzinfo=UTC)),
        Version(1300, when, None),
    ]


@pytest.mark.parametrize("asked", ["latest", 1300, np.int64(1300)])
def test_version_becomes_a_plain_integer(server: CaveServer, asked: object) -> None:
    """The latest version that can be queried, a Python and a numpy integer give an int."""
    tables = CaveTables(source(server), asked, HURRY)  # type: ignore[arg-type]
    assert tables.version == 1300
    assert type(tables.version) is int
    assert tables.timestamp == datetime(2024, 1, 21, 20, 17, 9, 199182, tzinfo=UTC)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (1000, "version 1000 has expired"),
        (1400, "version 1400 has expired"),
        (4242, "there is no version 4242"),
    ],
)
def test_version_that_cannot_be_queried(server: CaveServer, asked: int, said: str) -> None:
    """An expired or unknown version is refused in one line that lists those there are."""
    with pytest.raises(CaveError, match=said) as caught:
        CaveTables(source(server), asked, HURRY)
    assert "943 (2024-01-21), 1300 (2024-01-21)" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("asked", ["1300", 1300.0, None])
def test_version_of_another_type(server: CaveServer, asked: object) -> None:
    """What is no whole number is refused, not guessed at."""
    with pytest.raises(CaveError, match="whole number"):
        CaveTables(source(server), asked, HURRY)  # type: ignore[arg-type]


def test_no_version_at_all() -> None:
    """A datastack whose versions have all expired, which CAVE answers with 404, says so."""
    with CaveServer(a_datastack(a_version(1000, valid=False)), token=TOKEN) as server:
        assert versions(source(server), HURRY) == []
        with pytest.raises(CaveError, match="no version that can be queried"):
            CaveTables(source(server), "latest", HURRY)


# Nuclei


@pytest.mark.parametrize("version", [943, 1300])
@pytest.mark.parametrize(
    ("names", "shift"),
    [
        ({"view": "nucleus_lookup", "position": "pt_position_lookup"}, (10, -20, 30)),
        ({"view": "nucleus_lookup"}, (0, 0, 0)),
        ({"table": "nucleus_detection_v0"}, (0, 0, 0)),
    ],
)
def test_nuclei_of_views_and_tables(server: CaveServer, version: int, names: dict, shift: tuple[int, int, int]) -> None:
    """Every row of a view and of a merged and a split table comes exactly, at the position that was named."""
    nuclei = opened(server, version, **names).nuclei()
    expected = nucleus_frame().sort_values("id")
    assert nuclei.frame["nucleus_id"].tolist() == expected["id"].tolist()
    roots = [0 if pd.isna(root) or root == 1 else root for root in expected["pt_root_id"]]
    assert nuclei.frame["root_id"].tolist() == roots
    assert roots.count(0) == 4
    for axis, by in zip("xyz", shift, strict=True):
        assert nuclei.frame[f"{axis}_vx"].tolist() == (expected[f"pt_position_{axis}"] + by).tolist()
    assert nuclei.resolution_nm == NUCLEUS_NM


@pytest.mark.parametrize("names", [{"view": "nucleus_lookup"}, {"table": "nucleus_detection_v0"}])
@pytest.mark.parametrize("cap", [4, 7, 59, 60])
def test_paging_gives_each_row_once(cap: int, names: dict) -> None:
    """With answers of any cap, ids dense, sparse and up to 2^63-1 all come exactly once."""
    with CaveServer(DATASTACK, token=TOKEN, row_cap=cap) as server:
        nuclei = opened(server, **names).nuclei()
        assert nuclei.frame["nucleus_id"].tolist() == sorted(nucleus_frame()["id"])


def test_paging_needs_few_queries(capped: CaveServer) -> None:
    """Ranges are split at the ids that are there: 60 rows in answers of 20 need no more than 4 queries a page."""
    before = n_queries(capped)
    opened(capped).nuclei()
    assert n_queries(capped) - before <= 4 * N_NUCLEI / 20


def test_an_uncut_table_takes_one_query_of_rows(server: CaveServer) -> None:
    """Where nothing is cut the rows come at once, beside one query for the columns and one for the count."""
    before = n_queries(server)
    opened(server).nuclei()
    assert n_queries(server) - before == 3


def test_only_needed_columns_are_sent(server: CaveServer) -> None:
    """Queries of rows name their columns, so that an answer holds no others (a root brings its supervoxel along)."""
    tables = opened(server, position="pt_position_lookup", synapses="synapses")
    sent: list[dict] = []
    session = tables._client.materialize.session
    session.hooks["response"].append(lambda answer, **_: sent.append(answer.headers.get("column_names")))
    tables.nuclei()
    tables.synapses([BIG], [0, 0, 0], [1e4, 1e4, 1e4])
    columns = [set(names) for header in sent if header for names in ast.literal_eval(header).values()]
    assert {"id", "pt_supervoxel_id", "pt_root_id", "pt_position_lookup"} in columns
    points = {"ctr_pt_position", "post_pt_position"}
    assert {"id", "size", *points, *(f"{side}_pt_root_id" for side in ("pre", "post"))} in columns


@pytest.mark.parametrize("cap", [2, 500])
def test_nuclei_of_a_reference_table(cap: int) -> None:
    """A table that refers to another has its own ids, with root and position of the other, in the other's voxels."""
    with CaveServer(DATASTACK, token=TOKEN, row_cap=cap) as server:
        tables = opened(server, table="nucleus_ref")
        nuclei = tables.nuclei()
        assert tables.nucleus_segmentation == "precomputed://file:///nuclei"
    other = nucleus_frame().set_index("id").loc[[5, 3, 4]]
    assert nuclei.frame["nucleus_id"].tolist() == [71, 72, 73]
    assert nuclei.frame["root_id"].tolist() == other["pt_root_id"].tolist()
    assert nuclei.frame["x_vx"].tolist() == other["pt_position_x"].tolist()
    assert nuclei.resolution_nm == NUCLEUS_NM


def test_row_without_an_id_is_not_lost_silently() -> None:
    """A row without an id, which no id range finds, stops the reading."""
    frame = lookup_frame()
    frame["id"] = frame["id"].astype("Int64")
    frame.iloc[0, 0] = pd.NA
    version = a_version(1300, views={"nucleus_lookup": CaveView(frame, NUCLEUS_NM)})
    for cap, error, said in (
        (500, DatasetError, "id is empty"),
        (7, CaveError, "59 rows came, but the server counts 60"),
    ):
        with CaveServer(a_datastack(version), token=TOKEN, row_cap=cap) as server, pytest.raises(error, match=said):
            opened(server).nuclei()


@pytest.mark.parametrize(
    ("names", "error", "said"),
    [
        ({"view": "nucleus_lokup"}, CaveError, "no view nucleus_lokup; there are: nucleus_lookup"),
        ({"table": "nuclei"}, CaveError, "no table nuclei; there are: .*nucleus_detection_v0"),
        ({"view": "nucleus_ref"}, CaveError, 'nucleus_ref is a table, not a view; write table = "nucleus_ref"'),
        (
            {"table": "nucleus_lookup"},
            CaveError,
            'nucleus_lookup is a view, not a table; write view = "nucleus_lookup"',
        ),
        ({"table": "nucleus_empty"}, DatasetError, "nucleus_empty .*the table is empty"),
        ({"table": "nucleus_no_root"}, DatasetError, "no column pt_root_id; the table has id, .*pt_position_x"),
        ({"position": "pt_position_looup"}, DatasetError, "no column pt_position_looup; the table has id, "),
    ],
)
def test_nuclei_that_cannot_be_had(server: CaveServer, names: dict, error: type[Exception], said: str) -> None:
    """A wrong name, an empty table and a missing column give one line that says what is there, at once."""
    before = len(server.requests)
    with pytest.raises(error, match=said) as caught:
        opened(server, **names).nuclei()
    assert "\n" not in str(caught.value)
    assert "tiny_public, version 1300" in str(caught.value)
    assert [request.status for request in server.requests[before:]].count(500) <= 1, "a permanent error was tried again"


# Synapses


def synapses_by_hand(roots: list[int], lower_nm: np.ndarray, upper_nm: np.ndarray, point: str) -> pd.DataFrame:
    """Synapses of the table onto these roots in a box, without autapses."""
    frame = synapse_frame()
    at_nm = frame[[f"{point}_position_{axis}" for axis in "xyz"]].to_numpy() * SYNAPSE_NM
    chosen = (
        frame["post_pt_root_id"].isin(roots)
        & (frame["post_pt_root_id"] != frame["pre_pt_root_id"])
        & ((at_nm >= lower_nm) & (at_nm <= upper_nm)).all(axis=1)
    )
    return frame[chosen]


@pytest.mark.parametrize("version", [943, 1300])
@pytest.mark.parametrize(("table", "point"), [("synapses", "post_pt"), ("synapses_centre_only", "ctr_pt")])
@pytest.mark.parametrize("cap", [30, 500_000])
def test_synapses_in_a_box(version: int, table: str, point: str, cap: int) -> None:
    """All synapses of the roots in the box come, at their own table's voxel size, and none two voxels outside of it."""
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
        assert (found[f"ctr_{axis}_vx"] == truth[f"ctr_pt_position_{axis}"]).all()
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


# What else the tables know


def test_names_of_the_segmentations(server: CaveServer) -> None:
    """The datastack names its segmentation; the dataset, else the table, names that of the nuclei; a view does not."""
    tables = opened(server)
    assert tables.segmentation_source == f"graphene://{server.url}/segmentation/table/tiny"
    assert tables.nucleus_segmentation is None
    assert opened(server, table="nucleus_detection_v0").nucleus_segmentation == "precomputed://file:///nuclei"
    named = opened(server, table="nucleus_detection_v0", nucleus_segmentation="precomputed://file:///mine")
    assert named.nucleus_segmentation == "precomputed://file:///mine"


def test_metadata_are_asked_for_once(server: CaveServer) -> None:
    """However often a resolution is wanted, its table's metadata are one request."""
    tables = opened(server, synapses="synapses")
    before = len(server.requests)
    assert {tables.synapse_resolution_nm for _ in range(5)} == {SYNAPSE_NM}
    assert [request.path.split("/")[-3:] for request in server.requests[before:]] == [["table", "synapses", "metadata"]]


def test_threads_share_one_connection(capped: CaveServer) -> None:
    """Eight threads with one CaveTables each get all of their rows, also where answers are cut."""
    tables = opened(capped, synapses="synapses")
    start = threading.Barrier(8)

    def ask(number: int) -> int:
        start.wait()
        if number % 2:
            return len(tables.nuclei().frame)
        synapses = tables.synapses([BIG], [-1e3, -1e3, -1e3], [1e5, 1e5, 1e5])
        assert synapses is not None
        return len(synapses.frame)

    onto = synapses_by_hand([BIG], np.full(3, -1e3), np.full(3, 1e5), "post_pt")
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == [len(onto), N_NUCLEI] * 4


def test_user_sees_no_chatter(
    capped: CaveServer, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture
) -> None:
    """Cut answers, the owner's notice and timestamps of "never" are neither logged nor warned about nor printed."""
    caplog.set_level(logging.INFO)
    opened(capped, table="nucleus_detection_v0").nuclei()
    opened(capped, view="nucleus_lookup").nuclei()
    assert [record for record in caplog.records if not record.name.startswith("asyncio")] == []
    assert [str(warning.message) for warning in recwarn] == []
    assert capfd.readouterr() == ("", "")


def test_tables_cannot_be_sent_elsewhere(server: CaveServer) -> None:
    """What holds a token does not pickle, so that it cannot become a task's parameter or result; nor is it shown."""
    tables = opened(server)
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(tables)
    assert repr(tables) == f"CaveTables(tiny_public, version 1300, {server.url})"


def test_import_is_light() -> None:
    """Importing somatic.cave.tables does not import caveclient, which takes a second."""
    code = "import sys, somatic.cave.tables; sys.exit('caveclient' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Faults in the middle of a reading


@pytest.mark.parametrize("fault", ["500", "502", "503", "504", "429 in 500", "429", "hang up"])
def test_passing_faults_cost_no_row(capped: CaveServer, fault: str) -> None:
    """A reading of many pages, two requests of which fail for a passing reason, still has every row once."""
    if fault == "hang up":
        capped.hang_up("/query", times=2)
    elif fault == "429 in 500":
        capped.fail("/query", 500, "429 Too Many Requests: 200 per 1 minute", times=2)
    else:
        capped.fail("/query", int(fault), "something", times=2)
    before = len(capped.requests)
    assert opened(capped).nuclei().frame["nucleus_id"].tolist() == sorted(nucleus_frame()["id"])
    broken = [request for request in capped.requests[before:] if request.status != 200]
    assert len(broken) == 2


def test_slow_answers_cost_no_row(capped: CaveServer) -> None:
    """An answer that takes longer than our patience is asked for again."""
    capped.slow("/query", 0.6, times=2)
    # On a busy machine others may be as late.
    tables = CaveTables(source(capped), 1300, replace(HURRY, query_s=0.3, tries=30), RateLimiter(100_000))
    start = time.monotonic()
    assert tables.nuclei().frame["nucleus_id"].tolist() == sorted(nucleus_frame()["id"])
    assert time.monotonic() - start > 0.6


def test_rate_limit_is_not_an_attempt(capped: CaveServer) -> None:
    """However often the rate limit is hit, it uses up no attempt: it passes with time alone."""
    capped.fail("/query", 429, times=2 * HURRY.tries)
    tables = CaveTables(source(capped), 1300, replace(HURRY, busy_pause_s=0.01), RateLimiter(100_000))
    assert len(tables.nuclei().frame) == N_NUCLEI


def test_server_that_stays_broken(server: CaveServer) -> None:
    """After the last attempt the error is a transient one, and says what the server said."""
    server.fail("/query", 500, "connection to database lost", times=None)
    before = n_queries(server)
    with pytest.raises(CaveUnavailable, match="answered 500: connection to database lost"):
        opened(server).nuclei()
    assert n_queries(server) - before == HURRY.tries


def test_rate_limit_of_the_server_is_waited_for(capped: CaveServer) -> None:
    """A server that allows 3 queries a window gets all of a reading that needs more, and refuses few."""
    tables = opened(capped)
    before = len(capped.requests)
    capped.rate_limit(3, window_seconds=0.5)
    assert len(tables.nuclei().frame) == N_NUCLEI
    statuses = [request.status for request in capped.requests[before:]]
    assert 0 < statuses.count(500) < len(statuses) / 2


def test_error_names_the_version_that_vanished(server: CaveServer) -> None:
    """A version that expires while it is read gives a permanent error with CAVE's reason, not tried again."""
    tables = opened(server)
    server.fail("/query", 500, "404 Not Found: version 1300 not found because there is no valid parent", times=None)
    before = n_queries(server)
    with pytest.raises(CaveError, match="no valid parent"):
        tables.nuclei()
    assert n_queries(server) - before == 1
