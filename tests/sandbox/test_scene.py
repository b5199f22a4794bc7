"""The phantom scene: read back as anyone would, and held against how it was made."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import trimesh
from cloudvolume import CloudVolume
from scipy.ndimage import label

from sandbox.phantom.layout import MISSING_SECTIONS_UM
from sandbox.phantom.nuclei import MOVED_BY_VX
from sandbox.phantom.scene import Scene, load_scene, write_scene
from somatic.errors import DatasetError

VOXEL_NM = np.array([128, 128, 80])
TABLE_NM = np.array([4, 4, 40])
BOX_NM = 15_000
MISSING = {round(z_um / 0.08): share for z_um, share in MISSING_SECTIONS_UM}
SMALL_UM = (24.0, 24.0, 22.0)
FULLY_LABELLED = ("ordinary", "edge", "merged", "no mesh", "re-rooted", "moved", "new")


@pytest.fixture(scope="module")
def scene(phantom) -> Scene:
    """The scene."""
    return phantom.scene


@pytest.fixture(scope="module")
def labels(scene):
    """Every voxel of version 1."""
    return read(scene.segmentation_url(1))


@pytest.fixture(scope="module")
def nucleus_labels(scene):
    """Every voxel of the nucleus layer."""
    return read(scene.nucleus_segmentation_url)


def read(url: str) -> np.ndarray:
    """Voxels of a whole layer."""
    return np.asarray(CloudVolume(url, fill_missing=True, progress=False)[:, :, :])[..., 0]


def points(table: pd.DataFrame, name: str) -> np.ndarray:
    """Positions of a table as (n, 3) voxels of the volume, from its lower corner."""
    position_nm = table[[f"{name}_{axis}" for axis in "xyz"]].to_numpy(np.int64) * TABLE_NM
    return position_nm // VOXEL_NM - Scene.voxel_offset


def box_round(scene: Scene, nucleus, shape) -> tuple[slice, ...]:
    """The 30 um box of a nucleus, cut by the volume, as slices."""
    centre = np.array(nucleus.centre_nm)
    lower = ((centre - BOX_NM) // VOXEL_NM - scene.voxel_offset).astype(int)
    upper = ((centre + BOX_NM) // VOXEL_NM - scene.voxel_offset).astype(int)
    return tuple(slice(max(0, a), min(n, b)) for a, b, n in zip(lower, upper, shape, strict=True))


def test_written_in_time(phantom):
    """The whole scene costs less than 40 CPU seconds, and progress runs from 0 to 1."""
    shares, cpu = phantom.shares, phantom.cpu_s
    assert cpu < 40
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_layers_are_what_a_dataset_expects(scene):
    """Resolution, odd offset, ids of 64 bits, encoding and size of the three layers."""
    for url, data_type in (
        (scene.segmentation_url(1), "uint64"),
        (scene.segmentation_url(2), "uint64"),
        (scene.nucleus_segmentation_url, "uint32"),
    ):
        layer = CloudVolume(url)
        assert layer.resolution.tolist() == [128, 128, 80]
        assert layer.voxel_offset.tolist() == [1041, -213, 705]
        assert (layer.volume_size * VOXEL_NM > [55_900, 55_900, 44_900]).all()
        assert (layer.dtype, layer.encoding) == (data_type, "compressed_segmentation")


def test_labels_at_the_nuclei_are_their_roots(scene):
    """The label at a nucleus point is the root of that version; without a root there is no label."""
    for version in (1, 2):
        layer = CloudVolume(scene.segmentation_url(version))
        nuclei = scene.nuclei(version)
        for vx, row in zip(points(nuclei, "pt_position"), nuclei.itertuples(), strict=True):
            x, y, z = (int(i) for i in vx + scene.voxel_offset)
            found = int(np.asarray(layer[x : x + 1, y : y + 1, z : z + 1]).item())
            role = scene.truth[row.id].role
            if role in FULLY_LABELLED:
                assert found == row.pt_root_id > 2**53
            elif role == "not in segmentation":
                assert found not in (0, row.pt_root_id)
            else:
                assert found == 0
        assert set(nuclei["id"]) == {t.nucleus_id for t in scene.truth.values() if version in t.roots}


def test_nucleus_volumes(scene, nucleus_labels):
    """The volume in the table and in the truth is that of the voxels of the layer."""
    ids, counts = np.unique(nucleus_labels[nucleus_labels > 0], return_counts=True)
    counted = dict(zip(ids.tolist(), counts * 0.128 * 0.128 * 0.08, strict=True))
    assert counted.keys() == scene.truth.keys()
    nuclei = scene.nuclei(2)
    assert nuclei["volume"].to_numpy() == pytest.approx([counted[i] for i in nuclei["id"]])
    for nucleus_id, nucleus in scene.truth.items():
        assert nucleus.volume_um3 == pytest.approx(counted[nucleus_id])
        if nucleus.role not in ("root 0", "root 1"):
            assert 4 / 3 * np.pi * 2.7**3 < nucleus.volume_um3 < 4 / 3 * np.pi * 4.7**3


def test_nuclei_lie_in_their_cells(scene, labels, nucleus_labels):
    """Voxels of a nucleus carry its cell's root, but for the missing sections."""
    for nucleus in scene.truth.values():
        if nucleus.role in FULLY_LABELLED and 1 in nucleus.roots:
            box = box_round(scene, nucleus, labels.shape)
            under = labels[box][nucleus_labels[box] == nucleus.nucleus_id]
            assert set(np.unique(under)) <= {0, nucleus.roots[1]}
            assert np.mean(under == nucleus.roots[1]) > 0.95


