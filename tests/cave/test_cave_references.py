"""Nuclei from tables that refer to other tables, whose rows have ids of their own."""

from dataclasses import replace

import pandas as pd
import pytest
from cave_stack import (
    BIG,
    DATASTACK,
    NUCLEUS_NM,
    TOKEN,
    a_datastack,
    a_version,
    lookup_frame,
    nucleus_frame,
    opened,
    with_tables,
)

from sandbox.cave.server import CaveServer, CaveTable, CaveView
from somatic.errors import CaveError, DatasetError

NUCLEI = "nucleus_detection_v0"
OWN_NM = (1.0, 1.0, 1.0)


def notes_on(targets: dict[int, int | None], referred: str = NUCLEI, **columns: list) -> CaveTable:
    """A reference table: by its own ids, the rows that are meant."""
    frame = pd.DataFrame(
        {
            "id": pd.array(list(targets), dtype="Int64"),
            "target_id": pd.array(list(targets.values()), dtype="Int64"),
            "cell_type": "a",
            **columns,
        }
    )
    return CaveTable(frame, OWN_NM, "cell_type_reference", reference_table=referred)


def positions(name: str, points: list[tuple[int, int, int]]) -> dict[str, list[int]]:
    """Columns of a position."""
    return {f"{name}_{axis}": [point[k] for point in points] for k, axis in enumerate("xyz")}


@pytest.mark.parametrize("version", [943, 1300])
@pytest.mark.parametrize("cap", [2, 500])
def test_the_nucleus_is_the_row_that_is_referred_to(version: int, cap: int) -> None:
    """Its id, root id and position come, in the voxels of its table, whose layer has the nuclei."""
    with CaveServer(DATASTACK, token=TOKEN, row_cap=cap) as server:
        tables = opened(server, version, table="nucleus_ref")
        nuclei = tables.nuclei()
        assert tables.nucleus_segmentation == "precomputed://file:///nuclei"
        assert tables.notes == []
    truth = nucleus_frame().set_index("id").loc[[3, 4, 5]]
    assert nuclei.frame["nucleus_id"].tolist() == [3, 4, 5]
    assert nuclei.frame["root_id"].tolist() == truth["pt_root_id"].tolist()
    for axis in "xyz":
        assert nuclei.frame[f"{axis}_vx"].tolist() == truth[f"pt_position_{axis}"].tolist()
    assert nuclei.resolution_nm == NUCLEUS_NM


def test_own_ids_that_are_those_of_other_nuclei() -> None:
    """Ids that overlap, beyond what a float holds, do not mix the nuclei up."""
    largest = 2**63 - 1
    swapped = {3: largest, 5: 3, largest: 2**53 + 1, 2**53 + 1: 5}
    with CaveServer(with_tables(notes=notes_on(swapped)), token=TOKEN, row_cap=3) as server:
        nuclei = opened(server, table="notes").nuclei()
    truth = nucleus_frame().set_index("id").loc[[3, 5, 2**53 + 1, largest]]
    assert nuclei.frame["nucleus_id"].tolist() == [3, 5, 2**53 + 1, largest]
    assert nuclei.frame["root_id"].tolist() == truth["pt_root_id"].tolist()
    assert nuclei.frame["x_vx"].tolist() == truth["pt_position_x"].tolist()


def test_points_of_its_own() -> None:
    """A reference table with a point, a root id and voxels of its own gives these; the other's can be named."""
    points = positions("pt_position", [(4000, 8000, 80000), (400, 800, 8000)])
    notes = notes_on({71: 5, 72: 3}, **points, pt_root_id=[BIG + 900, BIG + 903])
    with CaveServer(with_tables(notes=notes), token=TOKEN) as server:
        own = opened(server, table="notes").nuclei()
        other = opened(server, table="notes", position="pt_position_ref").nuclei()
    # In voxels of the nuclei, 4 x 4 x 40 nm; its own are of 1 nm.
    assert own.frame.to_numpy().tolist() == [[3, BIG + 903, 100, 200, 200], [5, BIG + 900, 1000, 2000, 2000]]
    assert own.resolution_nm == other.resolution_nm == NUCLEUS_NM
    assert other.frame["x_vx"].tolist() == nucleus_frame().set_index("id").loc[[3, 5], "pt_position_x"].tolist()


def test_layer_that_the_reference_table_names() -> None:
    """The layer is that of the nuclei, whatever layer their notes name; the dataset's own word counts for more."""
    notes = replace(notes_on({71: 5}), flat_segmentation_source="precomputed://file:///notes")
    with CaveServer(with_tables(notes=notes), token=TOKEN) as server:
        assert opened(server, table="notes").nucleus_segmentation == "precomputed://file:///nuclei"
        named = opened(server, table="notes", nucleus_segmentation="precomputed://file:///mine")
        assert named.nucleus_segmentation == "precomputed://file:///mine"


