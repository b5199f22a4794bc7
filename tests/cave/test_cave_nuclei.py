"""Nuclei as `somatic.cave.tables` reads them from tables and views of a CAVE server."""

import ast

import pandas as pd
import pytest
from cave_stack import (
    BIG,
    DATASTACK,
    N_NUCLEI,
    NUCLEUS_NM,
    TOKEN,
    a_datastack,
    a_version,
    lookup_frame,
    n_queries,
    nucleus_frame,
    opened,
)

from sandbox.cave.server import CaveServer, CaveView
from somatic.errors import CaveError, DatasetError


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