def test_meshes(scene, nucleus_labels):
    """Meshes are closed, have the volume of the voxels, lie on them; one nucleus has none."""
    layer = CloudVolume(scene.nucleus_segmentation_url)
    (bare,) = scene.with_role("no mesh")
    with_mesh = sorted(scene.truth.keys() - {bare.nucleus_id})
    assert all(layer.mesh.exists(with_mesh).values())
    assert layer.mesh.exists([bare.nucleus_id]) == {str(bare.nucleus_id): None}
    for nucleus_id in with_mesh:
        stored = layer.mesh.get(nucleus_id)
        mesh = trimesh.Trimesh(stored.vertices, stored.faces)
        box = box_round(scene, scene.truth[nucleus_id], nucleus_labels.shape)
        mask = nucleus_labels[box] == nucleus_id
        first_vx = np.array([side.start for side in box]) + scene.voxel_offset
        centre_nm = (np.argwhere(mask).mean(axis=0) + first_vx + 0.5) * VOXEL_NM
        assert mesh.is_watertight
        assert mesh.volume == pytest.approx(mask.sum() * VOXEL_NM.prod(), rel=0.03)
        assert mesh.center_mass == pytest.approx(centre_nm, abs=10)
        assert scene.truth[nucleus_id].centre_nm == pytest.approx(centre_nm)


def test_nuclei_are_folded_differently(scene):
    """The area of the nuclei, over that of a ball of their volume, spreads: some have grooves and some none."""
    layer = CloudVolume(scene.nucleus_segmentation_url)
    excess = []
    for nucleus in scene.with_role("ordinary"):
        stored = layer.mesh.get(nucleus.nucleus_id)
        mesh = trimesh.Trimesh(stored.vertices, stored.faces)
        excess.append(mesh.area / (np.pi ** (1 / 3) * (6 * mesh.volume) ** (2 / 3)))
    assert min(excess) < 1.2
    assert max(excess) > 1.4


def test_looks_like_tissue(labels):
    """3 to 8 % without a label, hundreds of neurites in 10 um, none of which fills much; few sections are missing."""
    empty = (labels == 0).mean(axis=(0, 1))
    assert 0.03 < empty.mean() < 0.08
    roots, counts = np.unique(labels[200:300, 200:300, 150:250], return_counts=True)
    neurites = counts[(roots > 0) & (counts < 50_000)]
    assert len(neurites) > 500
    assert np.median(neurites) > 100
    for z, share in MISSING.items():
        assert empty[z] == pytest.approx(share, abs=0.1)
    assert np.delete(empty, list(MISSING)).max() < 0.15
    assert sum(share == 1.0 for share in MISSING.values()) >= 2


def test_cells_are_whole_and_run_out_of_their_boxes(scene, labels):
    """A cell is one piece in its 30 um box, and several dendrites cross the box's faces."""
    for nucleus in scene.with_role("ordinary"):
        box = box_round(scene, nucleus, labels.shape)
        mask = labels[box] == nucleus.roots[1]
        # Sections that are missing would cut the cell.
        mask = mask[:, :, mask.any(axis=(0, 1))]
        piece, _ = label(mask)
        sizes = np.bincount(piece.ravel())[1:]
        assert sizes.max() > 0.97 * sizes.sum()
        soma_um3 = mask.sum() * 0.128 * 0.128 * 0.08
        assert 4 / 3 * np.pi * 4.5**3 < soma_um3 < 4 / 3 * np.pi * 8**3
        faces = [np.take(mask, end, axis) for axis in range(3) for end in (0, -1)]
        assert sum(label(face)[1] for face in faces) >= 3


