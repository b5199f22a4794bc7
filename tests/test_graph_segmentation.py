"""Segmentations that are graphs: the same scene as a flat one gives the same numbers, and what can go wrong."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tenacity
from cloudvolume import CloudVolume
from file_server import FileServer
from graph_server import CHUNK, Fault, GraphServer, put_watershed
from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter
from volumes import ellipsoid, put_volume

from sandbox.cave.server import CaveServer
from sandbox.lab import datastack, write_cave_dataset
from sandbox.phantom.scene import Scene, load_scene
from somatic.cave import calls
from somatic.cave.calls import Patience
from somatic.cave.graph import Graph
from somatic.cell import Cell, extract_cell
from somatic.check import check_segmentation
from somatic.cutout import Segmentation, _is_one_of
from somatic.dataset import Dataset, FileSource, load_dataset
from somatic.errors import (
    CaveError,
    CaveTokenError,
    CaveUnavailable,
    MissingSegment,
    RefusedLayer,
    SegmentationError,
    UnknownRoot,
    WrongSegmentation,
)
from somatic.extracting.extraction import Extraction
from somatic.features import COLUMNS
from somatic.geometry.box import Box
from somatic.planning.plan import make_plan
from somatic.tables import Nuclei
from somatic.volume import patience

TOKEN = "5ca1ab1e0123456789abcdef5ca1ab1e"
FIRST = datetime(2024, 1, 21, 20, 17, 9, 199182, UTC)
SECOND = FIRST + timedelta(days=90)
RESOLUTION = (100.0, 100.0, 80.0)
OFFSET = (21, 37, 11)
SHAPE = (110, 90, 70)
CELL, NEW_CELL = 864691135012345679, 864691135012345680
OTHER = 864691136000000001
RADIUS_NM = 3500.0
# More than the volume, a part of it, one that sticks out.
BOXES = [((-9, -9, -9), (140, 120, 99)), ((45, 30, 20), (36, 33, 29)), ((50, 40, 30), (90, 90, 90))]
FEATURES = [column.name for column in COLUMNS if column.name != "nucleus_id"]
HURRY = Patience(connect_s=2, answer_s=5, query_s=5, tries=3, wait_s=0.01, longest_wait_s=0.02, busy_pause_s=0.3)


def volumes() -> dict[datetime, np.ndarray]:
    """A soma with a hole, blocks of others and a gap; an edit away from its middle gives the soma another id."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 40, [-(-n // 9) for n in SHAPE]).astype(np.uint64)
    labels = np.kron(blocks, np.ones((9, 9, 9), np.uint64))[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    labels[labels > 0] += np.uint64(OTHER)
    soma = ellipsoid(SHAPE, RESOLUTION, [3000, 2800, 2000])
    labels[soma] = CELL
    labels[50:54, 40:44, 30:34] = 0
    labels[:32, :32, :16] = 0
    edited = labels.copy()
    edited[edited == CELL] = NEW_CELL
    edited[(edited == NEW_CELL) & (np.indices(SHAPE, sparse=True)[0] > 75)] = OTHER + 100
    return {FIRST: labels, SECOND: edited}


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> dict[datetime, str]:
    """Flat copies of both moments."""
    folder = tmp_path_factory.mktemp("flat")
    return {
        at: put_volume(folder / f"{n}", labels, resolution_nm=RESOLUTION, offset_vx=OFFSET)
        for n, (at, labels) in enumerate(volumes().items())
    }


@pytest.fixture(scope="module")
def _written(tmp_path_factory: pytest.TempPathFactory) -> GraphServer:
    folder = tmp_path_factory.mktemp("watershed")
    how = {"encoding": "compressed_segmentation", "file_shape": (32, 32, 32)}
    return GraphServer(put_watershed(folder, volumes(), resolution_nm=RESOLUTION, offset_vx=OFFSET, **how), TOKEN)


@pytest.fixture
def graph(_written: GraphServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[GraphServer]:
    """The graph on its server, a token for it, and nobody who waits long."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CAVE_TOKEN", TOKEN)
    monkeypatch.setattr("somatic.cave.graph.Patience", lambda: HURRY)
    monkeypatch.setattr(calls, "_limiters", {})
    with GraphServer(_written.watershed, TOKEN) as server:
        yield server


def around(corner: tuple[int, int, int], size: tuple[int, int, int]) -> Box:
    """A box, its corner counted from the volume's."""
    return Box(np.array(OFFSET) + corner, np.array(OFFSET) + corner + size)


def the_cell(root: int = CELL) -> Cell:
    """The soma, around its middle."""
    x, y, z = (np.array(OFFSET) + np.array(SHAPE) // 2).tolist()
    return Cell(5, root, (x, y, z), RESOLUTION)


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("at", "root"), [(FIRST, CELL), (SECOND, NEW_CELL), (FIRST, OTHER + 9), (SECOND, OTHER + 100)])
def test_the_same_cutout_as_a_flat_copy(
    graph: GraphServer, flat: dict[datetime, str], box: tuple, at: datetime, root: int
) -> None:
    """Whole, inside, sticking out; root ids of today and of before, with one request."""
    segmentation = Segmentation(graph.url, 0)
    of_graph, of_flat = segmentation.read(around(*box), root), Segmentation(flat[at], 0).read(around(*box), root)
    np.testing.assert_array_equal(of_graph.mask.to_array(), of_flat.mask.to_array())
    assert (of_graph.inside.n_voxels, of_graph.n_unlabelled) == (of_flat.inside.n_voxels, of_flat.n_unlabelled)
    assert of_graph.mask.to_array().any()
    assert graph.n_asked("leaves") == 1
    leaves = segmentation.leaves(root, around(*box))
    assert leaves.dtype == np.uint64
    assert (np.diff(leaves.astype(np.int64)) > 0).all()
    np.testing.assert_array_equal(
        Segmentation(segmentation.layer_url, 0).read(around(*box), leaves).mask.to_array(), of_flat.mask.to_array()
    )


def test_the_same_features_as_a_flat_copy(graph: GraphServer, flat: dict[datetime, str]) -> None:
    """Every number of a row, at both moments; a notebook need not ask for the leaves, and gets them once."""
    segmentation = Segmentation(graph.url, 0)
    for at, root in ((FIRST, CELL), (SECOND, NEW_CELL)):
        of_graph = extract_cell(the_cell(root), segmentation, None, None, radius_nm=RADIUS_NM)
        of_flat = extract_cell(the_cell(root), Segmentation(flat[at], 0), None, None, radius_nm=RADIUS_NM)
        assert of_graph.row == of_flat.row
        assert of_graph.row["status"] == "ok"
    assert graph.n_asked("leaves") == 2


@pytest.fixture(scope="module")
def scene(small_scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A copy, since its watershed is written beside it."""
    return load_scene(shutil.copytree(small_scene.folder, tmp_path_factory.mktemp("scene") / "volume"))


def test_the_phantom_as_flat_copies_and_as_a_graph(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row of both versions is the same but for the seconds, with one request for leaves a cell that has any."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CAVE_TOKEN", TOKEN)
    with CaveServer(datastack(scene, graph=True), token=TOKEN) as server:
        kinds = {}
        for kind in ("flat", "graph"):
            path = write_cave_dataset(scene, server.url, tmp_path / f"{kind}.toml", graph=kind == "graph")
            kinds[kind] = load_dataset(path).model_copy(update={"cutout_radius_um": 5.0})
        for version in scene.versions:
            tables = {}
            for kind, dataset in kinds.items():
                before = len(server.requests)
                opened = Extraction.open(dataset, version, str(tmp_path / kind), with_meshes=False)
                nuclei = opened.source.nuclei()
                assert check_segmentation(nuclei, opened.segmentation, opened.title, opened.source.timestamp) == 2
                tables[kind] = pd.DataFrame(rows_of(opened)).set_index("nucleus_id")[FEATURES]
                asked = [request.path for request in server.requests[before:] if "/segmentation/" in request.path]
            assert sum("leaves" in path for path in asked) == (tables["graph"]["status"] == "ok").sum() == 2
            pd.testing.assert_frame_equal(tables["graph"], tables["flat"], check_exact=True)


def test_a_box_outside_the_volume_asks_nothing(graph: GraphServer) -> None:
    """Nor does one that only touches it; the reason says where the cutout lies."""
    segmentation = Segmentation(graph.url, 0)
    asked = len(graph.asked)
    for corner in ((-50, 0, 0), (0, 0, SHAPE[2]), (500, 0, 0)):
        cutout = segmentation.read(around(corner, (50, 50, 50)), CELL)
        assert (cutout.inside.n_voxels, cutout.mask.to_array().any()) == (0, False)
    cell = replace(the_cell(), centre_vx=(5000, 5000, 5000))
    measured = extract_cell(cell, segmentation, None, None, radius_nm=RADIUS_NM)
    assert isinstance(measured.error, MissingSegment)
    assert "outside" in measured.row["reason"]
    assert len(graph.asked) == asked


def test_bounds_are_whole_voxels_of_mip_0(graph: GraphServer, tmp_path: Path) -> None:
    """At a coarser mip they cover all its voxels, whose grid begins at the volume's odd corner, and are clipped."""
    layer = CloudVolume(graph.watershed.url, progress=False)
    info = layer.info
    copy = CloudVolume(f"file://{tmp_path}/copy", info=info, progress=False)
    copy.add_scale((2, 2, 1))
    copy.commit_info()
    graph.watershed = replace(graph.watershed, url=f"precomputed://file://{tmp_path}/copy")
    segmentation = Segmentation(graph.url, 1)
    assert segmentation.bounds.lower_vx.tolist() == [10, 18, 11]
    segmentation.leaves(CELL, Box(np.array([20, 30, 20]), np.array([30, 40, 30])))
    # From 21 + 2 (20 - 10) = 41, but 2 x 20 = 40; to 21 + 2 (30 - 10) = 61, and 2 x 30 = 60.
    assert "bounds=40-61_60-81_20-30" in graph.asked[-1]
    segmentation.leaves(CELL, Box(np.array([-20, -30, -20]), np.array([3000, 4000, 3000])))
    assert "bounds=21-131_37-127_11-81" in graph.asked[-1]


def test_many_leaves() -> None:
    """100,000 ids, each voxel another or long runs, next to 0 and to their neighbours in the last bit."""
    rng = np.random.default_rng(1)
    ids = np.unique(rng.integers(1, 2**63, 100_000).astype(np.uint64) * np.uint64(2))
    for file in (
        rng.choice(np.concatenate([ids, ids + np.uint64(1), [np.uint64(0)]]), (64, 32, 16)),
        np.kron(rng.choice(np.concatenate([ids, ids - np.uint64(1)]), (8, 8, 4)), np.ones((8, 8, 8), np.uint64)),
    ):
        np.testing.assert_array_equal(_is_one_of(file, ids), np.isin(file, ids))
        np.testing.assert_array_equal(_is_one_of(np.asfortranarray(file), ids), np.isin(file, ids))
    assert not _is_one_of(np.ones((3, 4, 5), np.uint64), ids[:0]).any()


def test_roots_and_whether_they_are_of_today(graph: GraphServer) -> None:
    """Each at a moment; 0 has no root, and nothing is asked where there is nothing to ask."""
    there = Graph(graph.url)
    supervoxel = Segmentation(graph.url, 0).label_at((np.array(OFFSET) + (45, 45, 35)) * RESOLUTION)
    assert there.roots_of([0, supervoxel, supervoxel], FIRST).tolist() == [0, CELL, CELL]
    assert there.roots_of([supervoxel], SECOND).tolist() == [NEW_CELL]
    assert there.roots_of([supervoxel], SECOND.replace(tzinfo=None)).tolist() == [NEW_CELL]
    assert there.roots_of([supervoxel]).tolist() == [NEW_CELL]
    assert there.latest([CELL, NEW_CELL, 12], FIRST).tolist() == [True, False, False]
    assert there.latest([CELL, NEW_CELL, 12]).tolist() == [False, True, False]
    unknown = supervoxel + (1 << 20)
    assert there.roots_of([unknown, 0, unknown], FIRST).tolist() == [0, 0, 0]
    assert there.roots_of([unknown, supervoxel], FIRST).tolist() == [0, CELL]
    asked = len(graph.asked)
    assert there.roots_of([0, 0]).tolist() == [0, 0]
    assert there.latest([]).tolist() == []
    assert len(graph.asked) == asked
    assert there.chunk_shape.tolist() == list(CHUNK)


@pytest.mark.parametrize(("shift_us", "root"), [(-200, CELL), (-100, NEW_CELL), (0, NEW_CELL), (700, NEW_CELL)])
def test_the_moment_of_an_edit(graph: GraphServer, shift_us: int, root: int) -> None:
    """A version of the very moment of an edit: the root ids that its supervoxels have are those that count."""
    there, at = Graph(graph.url), SECOND + timedelta(microseconds=shift_us)
    supervoxel = Segmentation(graph.url, 0).label_at((np.array(OFFSET) + (45, 45, 35)) * RESOLUTION)
    assert there.roots_of([supervoxel], at).tolist() == [root]
    assert there.latest([CELL, NEW_CELL, 12], at).tolist() == [root == CELL, root == NEW_CELL, False]


def test_the_segmentation_of_a_version(graph: GraphServer) -> None:
    """The root id at the centre, at the version's moment; without one, whether the root id holds the centre."""
    segmentation = Segmentation(graph.url, 0)
    centre = [int(v) for v in np.array(OFFSET) + (45, 45, 35)]

    def nuclei(root: int) -> Nuclei:
        columns = ("nucleus_id", "root_id", "x_vx", "y_vx", "z_vx")
        return Nuclei(pd.DataFrame([[5, root, *centre]], columns=list(columns)), RESOLUTION)

    assert check_segmentation(nuclei(CELL), segmentation, "v1", FIRST) == 1
    assert check_segmentation(nuclei(NEW_CELL), segmentation, "v2", SECOND) == 1
    for root, at in ((CELL, SECOND), (NEW_CELL, FIRST)):
        with pytest.raises(WrongSegmentation, match=f"nucleus 5: label {CELL + NEW_CELL - root}, root id {root}"):
            check_segmentation(nuclei(root), segmentation, "v3", at)
    assert check_segmentation(nuclei(CELL), segmentation, "files") == 1
    assert check_segmentation(nuclei(NEW_CELL), segmentation, "files") == 1
    for root in (OTHER + 7, 12):
        with pytest.raises(WrongSegmentation):
            check_segmentation(nuclei(root), segmentation, "files")


def test_a_root_that_the_graph_does_not_know(graph: GraphServer) -> None:
    """It is permanent, requested once, and a failed row with the reason; a graph answers like for a root elsewhere."""
    segmentation = Segmentation(graph.url, 0)
    measured = extract_cell(the_cell(12), segmentation, None, None, radius_nm=RADIUS_NM)
    assert isinstance(measured.error, UnknownRoot)
    assert measured.row["status"] == "failed"
    assert measured.row["reason"] == "root id 12 of graph t: the graph has no such root id, and never had"
    assert graph.n_asked("leaves") == graph.n_asked("root_timestamps") == 1
    elsewhere = extract_cell(the_cell(OTHER + 100), segmentation, None, None, radius_nm=500.0)
    assert isinstance(elsewhere.error, MissingSegment)
    assert elsewhere.row["reason"] == f"root id {OTHER + 100} has no voxel in the cutout"
    assert graph.n_asked("root_timestamps") == 2


def test_a_root_that_a_graph_may_not_tell_of(graph: GraphServer) -> None:
    """A graph that is served up to a moment refuses later roots like a wrong token; it costs that one cell alone."""
    graph.faults.append(Fault("leaves", 401, "root_id not valid at timestamp"))
    measured = extract_cell(the_cell(), Segmentation(graph.url, 0), None, None, radius_nm=RADIUS_NM)
    assert isinstance(measured.error, UnknownRoot)
    assert "root_id not valid at timestamp" in measured.row["reason"]


@pytest.mark.parametrize(
    ("status", "message", "error", "n_asked"),
    [
        (400, "bounds are malformed", CaveError, 1),
        (500, "InternalServerError: Bigtable", CaveUnavailable, 3),
        (503, "", CaveUnavailable, 3),
        (401, "invalid_token", CaveTokenError, 1),
        (403, "missing_permission", CaveTokenError, 1),
        (302, "", CaveTokenError, 1),
    ],
)
def test_errors_by_type(graph: GraphServer, status: int, message: str, error: type, n_asked: int) -> None:
    """Passing faults are tried again, others not; no error holds the token, and no redirect is followed."""
    segmentation = Segmentation(graph.url, 0)
    headers = {"Location": f"{graph.address}/elsewhere"} if status == 302 else {}
    graph.faults.append(Fault("leaves", status, f"{message} {TOKEN}", headers=headers))
    with pytest.raises(error) as caught:
        segmentation.read(around((0, 0, 0), SHAPE), CELL)
    assert TOKEN not in str(caught.value) + repr(segmentation.graph)
    assert graph.n_asked("leaves") == n_asked
    assert graph.n_asked("elsewhere") == 0


def test_passing_faults_and_the_rate_limit_are_waited_for(graph: GraphServer) -> None:
    """A 429 inside a 500 and a broken answer cost time and nothing else."""
    segmentation = Segmentation(graph.url, 0)
    graph.faults += [Fault("leaves", 500, "429 Too Many Requests: 200 per minute", 4), Fault("leaves", 200, "", 1)]
    assert segmentation.read(around((0, 0, 0), SHAPE), CELL).mask.to_array().any()
    assert graph.n_asked("leaves") == 6


def test_a_watershed_behind_a_store_that_hides_what_is_missing(
    graph: GraphServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file without supervoxels that is refused counts as missing; a watershed that is refused is an error."""
    monkeypatch.setattr(patience, "WAIT", tenacity.wait_none())
    put_watershed(tmp_path / "ws", volumes(), resolution_nm=RESOLUTION, offset_vx=OFFSET, file_shape=(16, 16, 16))
    whole = around((0, 0, 0), SHAPE)
    expected = Segmentation(graph.url, 0).read(whole, CELL)
    with FileServer(tmp_path, hides_missing=True) as store:
        graph.data_dir = store.url("ws").removeprefix("precomputed://")
        segmentation = Segmentation(graph.url, 0)
        found = segmentation.read(whole, CELL)
        np.testing.assert_array_equal(found.mask.words, expected.mask.words)
        assert found.n_unlabelled == expected.n_unlabelled
        assert segmentation.n_files_refused > 0
        store.refuse(["/100_100_80/", "/100.0_100.0_80.0/"])
        with pytest.raises(RefusedLayer, match="revoked"):
            segmentation.read(whole, CELL)


def test_the_token_stays_with_the_server_of_the_graph(
    graph: GraphServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The bucket of the watershed is asked without it, in public ones without any credentials; ~/.netrc has no say."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login x password y\n")
    segmentation = Segmentation(graph.url, 0)
    segmentation.read(around((0, 0, 0), SHAPE), CELL)
    assert graph.tokens == {f"Bearer {TOKEN}"}
    sent = []
    to_anybody = HTTPAdapter.send

    def send(adapter: HTTPAdapter, request: PreparedRequest, **options: Any) -> Response:
        if request.path_url.startswith("/segmentation/"):
            return to_anybody(adapter, request, **options)
        sent.append(request)
        raise KeyboardInterrupt

    monkeypatch.setattr("requests.adapters.HTTPAdapter.send", send)
    public = "https://storage.googleapis.com/bucket/ws"
    scales = [{"resolution": [8, 8, 40], "size": [9, 9, 9]}]
    for place, asked in (("gs://bucket/ws", public), ("http://127.0.0.1:1/ws", "http://127.0.0.1:1/ws")):
        info = {"data_dir": place, "graph": {"chunk_size": CHUNK}, "scales": scales}
        monkeypatch.setattr(GraphServer, "answer", lambda *_, info=info: (200, info))
        with pytest.raises(KeyboardInterrupt):
            Segmentation(graph.url, 0)
        assert sent[-1].url == f"{asked}/info"
        assert TOKEN not in str(dict(sent[-1].headers))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("graphene://minnie65", "not the URL of a graph"),
        ("graphene://gs://bucket/segmentation/table/t", "not the URL of a graph"),
        ("graphene://https://host/segmentation", "not the URL of a graph"),
    ],
)
def test_what_is_no_graph(url: str, says: str) -> None:
    """Refused without asking anybody."""
    with pytest.raises(SegmentationError, match=says):
        Segmentation(url, 0)


def test_a_table_that_is_not_there_and_an_info_that_is_none(
    graph: GraphServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permanent, in one line; so is the lack of a token, which says for which server."""
    other = graph.url.replace("table/t", "table/other")
    with pytest.raises(
        CaveError, match=f"graph other: CAVE at .* answered 400: .*; there is no .* its name in {other}"
    ):
        Graph(other)
    assert len(graph.asked) == 1
    graph.faults.append(Fault("info", 200, "not an info"))
    with pytest.raises(SegmentationError, match="its info is not that of a graph"):
        Graph(graph.url)
    monkeypatch.delenv("CAVE_TOKEN")
    with pytest.raises(CaveTokenError, match=f"no token for CAVE at {graph.address}"):
        Graph(graph.url)
    with pytest.raises(CaveTokenError, match="no token for CAVE at https://global.example.org"):
        Graph(graph.url, "https://global.example.org")


def extraction(url: str, folder: Path, roots: list[int], version: int = 0) -> Extraction:
    """An extraction of nuclei in a file, all at the soma's middle."""
    x, y, z = the_cell().centre_vx
    where = {"pt_position_x": x, "pt_position_y": y, "pt_position_z": z}
    nuclei = [{"id": n + 1, "pt_root_id": root} | where for n, root in enumerate(roots)]
    folder.mkdir()
    pd.DataFrame(nuclei).to_csv(folder / "nuclei.csv", index=False)
    files = FileSource(nuclei=str(folder / "nuclei.csv"), resolution_nm=RESOLUTION, version=version)
    dataset = Dataset(name="d", mip=0, cutout_radius_um=RADIUS_NM / 1000, segmentation=url, files=files)
    return Extraction.open(dataset, results=str(folder / "results"), with_meshes=False)


def rows_of(opened: Extraction) -> list[dict]:
    """The rows of all its nuclei, measured in a process of their own."""
    plan = make_plan(opened.source.nuclei(), radius_nm=opened.radius_nm)
    asked = plan.rows[plan.rows["chunk"] >= 0]
    rows = opened.extract(asked, plan.resolution_nm)
    return sorted(rows, key=lambda row: row["nucleus_id"])


def test_an_extraction_on_a_graph(graph: GraphServer, flat: dict[datetime, str], tmp_path: Path) -> None:
    """Leaves are asked once a cell by this process; what measures needs neither token nor server."""
    of_graph = extraction(graph.url, tmp_path / "graph", [CELL, OTHER + 7, 12])
    assert of_graph.config["segmentation_kind"] == "graph"
    graph.faults.append(Fault(f"{OTHER + 7}/leaves", 503, ""))
    first, second, third = rows_of(of_graph)
    [expected] = rows_of(extraction(flat[FIRST], tmp_path / "flat", [CELL]))
    assert first["soma_volume_um"] == expected["soma_volume_um"] > 0
    assert first["frac_unlabelled"] == expected["frac_unlabelled"] > 0
    assert (second["status"], second["transient"]) == ("failed", True)
    assert (third["status"], third["transient"], third["error_class"]) == ("failed", False, "UnknownRoot")
    assert "root id 12" in third["reason"]
    assert graph.n_asked(f"{CELL}/leaves") == graph.n_asked("12/leaves") == 1
    assert graph.n_asked("/info") == 1
    assert graph.n_asked("is_latest") == 0


def test_a_root_of_another_moment_is_a_failed_cell(graph: GraphServer, tmp_path: Path) -> None:
    """At the version's timestamp the root is none any more: its row says so, and its leaves are not asked for."""
    opened = extraction(graph.url, tmp_path / "graph", [CELL, NEW_CELL])
    opened.source.timestamp = SECOND
    old, new = rows_of(opened)
    assert (old["status"], old["error_class"], old["transient"]) == ("failed", "UnknownRoot", False)
    assert "is no root of the graph at the moment of d v0 (2024-04-20 20:17:09 UTC)" in old["reason"]
    assert new["status"] == "ok"
    assert (graph.n_asked("is_latest"), graph.n_asked("leaves")) == (1, 1)


def test_a_token_that_is_refused_ends_the_chunk(graph: GraphServer, tmp_path: Path) -> None:
    """It is nobody's fault but the token's, so that no cell counts as failed for good."""
    opened = extraction(graph.url, tmp_path / "graph", [CELL, OTHER + 7])
    graph.faults.append(Fault("leaves", 401, "invalid_token"))
    plan = make_plan(opened.source.nuclei(), radius_nm=opened.radius_nm)
    rows = []
    with pytest.raises(CaveTokenError):
        rows.extend(opened.extract(plan.rows, plan.resolution_nm))
