"""The sandbox's chunked graph, asked through caveclient and cloud-volume, and held against the flat versions."""

import time
from datetime import UTC, datetime, timedelta

import fastremap
import numpy as np
import pytest
import requests
from caveclient import CAVEclient
from cloudvolume import CloudVolume

from sandbox.cave.server import CaveServer, Datastack
from sandbox.graph.chunked_graph import ChunkedGraph, State
from sandbox.graph.ids import N_LAYERS, chunks_of, layer_of, make_ids
from sandbox.graph.watershed import CHUNK, write_watershed
from sandbox.lab import chunked_graph, datastack, version_time, write_cave_dataset
from sandbox.phantom.scene import write_scene
from somatic.dataset import load_dataset

TOKEN, POOR_TOKEN = "abc123", "def456"
VOXEL_NM = np.array([128, 128, 80])
OFFSET = np.array([1041, -213, 705])
SHAPE = np.array([438, 438, 562])
BOX_NM = 15_000
SMALL_UM = (24.0, 24.0, 22.0)
LEAVES = "/segmentation/api/v1/table/phantom/node/{}/leaves"

pytestmark = pytest.mark.usefixtures("no_home")


@pytest.fixture(scope="module")
def scene(phantom):
    """The scene."""
    return phantom.scene


@pytest.fixture(scope="module")
def supervoxels(scene):
    """What the graph is made of: supervoxel_id, n_voxels, root_1, root_2."""
    return write_watershed(scene).supervoxels


@pytest.fixture(scope="module")
def running_server(scene):
    """A server of the scene with its graph."""
    with CaveServer(datastack(scene, graph=True), token=TOKEN, unprivileged_tokens=[POOR_TOKEN]) as running:
        yield running


@pytest.fixture
def server(running_server):
    """Return the server, in good health."""
    running_server.clear_faults()
    running_server.rate_limit(None)
    return running_server


@pytest.fixture
def graph(server):
    """Return caveclient's client of the graph."""
    client = CAVEclient("phantom", server_address=server.url, auth_token=TOKEN, write_server_cache=False)
    return client.chunkedgraph


@pytest.fixture
def volume(server):
    """Return cloud-volume's view of the graph."""
    return CloudVolume(f"graphene://{server.url}/segmentation/table/phantom", secrets=TOKEN, progress=False)


def when(version):
    """The moment of a version."""
    return version_time(version).replace(tzinfo=UTC)


def flat(scene, version, box):
    """Labels of a box in the flat copy of a version."""
    return np.asarray(CloudVolume(scene.segmentation_url(version), fill_missing=True, progress=False)[box])[..., 0]


