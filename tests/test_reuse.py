"""`somatic.extracting.reuse`: what of a cell earlier result sets have, row by row."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from somatic.cell import Cell
from somatic.dataset import Dataset, FileSource
from somatic.extracting.extraction import Extraction
from somatic.extracting.reuse import Found, find, has_soma, is_certain, with_known_parts, with_labels
from somatic.features import COLUMNS, CUTOUT_COLUMNS, NUCLEUS_COLUMNS, SOMA_COLUMNS, Row

CELL = Cell(5, 7, (10, 20, 30), (4.0, 4.0, 40.0))
NUCLEUS = {column.name: 1.0 for column in NUCLEUS_COLUMNS}
SOMA = {column.name: 2.0 for column in (*SOMA_COLUMNS, *CUTOUT_COLUMNS)}


class Rows:
    """A base by hand."""

    def __init__(self, *rows: Row, version: int = 0, name: str = "v0/aaaaaaaa") -> None:
        self.version, self.name, self.lacks_meshes = version, name, False
        self._rows = {row["nucleus_id"]: row for row in rows}

    @property
    def store(self) -> "Rows":
        """Where meshes would be."""
        return self

    def url_of(self, name: str) -> str:
        """No place."""
        return f"/nowhere/{name}"

    def rows(self, nucleus_ids: list[int], columns: Any = None) -> dict[int, Row]:  # noqa: ARG002
        """Those of some nuclei."""
        return {nucleus_id: self._rows[nucleus_id] for nucleus_id in nucleus_ids if nucleus_id in self._rows}


def opened(definitions: str = "published") -> Extraction:
    """An extraction that stores no meshes, of a layer that nobody opens."""
    files = FileSource(
        nuclei="nuclei.csv", resolution_nm=(4, 4, 40), nucleus_segmentation="precomputed://gs://bucket/nuclei"
    )
    dataset = Dataset(name="d", mip=0, definitions=definitions, segmentation="precomputed://gs://bucket/s", files=files)
    return Extraction.open(dataset)


@pytest.fixture
def extraction(monkeypatch: pytest.MonkeyPatch) -> Extraction:
    """By the published definitions."""
    return prepared(monkeypatch, "published")


def prepared(patch: pytest.MonkeyPatch, definitions: str) -> Extraction:
    """An extraction whose segmentation is never opened."""

    class Layer:
        layer_url = "precomputed://gs://bucket/s"

    patch.setattr(Extraction, "segmentation", property(lambda _: Layer()))
    return replace(opened(definitions), with_meshes=False)


def row_of(extraction: Extraction, **other: Any) -> Row:
    """A row of which everything holds."""
    return {
        **dict.fromkeys(column.name for column in COLUMNS),
        **NUCLEUS,
        **SOMA,
        "nucleus_mesh_repaired": False,
        "nucleus_id": CELL.nucleus_id,
        "soma_id": CELL.root_id,
        "status": "ok",
        "reason": None,
        "error_class": None,
        "soma_version": 0,
        "nucleus_version": 0,
        "soma_fingerprint": extraction.soma_fingerprint(CELL),
        "nucleus_fingerprint": extraction.nucleus_fingerprint(CELL),
        "synapse_hash": None,
        "synapse_features_version": 3,
        "nucleus_voxels_hash": None,
        "has_soma": True,
        "has_nucleus": True,
    } | other


def found(extraction: Extraction, *rows: Row, cell: Cell = CELL) -> Found:
    """What is found of the cell in bases of one row each."""
    bases = tuple(Rows(row, name=f"v{number}/aaaaaaaa", version=number) for number, row in enumerate(rows))
    [one] = find(replace(extraction, bases=bases), [cell])
    return one


def test_a_row_of_which_everything_holds(extraction: Extraction) -> None:
    """Soma, nucleus, and the row as a whole."""
    row = row_of(extraction)
    one = found(extraction, row)
    assert (one.soma, one.nucleus, one.is_whole) == (row, row, True)
    assert found(extraction) == Found(CELL)


@pytest.mark.parametrize(
    ("cell", "soma", "nucleus"),
    [
        (replace(CELL, nucleus_id=6), False, False),
        (replace(CELL, centre_vx=(11, 20, 30)), False, True),
        (replace(CELL, root_id=8), True, True),
    ],
    ids=["another nucleus", "another centre", "another root id"],
)
def test_another_cell(cell: Cell, soma: bool, nucleus: bool, extraction: Extraction) -> None:
    """Without its row there is nothing; a nucleus stays where it is; labels are compared later."""
    one = found(extraction, row_of(extraction), cell=cell)
    assert (one.soma is not None, one.nucleus is not None) == (soma, nucleus)
    [settled] = with_labels(extraction, [one])
    assert settled.is_same_soma == (soma and cell.root_id == CELL.root_id)


def test_parts_of_two_tables(extraction: Extraction) -> None:
    """The first base with a soma, and the first one with a nucleus."""
    old = row_of(extraction, nucleus_fingerprint="of another version")
    elsewhere = row_of(extraction, soma_fingerprint="0123-4567")
    one = found(extraction, old, elsewhere, row_of(extraction))
    assert (one.soma, one.nucleus, one.is_whole) == (old, elsewhere, False)
    assert (one.base.version, one.nucleus_base.version) == (0, 1)


@pytest.mark.parametrize(
    ("other", "is_whole", "holds"),
    [
        ({"status": "failed", "error_class": "MissingNucleusMesh", "has_nucleus": False}, True, True),
        ({"status": "failed", "error_class": "MissingSegment", "has_soma": False}, True, True),
        ({"status": "failed", "error_class": "DegenerateMesh", "has_soma": False}, True, False),
        ({"status": "failed", "error_class": "MissingSegment", "has_soma": False, "soma_id": 8}, False, False),
        ({"status": "failed", "error_class": "CellKilled", "has_soma": False, "has_nucleus": False}, False, False),
        ({"status": "failed", "error_class": "CaveUnavailable", "has_soma": False}, False, False),
        ({"status": "skipped", "has_soma": False, "soma_fingerprint": None}, False, False),
    ],
    ids=str,
)
def test_rows_that_failed(other: dict, is_whole: bool, holds: bool, extraction: Extraction) -> None:
    """What fails again for sure is reused; of a memory that was short or a server that was away nothing follows."""
    one = found(extraction, row_of(extraction, **other))
    assert one.is_whole == is_whole
    assert (one.soma is not None and has_soma(one.soma, CELL)) == holds


@pytest.mark.parametrize(
    ("other", "is_known"),
    [
        ({}, True),
        ({"nucleus_version": None}, False),
        ({"has_nucleus": False}, False),
        ({"nucleus_fingerprint": None}, False),
    ],
)
def test_columns_of_a_nucleus(other: dict, is_known: bool, extraction: Extraction) -> None:
    """A measure that was no number is none now, and the row has to say so: such a nucleus is measured again."""
    one = found(extraction, row_of(extraction, **other))
    [cell] = with_known_parts(extraction, [one._replace(soma=None)], None, pytest.fail)
    assert cell.nucleus == (NUCLEUS | {"nucleus_mesh_repaired": False} if is_known else None)
    assert cell.soma is None


def test_a_soma_that_is_missing(extraction: Extraction) -> None:
    """Its reason is that of then, without what was said of the nucleus."""
    reason = "root id 7 has no voxel in the cutout; the nucleus segmentation has no mesh of nucleus 5"
    failed = {"status": "failed", "error_class": "MissingSegment", "reason": reason, "has_soma": False}
    nulls = dict.fromkeys(column.name for column in SOMA_COLUMNS)
    one = found(extraction, row_of(extraction, **nulls, **failed, nucleus_fingerprint="of another version"))
    [cell] = with_known_parts(extraction, with_labels(extraction, [one]), None, pytest.fail)
    assert cell.soma is not None
    assert str(cell.soma.fault) == "root id 7 has no voxel in the cutout"
    assert cell.soma.columns["frac_unlabelled"] == 2.0


@pytest.mark.parametrize(
    ("other", "of_nucleus"),
    [
        ({"nucleus_voxels_hash": "0123456789abcdef"}, "0123456789abcdef"),
        ({"nucleus_voxels_hash": "none", "nucleus_volume_um": None}, "none"),
        ({"nucleus_volume_um": None, "error_class": "OpenNucleusMesh"}, "none"),
        ({}, {"nucleus_mesh_repaired": False, "nucleus_volume_um": 1.0, "nucleus_area_um": 1.0}),
    ],
    ids=["hash", "hash of none", "failed", "columns"],
)
def test_a_soma_that_depends_on_its_nucleus(
    other: dict, of_nucleus: str | dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Corrected: it says which nucleus it holds for, by the hash of its voxels, or by its measures from before that."""
    extraction = prepared(monkeypatch, "corrected")
    one = found(extraction, row_of(extraction, **other, nucleus_fingerprint="of another version"))
    assert not is_certain(extraction, one)
    [cell] = with_known_parts(extraction, with_labels(extraction, [one]), None, pytest.fail)
    assert cell.soma is not None
    if isinstance(of_nucleus, dict):
        centre = {f"nucleus_center_{axis}_nm": 1.0 for axis in "xyz"}
        assert cell.soma.of_nucleus == of_nucleus | centre
    else:
        assert cell.soma.of_nucleus == of_nucleus