def test_merged_cells(scene, labels):
    """Two nuclei share a root in version 1 whose voxels are one piece; version 2 gives each a root of its own."""
    a, b = scene.with_role("merged")
    assert a.roots[1] == b.roots[1]
    assert len({a.roots[1], a.roots[2], b.roots[2]}) == 3
    box = box_round(scene, a, labels.shape)
    piece, _ = label(labels[box] == a.roots[1])
    within = [((np.array(n.centre_nm) // VOXEL_NM).astype(int) - scene.voxel_offset) for n in (a, b)]
    at = [piece[tuple(vx - [side.start for side in box])] for vx in within]
    assert at[0] == at[1] > 0


def test_edge_cell(scene, labels, nucleus_labels):
    """The volume's face cuts the soma of one cell, not its nucleus; its box sticks out."""
    (edge,) = scene.with_role("edge")
    assert (labels[0] == edge.roots[1]).sum() > 1000
    assert not (nucleus_labels[0] == edge.nucleus_id).any()
    assert edge.centre_nm[0] - BOX_NM < scene.voxel_offset[0] * VOXEL_NM[0]


def test_rows_without_a_root(scene, labels):
    """One row's root is NA, one's 0, one's 1; another's root has no voxel."""
    for version in (1, 2):
        roots = scene.nuclei(version).set_index("id")["pt_root_id"]
        assert roots.dtype == "Int64"
        (missing,), (zero,), (one,) = (scene.with_role(r) for r in ("no root", "root 0", "root 1"))
        assert roots[[missing.nucleus_id, zero.nucleus_id, one.nucleus_id]].tolist() == [pd.NA, 0, 1]
        assert roots.isna().sum() == 1
        assert {missing.roots[version], zero.roots[version], one.roots[version]} == {0}
    (nowhere,) = scene.with_role("not in segmentation")
    assert nowhere.roots[1] > 2**53
    assert not (labels == np.uint64(nowhere.roots[1])).any()


def test_versions_differ_as_listed(scene, labels):
    """Voxels differ by the split and the re-rooted cell only; rows by these, the new and the moved nucleus."""
    (rerooted,), (new,), (moved,) = (scene.with_role(r) for r in ("re-rooted", "new", "moved"))
    a, b = scene.with_role("merged")
    second = CloudVolume(scene.segmentation_url(2), progress=False)
    pairs = set()
    for z in range(0, labels.shape[2], 32):
        before = labels[:, :, z : z + 32]
        z_vx = z + scene.voxel_offset[2]
        after = np.asarray(second[:, :, z_vx : z_vx + before.shape[2]])[..., 0]
        differs = before != after
        pairs |= set(zip(before[differs].tolist(), after[differs].tolist(), strict=True))
        assert not np.isin(after, np.array([a.roots[1], rerooted.roots[1]], np.uint64)).any()
    assert pairs == {
        (a.roots[1], a.roots[2]),
        (b.roots[1], b.roots[2]),
        (rerooted.roots[1], rerooted.roots[2]),
    }

    before, after = (scene.nuclei(version).set_index("id") for version in (1, 2))
    assert set(after.index) - set(before.index) == {new.nucleus_id}
    changed = before.compare(after.loc[before.index], keep_shape=False)
    roots_changed = changed.dropna(subset=[("pt_root_id", "self")]).index
    points_changed = changed.dropna(subset=[("pt_position_x", "self")]).index
    assert set(roots_changed) == {a.nucleus_id, b.nucleus_id, rerooted.nucleus_id}
    assert set(points_changed) == {moved.nucleus_id}
    assert set(changed.index) == set(roots_changed) | set(points_changed)
    shift = points_of(after.loc[moved.nucleus_id]) - points_of(before.loc[moved.nucleus_id])
    assert tuple(shift) == MOVED_BY_VX

    first, last = (scene.synapses(version) for version in (1, 2))
    roots = [name for name in first.columns if name.endswith("root_id")]
    pd.testing.assert_frame_equal(first.drop(columns=roots), last.drop(columns=roots))
    renamed = {a.roots[1], rerooted.roots[1]}
    for name in roots:
        assert set(first.loc[first[name] != last[name], name]) <= renamed


def points_of(row: pd.Series) -> np.ndarray:
    """Nucleus point of one row."""
    return row[["pt_position_x", "pt_position_y", "pt_position_z"]].to_numpy(int)


def test_synapses_lie_on_their_cells(scene, labels):
    """As many synapses as were made are near a cell's voxels, the others far; post_pt lies in the root."""
    synapses = scene.synapses(1)
    for nucleus in scene.with_role("ordinary"):
        root = nucleus.roots[1]
        onto = synapses[(synapses["post_pt_root_id"] == root) & (synapses["pre_pt_root_id"] != root)]
        centre_nm = onto[[f"ctr_pt_position_{axis}" for axis in "xyz"]].to_numpy() * TABLE_NM
        centre_vx = centre_nm / VOXEL_NM - scene.voxel_offset - 0.5
        to_surface_nm = np.array([distance_to_surface_nm(labels, root, at) for at in centre_vx])
        assert not ((to_surface_nm > 300) & (to_surface_nm < 500)).any()
        on_surface = to_surface_nm < 300
        made = nucleus.n_soma_synapses[1] + nucleus.n_dendrite_synapses
        assert on_surface.sum() == made
        assert len(onto) == made + nucleus.n_far_synapses
        assert nucleus.n_far_synapses >= 8
        assert 60 <= nucleus.n_soma_synapses[1] <= 150
        post = labels[tuple(points(onto[on_surface], "post_pt_position").T)]
        assert (post == np.uint64(root)).all()


def distance_to_surface_nm(labels: np.ndarray, root: int, at_vx: np.ndarray) -> float:
    """Distance to the nearest voxel of the root or to the nearest of another one, whichever is farther.

    At most 900 nm; the missing sections do not count.
    """
    reach = np.ceil(900 / VOXEL_NM).astype(int)
    middle = np.round(at_vx).astype(int)
    lower = np.maximum(middle - reach, 0)
    around = labels[tuple(slice(a, b) for a, b in zip(lower, middle + reach + 1, strict=True))]
    distance_nm = np.sqrt(
        sum(
            ((axis + first - at) * size) ** 2
            for axis, first, at, size in zip(np.indices(around.shape), lower, at_vx, VOXEL_NM, strict=True)
        )
    )
    own = around == np.uint64(root)
    whole = ~np.isin(lower[2] + np.arange(around.shape[2]), list(MISSING))
    other = ~own & whole
    return max(distance_nm[own].min(initial=900), distance_nm[other].min(initial=900))


def test_autapses(scene):
    """Four autapses a cell; the six from one merged cell onto the other are autapses in version 1 only."""
    n_cells = sum(t.n_soma_synapses[2] > 0 for t in scene.truth.values())
    _, second = scene.with_role("merged")
    counts = []
    for version in (1, 2):
        synapses = scene.synapses(version)
        counts.append(int((synapses["pre_pt_root_id"] == synapses["post_pt_root_id"]).sum()))
    assert counts == [4 * n_cells + 6, 4 * n_cells]
    assert second.n_soma_synapses[2] - second.n_soma_synapses[1] == 6


def test_foreign_synapses(scene, labels):
    """Thousands of synapses join neurites, each point inside the neurite that the table names."""
    synapses = scene.synapses(1)
    cells = [t.roots[1] for t in scene.truth.values() if t.roots.get(1)]
    cells += [int(t.roots[2]) for t in scene.with_role("new")]
    foreign = synapses[~synapses["post_pt_root_id"].isin(cells)]
    assert len(foreign) > 4000
    for end in ("pre", "post"):
        named = foreign[foreign[f"{end}_pt_root_id"] > 0]
        found = labels[tuple(points(named, f"{end}_pt_position").T)]
        assert (found.astype(np.int64) == named[f"{end}_pt_root_id"].to_numpy(np.int64)).all()
    assert (foreign["post_pt_root_id"] > 0).all()
    assert 0.01 < (synapses["pre_pt_root_id"] == 0).mean() < 0.04
    assert synapses["id"].is_unique


def digests(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_complete_scene_is_used_again_and_a_cut_one_written_again(tmp_path):
    """The second call touches nothing; after a crash the same seed gives the same bytes."""
    first = write_scene(tmp_path, seed=5, extent_um=SMALL_UM)
    before = digests(tmp_path)
    stamp = (tmp_path / "scene.json").stat().st_mtime_ns
    assert write_scene(tmp_path, seed=5, extent_um=SMALL_UM) == first == load_scene(tmp_path)
    assert (tmp_path / "scene.json").stat().st_mtime_ns == stamp

    (tmp_path / "scene.json").unlink()
    next((tmp_path / "seg_v1" / "128_128_80").iterdir()).write_bytes(b"cut short")
    with pytest.raises(DatasetError, match="no complete phantom scene of this sandbox"):
        load_scene(tmp_path)
    write_scene(tmp_path, seed=5, extent_um=SMALL_UM)
    assert digests(tmp_path) == before


@pytest.mark.parametrize("extent_um", [(5.0, 5.0, 5.0), (80.0, 20.0, 20.0)])
def test_sizes_that_cannot_be_made(tmp_path, extent_um):
    """A volume too small for a nucleus or too large for the neuropil is refused before anything is written."""
    with pytest.raises(ValueError, match="um"):
        write_scene(tmp_path / "scene", extent_um=extent_um)
    assert not (tmp_path / "scene").exists()