def box_round(nucleus, reach_nm=BOX_NM):
    """Corners of the box round a nucleus within the volume, in voxels, (2, 3)."""
    centre_nm = np.array(nucleus.centre_nm)
    corners = np.array([(centre_nm - reach_nm) // VOXEL_NM, (centre_nm + reach_nm) // VOXEL_NM]).astype(int)
    return np.clip(corners, OFFSET, OFFSET + SHAPE)


def slices(corners):
    """Corners as slices."""
    return tuple(slice(int(a), int(b)) for a, b in corners.T)


def ask(server, path, token=TOKEN, **params):
    """Answer to a GET."""
    return requests.get(f"{server.url}{path}", params=params, headers={"Authorization": f"Bearer {token}"}, timeout=20)


class TestWatershed:
    """Supervoxels beside the flat layers."""

    def test_every_voxel_has_the_roots_of_the_flat_versions(self, scene, supervoxels):
        """The root of a voxel's supervoxel in a version is the voxel's flat label there, unlabelled ones included."""
        corners = np.array([OFFSET + [200, 250, 60], OFFSET + [438, 438, 260]])
        labels = np.asarray(CloudVolume(write_watershed(scene).cloudpath, progress=False)[slices(corners)])[..., 0]
        known, inverse = fastremap.unique(labels, return_inverse=True)
        assert known[0] == 0
        for version in (1, 2):
            roots = supervoxels.set_index("supervoxel_id")[f"root_{version}"].reindex(known, fill_value=0)
            assert np.array_equal(
                roots.to_numpy()[inverse].reshape(labels.shape), flat(scene, version, slices(corners))
            )

    def test_supervoxels_stay_in_their_chunk(self, scene):
        """The bits of an id hold the chunk of each of its voxels, and its layer, 1."""
        corners = np.array([OFFSET + [60, 100, 50], OFFSET + [140, 200, 140]])
        labels = np.asarray(CloudVolume(write_watershed(scene).cloudpath, progress=False)[slices(corners)])[..., 0]
        at = np.argwhere(labels)
        ids = labels[tuple(at.T)]
        assert len(at) > 500_000
        assert np.array_equal(chunks_of(ids), (at + [60, 100, 50]) // CHUNK)
        assert np.all(ids >> np.uint64(56) == 1)
        one = int(ids[0])
        assert [one >> 46 & 1023, one >> 36 & 1023, one >> 26 & 1023] == chunks_of(ids[:1])[0].tolist()

    def test_several_supervoxels_a_cell_in_a_chunk(self, scene, supervoxels):
        """A soma has many supervoxels, several of them in one chunk."""
        root = scene.with_role("ordinary")[0].roots[1]
        chunks = chunks_of(supervoxels.loc[supervoxels["root_1"] == root, "supervoxel_id"].to_numpy())
        _, counts = np.unique(chunks, axis=0, return_counts=True)
        assert counts.max() >= 4

    def test_cut_short_and_written_again(self, tmp_path):
        """A watershed is loaded where it is complete, made new where it is not, and comes out the same."""
        scene = write_scene(tmp_path, extent_um=SMALL_UM)
        first = write_watershed(scene)
        files = {path: path.read_bytes() for path in sorted(first.folder.rglob("*")) if path.is_file()}
        written = {path: path.stat().st_mtime_ns for path in files}
        assert write_watershed(scene).supervoxels.equals(first.supervoxels)
        assert {path: path.stat().st_mtime_ns for path in files} == written

        def ruin():
            next(path for path in files if path.name != "info").write_bytes(b"half")
            (tmp_path / "supervoxels.parquet").write_bytes(b"half")

        ruin()
        (tmp_path / "watershed.json").unlink()
        assert write_watershed(scene).supervoxels.equals(first.supervoxels)
        assert {path: path.read_bytes() for path in files} == files
        # One that was made for another scene is not taken for this one's.
        ruin()
        (tmp_path / "scene.json").write_text((tmp_path / "scene.json").read_text() + " ")
        assert write_watershed(scene).supervoxels.equals(first.supervoxels)
        assert {path: path.read_bytes() for path in files} == files


class TestLeaves:
    """Supervoxels of roots."""

    @pytest.mark.parametrize("version", [1, 2])
    @pytest.mark.parametrize("role", ["ordinary", "re-rooted", "merged", "edge"])
    def test_download_equals_the_flat_mask(self, scene, volume, role, version):
        """cloud-volume cuts the same voxels out of the graph as out of the flat copy, for current and old roots."""
        nucleus = scene.with_role(role)[0]
        box = slices(box_round(nucleus, 6_000))
        cut = np.asarray(volume.download(box, segids=[nucleus.roots[version]], agglomerate=False))[..., 0]
        expected = flat(scene, version, box) == nucleus.roots[version]
        assert expected.sum() > 50_000
        assert np.array_equal(cut == nucleus.roots[version], expected)

    def test_download_agglomerated(self, scene, volume):
        """cloud-volume makes the flat labels of either version out of a box of supervoxels."""
        box = slices(box_round(scene.with_role("merged")[0], 5_000))
        cuts = {v: np.asarray(volume.download(box, agglomerate=True, timestamp=when(v)))[..., 0] for v in (1, 2)}
        for version, cut in cuts.items():
            assert np.array_equal(cut, flat(scene, version, box))
        assert not np.array_equal(cuts[1], cuts[2])

    def test_all_leaves(self, scene, graph, supervoxels):
        """Without bounds a root has all its supervoxels, whether it is current or old, and in no order."""
        for nucleus in (scene.with_role("re-rooted")[0], scene.with_role("merged")[1]):
            for version, root in nucleus.roots.items():
                leaves = graph.get_leaves(root)
                of_root = supervoxels.loc[supervoxels[f"root_{version}"] == root, "supervoxel_id"]
                assert sorted(leaves) == of_root.tolist()
                assert sorted(leaves) != leaves.tolist()

    def test_bounds_are_widened_to_whole_chunks(self, scene, graph, supervoxels):
        """Two voxels on both sides of a chunk's face give all of the two chunks, one voxel gives all of one."""
        nucleus = scene.with_role("ordinary")[0]
        root = nucleus.roots[1]
        of_root = supervoxels.loc[supervoxels["root_1"] == root, "supervoxel_id"].to_numpy()
        centre = (np.array(nucleus.centre_nm) // VOXEL_NM).astype(int)
        chunk = (centre - OFFSET) // CHUNK
        face = OFFSET[0] + chunk[0] * CHUNK[0]
        for x, n_chunks in (((face, face + 1), 1), ((face - 1, face + 1), 2)):
            bounds = np.array([x, *((c, c + 1) for c in centre[1:])])
            wanted = (chunks_of(of_root) <= chunk) & (chunks_of(of_root) > chunk - [n_chunks, 1, 1])
            assert sorted(graph.get_leaves(root, bounds=bounds)) == of_root[wanted.all(axis=1)].tolist()

    def test_leaves_of_many(self, scene, graph):
        """Many roots at once have the leaves that each has alone."""
        roots = list(scene.with_role("merged")[0].roots.values())
        response = graph.session.post(
            graph._endpoints["leaves_many"].format_map(graph.default_url_mapping), json={"node_ids": roots}
        )
        assert response.json() == {str(root): graph.get_leaves(root).tolist() for root in roots}

    def test_outside_the_volume(self, scene, graph):
        """No chunk, no leaves."""
        assert len(graph.get_leaves(scene.with_role("ordinary")[0].roots[1], bounds=np.zeros((3, 2), int))) == 0

    def test_negative_bounds(self, scene, server):
        """A minus sign is read along y, where the volume begins below zero, and is an error elsewhere as in CAVE."""
        path = LEAVES.format(scene.with_role("ordinary")[0].roots[1])
        below = ask(server, path, bounds="1041-1479_-213-225_705-1267")
        assert below.json() == ask(server, path).json()
        assert len(below.json()["leaf_ids"]) > 50
        refused = ask(server, path, bounds="-5-1479_0-225_705-1267")
        assert (refused.status_code, "invalid literal for int()" in refused.json()["message"]) == (500, True)
        assert ask(server, path, bounds="1041-1479").status_code == 500

    def test_no_such_root(self, scene, graph, server):
        """A root that never was has no leaves and no time, and none of this is an error; nor has one of the tables."""
        never, of_tables = 864_691_135_999_999_999, scene.with_role("not in segmentation")[0].roots[1]
        for root in (never, of_tables):
            assert ask(server, LEAVES.format(root)).json() == {"leaf_ids": []}
        known = scene.with_role("ordinary")[0].roots[1]
        leaves = graph.session.post(
            graph._endpoints["leaves_many"].format_map(graph.default_url_mapping), json={"node_ids": [never, known]}
        ).json()
        assert leaves[str(never)] == []
        assert len(leaves[str(known)]) > 50
        assert graph.get_root_timestamps([never]).tolist() == []
        with pytest.raises(requests.HTTPError, match=str(never)):
            graph.get_root_timestamps([known, never])

    def test_a_hundred_thousand_leaves(self):
        """A large root is answered within seconds, all its leaves and those of a box."""
        n = 100_000
        chunks = np.stack(np.unravel_index(np.repeat(np.arange(1000), n // 1000), (10, 10, 10)), axis=1)
        ids = make_ids(1, chunks, np.tile(np.arange(1, n // 1000 + 1), 1000))
        root = np.uint64(N_LAYERS << 56 | 5)
        info = {"scales": [{"voxel_offset": [0, 0, 0], "size": [640, 640, 640]}]}
        since = datetime(2020, 1, 1, tzinfo=UTC)
        state = State(since, np.full(n, root), make_ids(2, chunks, np.ones(n, int)))
        graph = ChunkedGraph(info, "file:///nowhere", CHUNK, ids, [state])
        with CaveServer(Datastack("d", "v", "graphene://{server}/segmentation/table/big", [], graph=graph)) as server:
            client = CAVEclient("d", server_address=server.url, auth_token=TOKEN, write_server_cache=False)
            started = time.monotonic()
            leaves = client.chunkedgraph.get_leaves(int(root))
            half = client.chunkedgraph.get_leaves(int(root), bounds=np.array([[0, 320], [0, 640], [0, 640]]))
            assert time.monotonic() - started < 5
        assert np.array_equal(np.sort(leaves), ids.astype(np.int64))
        assert len(half) == n // 2


class TestEdits:
    """What happened between the versions."""

    def test_nodes_of_layer_2(self, scene, graph):
        """Nodes of layer 2 lie in the chunks of their supervoxels and have them as leaves."""
        root = scene.with_role("ordinary")[0].roots[1]
        nodes = graph.get_leaves(root, stop_layer=2).astype(np.uint64)
        assert set(layer_of(nodes)) == {2}
        leaves = [graph.get_leaves(node).astype(np.uint64) for node in nodes]
        for node, below in zip(nodes, leaves, strict=True):
            assert (chunks_of(below) == chunks_of(node)).all()
        assert sorted(np.concatenate(leaves)) == sorted(graph.get_leaves(root))

    def test_edit_far_away(self, scene, graph):
        """Of the re-rooted cell one node of layer 2 is another, far from the soma; its leaves are as before."""
        nucleus = scene.with_role("re-rooted")[0]
        before, after = (set(graph.get_leaves(nucleus.roots[v], stop_layer=2)) for v in (1, 2))
        assert (len(before - after), len(after - before)) == (1, 1)
        near = box_round(nucleus, 8_000).T
        round_soma = [sorted(graph.get_leaves(nucleus.roots[v], bounds=near, stop_layer=2)) for v in (1, 2)]
        assert round_soma[0] == round_soma[1]
        box = box_round(nucleus).T
        leaves = [sorted(graph.get_leaves(nucleus.roots[v], bounds=box)) for v in (1, 2)]
        assert leaves[0] == leaves[1]

    def test_split(self, scene, graph):
        """The merge error is torn apart in one chunk, where both cells are; other nodes stay and find their root."""
        one, other = scene.with_role("merged")
        before = set(graph.get_leaves(one.roots[1], stop_layer=2))
        after = [set(graph.get_leaves(nucleus.roots[2], stop_layer=2)) for nucleus in (one, other)]
        (torn,) = before - after[0] - after[1]
        new = [nodes - before for nodes in after]
        assert [len(nodes) for nodes in new] == [1, 1]
        ends = np.array([torn, *new[0], *new[1]]).astype(np.uint64)
        assert len(np.unique(chunks_of(ends), axis=0)) == 1
        assert sorted(graph.get_leaves(ends[0])) == sorted([*graph.get_leaves(ends[1]), *graph.get_leaves(ends[2])])

    def test_cells_without_an_edit(self, scene, graph):
        """Who was not edited has the same nodes at both times."""
        root = scene.with_role("moved")[0].roots[1]
        supervoxels = graph.get_leaves(root)
        nodes = [graph.get_roots(supervoxels, timestamp=when(v), stop_layer=2) for v in (1, 2)]
        assert np.array_equal(*nodes)
        assert set(nodes[0]) == set(graph.get_leaves(root, stop_layer=2))

    def test_id_with_two_meanings(self):
        """A root that would mean other supervoxels after an edit is refused."""
        ids = make_ids(1, np.zeros((2, 3), int), np.array([1, 2]))
        level2 = make_ids(2, np.zeros((2, 3), int), np.array([1, 2]))
        roots = [np.array(roots, np.uint64) + np.uint64(N_LAYERS << 56) for roots in ([1, 2], [1, 1])]
        start = datetime(2020, 1, 1, tzinfo=UTC)
        states = [State(start + k * timedelta(days=1), now, level2) for k, now in enumerate(roots)]
        info = {"scales": [{"voxel_offset": [0, 0, 0], "size": [9, 9, 9]}]}
        with pytest.raises(ValueError, match="means different supervoxels"):
            ChunkedGraph(info, "file:///nowhere", CHUNK, ids, states)


class TestTime:
    """Roots at a moment."""

    def test_is_latest(self, scene, graph):
        """Root ids are those of their version, and of now only while no edit replaced them."""
        for role, kept in (("ordinary", True), ("re-rooted", False), ("merged", False)):
            nucleus = scene.with_role(role)[0]
            roots = [nucleus.roots[1], nucleus.roots[2]]
            assert graph.is_latest_roots(roots, timestamp=when(1)).tolist() == [True, kept]
            assert graph.is_latest_roots(roots, timestamp=when(2)).tolist() == [kept, True]
            assert graph.is_latest_roots(roots).tolist() == [kept, True]

    def test_roots_of_the_tables(self, scene, graph):
        """Every root of a version's nuclei is one at that time, but for the one that has no voxel."""
        nowhere = {nucleus.nucleus_id for nucleus in scene.with_role("not in segmentation")}
        for version in scene.versions:
            rows = scene.nuclei(version)
            rows = rows[rows["pt_root_id"].fillna(0) > 1]
            latest = graph.is_latest_roots(rows["pt_root_id"].to_numpy(np.int64), timestamp=when(version))
            assert set(rows.loc[~latest, "id"]) == nowhere

    def test_roots_of_supervoxels(self, volume, supervoxels):
        """All supervoxels at once, sent compressed, have the roots of the version at its time."""
        ids = supervoxels["supervoxel_id"].to_numpy()
        for version in (1, 2):
            assert np.array_equal(volume.get_roots(ids, timestamp=when(version)), supervoxels[f"root_{version}"])

    def test_roots_of_other_ids(self, scene, graph, supervoxels):
        """A node of layer 2 has the root above it, a root itself, and what is no node 0."""
        root = scene.with_role("ordinary")[0].roots[1]
        node = graph.get_leaves(root, stop_layer=2)[0]
        unknown = int(supervoxels["supervoxel_id"].max()) + 1
        assert graph.get_roots([node, root, unknown, 0], timestamp=when(1)).tolist() == [root, root, 0, 0]
        as_json = graph.session.post(
            graph._endpoints["handle_roots"].format_map(graph.default_url_mapping), json={"node_ids": [int(node)]}
        )
        assert as_json.json() == {"root_ids": [root]}
        assert graph.get_root_id(int(supervoxels["supervoxel_id"][0])) == supervoxels["root_2"][0]

    def test_roots_of_unknown_supervoxels(self, graph, supervoxels):
        """Where not one is known they come back as they are; beside a known one they have none."""
        known = int(supervoxels["supervoxel_id"].max())
        unknown = [known + 1, known + 2]
        assert graph.get_roots(unknown, timestamp=when(1)).tolist() == unknown
        assert graph.get_roots([*unknown, known], timestamp=when(1)).tolist()[:2] == [0, 0]
        with pytest.raises(requests.HTTPError, match="Cannot find root id"):
            graph.get_root_id(unknown[0])

    def test_the_moment_of_an_edit(self, scene, graph):
        """Edits are kept by the millisecond: within it supervoxels have the new root, and the old one is the latest."""
        old, new = (scene.with_role("re-rooted")[0].roots[v] for v in (1, 2))
        [edit] = graph.get_root_timestamps([new])
        moment = edit.replace(microsecond=edit.microsecond // 1000 * 1000 + 500)
        near = box_round(scene.with_role("re-rooted")[0], 2_000).T
        supervoxel = graph.get_leaves(old, bounds=near)[:1]
        assert graph.is_latest_roots([old, new, 12], timestamp=moment).tolist() == [True, False, False]
        assert graph.get_roots(supervoxel, timestamp=moment).tolist() == [new]
        next_ms = moment + timedelta(microseconds=500)
        assert graph.is_latest_roots([old, new, 12], timestamp=next_ms).tolist() == [False, True, False]
        before = moment - timedelta(milliseconds=1)
        assert graph.get_roots(supervoxel, timestamp=before).tolist() == [old]

    def test_timestamps(self, scene, graph):
        """An old root was there until the edit that made the new one."""
        old, new = (scene.with_role("re-rooted")[0].roots[v] for v in (1, 2))
        began, replaced = graph.get_root_timestamps([old, new])
        assert began == graph.get_oldest_timestamp()
        assert began < when(1) < replaced < when(2)
        until = graph.get_root_timestamps([old, new], latest=True, timestamp=when(2))
        assert abs(until[0] - replaced) < timedelta(seconds=1)
        assert abs(until[1] - when(2)) < timedelta(seconds=1)


class TestAccidents:
    """Tokens, limits and faults, as for tables."""

    def test_tokens(self, scene, server):
        """An unknown token is 401, one without the permission 403, for the info and for leaves."""
        for path in ("/segmentation/table/phantom/info", LEAVES.format(scene.with_role("ordinary")[0].roots[1])):
            assert [ask(server, path, token).status_code for token in (TOKEN, "ffff", POOR_TOKEN)] == [200, 401, 403]

    def test_another_table(self, server):
        """A graph of another name: whose permission that takes nobody knows; without tokens it is not there."""
        path = "/segmentation/table/other/info"
        answer = ask(server, path)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_table_id")
        assert ask(server, path, "ffff").status_code == 401

    def test_no_rate_limit(self, scene, server):
        """The graph does not count requests."""
        server.rate_limit(1, fast_per_minute=1)
        path = LEAVES.format(scene.with_role("ordinary")[0].roots[1])
        assert {ask(server, path, stop_layer=2).status_code for _ in range(3)} == {200}

    def test_faults(self, scene, server):
        """Leaves can fail, be late and break off."""
        path = LEAVES.format(scene.with_role("ordinary")[0].roots[1])
        server.fail("/leaves", 503, "busy")
        assert ask(server, path).status_code == 503
        server.slow("/leaves", 0.3)
        started = time.monotonic()
        assert ask(server, path).status_code == 200
        assert time.monotonic() - started > 0.3
        server.hang_up("/leaves")
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            ask(server, path)
        assert ask(server, path).status_code == 200

    def test_server_without_a_graph(self, scene):
        """A datastack of flat copies serves no graph, only which APIs there are."""
        with CaveServer(datastack(scene)) as server:
            assert ask(server, "/segmentation/api/versions").json() == [0, 1]
            name = scene.segmentation_url(2).rsplit("/", 1)[-1]
            assert ask(server, f"/segmentation/table/{name}/info").status_code == 404


class TestLab:
    """A dataset whose segmentation is a graph."""

    def test_dataset(self, scene, server, tmp_path):
        """The file names the graph and no flat copy, and so does the datastack."""
        dataset = load_dataset(write_cave_dataset(scene, server.url, tmp_path / "phantom.toml", graph=True))
        url = f"graphene://{server.url}/segmentation/table/phantom"
        assert [dataset.segmentation_for(version) for version in scene.versions] == [url, url]
        client = CAVEclient("phantom", server_address=server.url, auth_token=TOKEN, write_server_cache=False)
        assert client.info.segmentation_source() == url

    def test_info(self, scene, graph, volume):
        """The info holds the watershed's own, where it lies, and how ids are made."""
        info = graph.segmentation_info
        assert info["scales"] == CloudVolume(write_watershed(scene).cloudpath).info["scales"]
        assert info["data_dir"] == f"file://{(scene.folder / 'watershed').resolve()}"
        assert (info["graph"]["chunk_size"], info["app"]) == (list(CHUNK), {"supported_api_versions": [0, 1]})
        assert graph.base_resolution == VOXEL_NM.tolist()
        leaf = volume.get_leaves(scene.with_role("ordinary")[0].roots[1], volume.bounds, 0)[0]
        decoded = volume.meta.decode_label(leaf)
        assert [decoded.level, decoded.x, decoded.y, decoded.z] == [1, *chunks_of(np.array([leaf]))[0]]

    def test_edits_lie_between_the_versions(self, scene):
        """Each version's time falls into the state that was made for it."""
        first, second = chunked_graph(scene).states
        assert first.since < when(1) < second.since < when(2)