@pytest.mark.parametrize(
    "other",
    [{"nucleus_mesh_repaired": True}, {"nucleus_volume_um": None, "error_class": "DegenerateMesh"}],
    ids=["repaired", "of no measure"],
)
def test_a_nucleus_of_which_nothing_is_proved(other: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Corrected, without a hash: another repair may give another mesh of the same measures, so the soma is measured."""
    extraction = prepared(monkeypatch, "corrected")
    one = found(extraction, row_of(extraction, **other, nucleus_fingerprint="of another version"))
    [cell] = with_known_parts(extraction, with_labels(extraction, [one]), None, pytest.fail)
    assert cell.soma is None


def test_a_soma_that_needs_no_look_at_its_nucleus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same version of the nuclei, or by the hash beside the nucleus that is reused; published always."""
    extraction = prepared(monkeypatch, "corrected")
    row = row_of(extraction, nucleus_voxels_hash="0123456789abcdef")
    assert is_certain(extraction, found(extraction, row))
    old = row | {"nucleus_fingerprint": "of another version"}
    assert not is_certain(extraction, found(extraction, old))
    assert is_certain(extraction, found(extraction, old, row | {"soma_fingerprint": "0123-4567"}))
    other = row | {"soma_fingerprint": "0123-4567", "nucleus_voxels_hash": "another"}
    assert not is_certain(extraction, found(extraction, old, other))
    published = prepared(monkeypatch, "published")
    assert is_certain(published, found(published, row_of(published, nucleus_fingerprint="of another version")))


def test_meshes_that_are_not_there(extraction: Extraction) -> None:
    """One line for a base, however many there are; their somata are measured."""
    with_meshes = replace(extraction, with_meshes=True, results="/nowhere/results")
    rows = [row_of(extraction) | {"nucleus_id": number} for number in (5, 6)]
    cells = [replace(CELL, nucleus_id=number) for number in (5, 6)]
    for cell, row in zip(cells, rows, strict=True):
        row["soma_fingerprint"] = extraction.soma_fingerprint(cell)
        row["nucleus_fingerprint"] = extraction.nucleus_fingerprint(cell)
    with_meshes = replace(with_meshes, bases=(Rows(*rows),))
    lines: list[str] = []
    known = with_known_parts(with_meshes, with_labels(with_meshes, find(with_meshes, cells)), None, lines.append)
    assert [(cell.soma, cell.nucleus is not None) for cell in known] == [(None, True), (None, True)]
    [line] = lines
    assert line.startswith("d v0: somata of v0/aaaaaaaa are measured again without their meshes: cannot read /nowhere/")


LEAVES = np.array([3, 4], np.uint64)
INVALID, SAME, OTHER = 9, 10, 11
"""Root ids: of no cell at this version, with the leaves of then, with other ones."""


@pytest.fixture
def graph(extraction: Extraction, monkeypatch: pytest.MonkeyPatch) -> tuple[Extraction, list[list[int]]]:
    """An extraction on a graph, and the root ids that it queries: which are valid, then whose leaves."""
    asked: list[list[int]] = []

    def valid_roots(_: Extraction, cells: list[Cell]) -> list[bool]:
        asked.append([cell.root_id for cell in cells])
        return [cell.root_id != INVALID for cell in cells]

    def with_leaves(_: Extraction, cells: list[Cell], stop: object = None) -> list[Cell]:  # noqa: ARG001
        asked.append([cell.root_id for cell in cells])
        return [replace(cell, leaves=LEAVES[:1] if cell.root_id == OTHER else LEAVES) for cell in cells]

    monkeypatch.setattr(Extraction, "on_graph", True)
    monkeypatch.setattr(Extraction, "valid_roots", valid_roots)
    monkeypatch.setattr(Extraction, "with_leaves", with_leaves)
    return extraction, asked


def known(extraction: Extraction, root_id: int, then: int, version: int) -> Found:
    """A cell that had another root id, or the same, at another version, or the same."""
    cell = replace(CELL, nucleus_id=root_id, root_id=root_id)
    fingerprint = extraction.soma_fingerprint(replace(cell, leaves=LEAVES))
    return Found(cell, Rows(version=version), row_of(extraction, soma_id=then, soma_fingerprint=fingerprint))


def test_labels_of_another_version(graph: tuple[Extraction, list[list[int]]]) -> None:
    """Of a graph: whether a root id is still one, and of one that has changed whether its leaves are those of then."""
    extraction, asked = graph
    pairs = ((7, 7), (INVALID, INVALID), (SAME, 7), (OTHER, 7))
    cells = [known(extraction, now, then, extraction.version + 1) for now, then in pairs]
    assert [one.is_same_soma for one in with_labels(extraction, cells)] == [True, False, True, False]
    assert asked == [[7, INVALID], [SAME, OTHER]]


def test_labels_of_the_same_version(graph: tuple[Extraction, list[list[int]]]) -> None:
    """Nothing has to be queried; what is not known has its leaves queried where all are to be measured."""
    extraction, asked = graph
    cells = [known(extraction, 7, 7, extraction.version), Found(replace(CELL, nucleus_id=OTHER, root_id=OTHER))]
    assert [one.is_same_soma for one in with_labels(extraction, cells)] == [True, False]
    assert asked == [[]]
    settled = with_labels(extraction, cells, of_all=True)
    assert [one.cell.leaves is not None for one in settled] == [False, True]
    assert asked == [[], [OTHER]]