@pytest.mark.parametrize("cap", [2, 500])
def test_notes_on_nuclei_that_are_gone(cap: int) -> None:
    """A row whose nucleus was corrected since, or never was, is kept without root and position, and this is said."""
    frame = nucleus_frame()
    frame["valid"] = frame["id"] != 5
    # As a correction leaves it: the old row is not valid, and names the new one.
    frame["superceded_id"] = pd.array([8 if number == 5 else pd.NA for number in frame["id"]], dtype="Int64")
    nuclei = CaveTable(frame, NUCLEUS_NM, "nucleus_detection", "precomputed://file:///nuclei")
    notes = notes_on({71: 3, 72: 5, 73: 4, 74: 999, 75: 8})
    with CaveServer(with_tables(**{NUCLEI: nuclei}, notes=notes), token=TOKEN, row_cap=cap) as server:
        tables = opened(server, table="notes")
        for _ in range(2):
            found = tables.nuclei().frame.set_index("nucleus_id")
    assert found.index.tolist() == [3, 4, 5, 8, 999]
    assert found.loc[[5, 999], "root_id"].tolist() == [0, 0]
    assert found.loc[[5, 999], ["x_vx", "y_vx", "z_vx"]].isna().all(axis=None)
    assert found.loc[[3, 4, 8], "x_vx"].tolist() == frame.set_index("id").loc[[3, 4, 8], "pt_position_x"].tolist()
    [note] = tables.notes
    assert "2 of 5 rows refer to nuclei that nucleus_detection_v0 does not have" in note
    assert "(5, 999)" in note


def test_notes_that_were_corrected() -> None:
    """Of two notes on a nucleus the one that is not valid any more does not count."""
    notes = notes_on({71: 5, 72: 5}, valid=[False, True])
    with CaveServer(with_tables(notes=notes), token=TOKEN) as server:
        assert opened(server, table="notes").nuclei().frame["nucleus_id"].tolist() == [5]


@pytest.mark.parametrize(
    ("notes", "error", "said"),
    [
        ({"notes": notes_on({71: 5, 72: 3, 73: 5})}, DatasetError, "2 of its rows refer to nucleus 5 of nucleus_dete"),
        ({"notes": notes_on({71: 5, 72: None})}, DatasetError, "target_id is empty in row"),
        (
            {"notes": notes_on({71: 81}, "more"), "more": notes_on({81: 5})},
            DatasetError,
            'it refers to more, which itself refers to nucleus_detection_v0, .* write .*table = "nucleus_detection_v0"',
        ),
        ({"notes": notes_on({71: 71}, "notes")}, DatasetError, "it refers to notes, which itself refers to notes"),
        (
            {"notes": replace(notes_on({71: 5}), frame=pd.DataFrame({"id": [71], "cell_type": ["a"]}))},
            DatasetError,
            'no column target_id .*; write table = "nucleus_detection_v0"',
        ),
        ({"notes": replace(notes_on({71: 5}), frame=notes_on({}).frame)}, DatasetError, "the table is empty"),
        (
            {"notes": notes_on({71: 5}, "gone")},
            CaveError,
            "no table gone; there are: .* .table notes of .* refers to it",
        ),
        ({"notes": notes_on({71: 5}, "synapses_centre_only")}, DatasetError, "no column pt_root_id; the table has"),
        (
            {"notes": replace(notes_on({71: 5}, **positions("pt_position", [(1, 2, 3)])), resolution_nm=(0, 0, 0))},
            DatasetError,
            "table notes .* has no voxel resolution for it, but .0.0, 0.0, 0.0.",
        ),
        (
            {"notes": notes_on({71: 5}), NUCLEI: CaveTable(nucleus_frame(), (4, float("nan"), 40), "x")},
            DatasetError,
            "table nucleus_detection_v0 .* has no voxel resolution for it, but .4.0, nan, 40.0.",
        ),
    ],
)
def test_nucleus_that_cannot_be_told(notes: dict[str, CaveTable], error: type[Exception], said: str) -> None:
    """Where nobody knows which nucleus a row means, one line says why and what to name in its place, at once."""
    with CaveServer(with_tables(**notes), token=TOKEN) as server:
        with pytest.raises(error, match=said) as caught:
            opened(server, table="notes").nuclei()
        assert "\n" not in str(caught.value)
        assert [request.status for request in server.requests].count(500) == 0


def test_resolution_of_notes_without_points() -> None:
    """It means nothing where they have no points, as most, and may be anything."""
    notes = replace(notes_on({71: 5}), resolution_nm=(0, 0, 0))
    with CaveServer(with_tables(notes=notes), token=TOKEN) as server:
        assert opened(server, table="notes").nuclei().frame["nucleus_id"].tolist() == [5]


def view_of(**columns: object) -> CaveView:
    """The view of all nuclei with more columns."""
    return CaveView(lookup_frame().assign(**columns), NUCLEUS_NM)


@pytest.mark.parametrize("column", ["target_id", "id_ref"])
def test_view_over_a_reference_table(column: str) -> None:
    """A view that gives a row's own id beside that of another does not say which of both is the nucleus."""
    views = {
        "notes": view_of(**{column: lookup_frame()["id"].to_numpy()[::-1]}),
        "same": view_of(**{column: lookup_frame()["id"]}),
    }
    with CaveServer(a_datastack(a_version(1300, views=views)), token=TOKEN) as server:
        with pytest.raises(
            DatasetError, match=rf"view notes .*: id is \d+ and {column} is \d+ in row 1, .*; use the table"
        ):
            opened(server, view="notes").nuclei()
        assert len(opened(server, view="same").nuclei().frame) == len(nucleus_frame())


def test_view_with_rows_that_do_not_hold() -> None:
    """Views leave nothing out: rows that they mark as not valid are corrections' old ones."""
    old = view_of(valid=lookup_frame()["id"] > 10)
    with CaveServer(a_datastack(a_version(1300, views={"old": old})), token=TOKEN) as server:
        found = opened(server, view="old").nuclei().frame["nucleus_id"]
    assert found.tolist() == sorted(number for number in nucleus_frame()["id"] if number > 10)
