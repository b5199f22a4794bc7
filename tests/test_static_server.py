"""A folder that cloud-volume wrote behind a plain web server, which serves files under their names on the disk."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import trimesh
from cloudfiles.compression import compress
from file_server import FileServer, fast_http  # noqa: F401
from stores import nuclei_at
from volumes import put_nuclei, put_sharded_volume, put_volume

from somatic.check import check_segmentation
from somatic.cutout import Segmentation
from somatic.errors import MissingNucleusMesh, RefusedLayer, SegmentationError
from somatic.nucleus import NucleusLayer

LABELS = np.kron(np.random.default_rng(0).integers(1, 4, (13, 10, 8)), np.ones((4, 4, 4), int)).astype(np.uint64)
LABELS[:16, :16, :16] = 0
NM = (256.0, 256.0, 200.0)
NUCLEUS = 2**53 + 3

pytestmark = pytest.mark.usefixtures("fast_http")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same labels gzipped, with brotli, plain and in shards, without the file that has none, and a nucleus."""
    folder = tmp_path_factory.mktemp("static")
    for name in ("gz", "br", "plain"):
        put_volume(folder / name, LABELS, gzip=name != "plain", file_shape=(16, 16, 16))
    for path in (folder / "br").rglob("*.gz"):
        path.with_suffix(".br").write_bytes(compress(gzip.decompress(path.read_bytes()), "br"))
        path.unlink()
    put_sharded_volume(folder / "shards", LABELS)
    put_nuclei(folder / "nuclei", {NUCLEUS: [trimesh.creation.icosphere(2, 5000)]})
    return folder


@pytest.fixture(params=[False, True], ids=["404", "403"])
def server(folder: Path, request: pytest.FixtureRequest) -> Iterator[FileServer]:
    """Serves the folder as it is; a bucket into which such a folder was copied may answer 403 for what is not there."""
    with FileServer(folder, is_static=True, hides_missing=request.param) as server:
        yield server


@pytest.mark.parametrize("kind", ["gz", "br", "plain"])
def test_compressed_files_are_read_under_their_own_names(server: FileServer, kind: str) -> None:
    """As cloud-volume reads them from the disk, and those that are not there are background."""
    segmentation = Segmentation(server.url(kind), 0)
    cutout = segmentation.read(segmentation.bounds, 2)
    np.testing.assert_array_equal(cutout.mask.to_array(), LABELS == 2)
    assert cutout.n_unlabelled == 16**3
    # Once files of voxels are known by an ending, the others are asked for with that first.
    server.asked.clear()
    segmentation.read(segmentation.bounds, 2)
    missing = server.asked_for("/0-16_0-16_0-16")
    others = [path for path in server.asked_for("/256_256_200/") if path not in missing]
    # One is requested again before a refusal is taken for a hole.
    assert len(others) <= len(set(others)) + server.hides_missing <= 4 * 3 * 2


def test_compressed_meshes_are_read(server: FileServer) -> None:
    """The manifest is plain and its fragments are gzipped, as igneous and cloud-volume leave them."""
    nuclei = NucleusLayer(server.url("nuclei"))
    assert nuclei.mesh(NUCLEUS).is_watertight
    assert nuclei.mesh(NUCLEUS).volume == pytest.approx(4 / 3 * np.pi * 5000**3, rel=0.05)
    with pytest.raises(MissingNucleusMesh):
        nuclei.mesh(NUCLEUS + 1)


def test_a_server_without_ranges(server: FileServer) -> None:
    """A whole shard in place of the part that was asked for is no index; the line says what the server lacks."""
    segmentation = Segmentation(server.url("shards"), 0)
    with pytest.raises(SegmentationError, match="failed: the server ignores the header Range[^;]*$"):
        segmentation.read(segmentation.bounds, 2)


def test_all_sampled_files_are_missing(folder: Path, tmp_path: Path) -> None:
    """A layer of which only the info file was uploaded: that is said before anything is measured."""
    (tmp_path / "seg").mkdir()
    (tmp_path / "seg" / "info").write_bytes((folder / "gz" / "info").read_bytes())
    nuclei = nuclei_at([(20, 20, 20), (40, 30, 20)], 2, NM)
    with FileServer(tmp_path) as server:
        with pytest.raises(SegmentationError, match=r"^all sampled files of .*/seg are missing.*mip 0.*2 nuclei of v7"):
            check_segmentation(nuclei, Segmentation(server.url("seg"), 0), "v7")
        server.hides_missing = True
        with pytest.raises(RefusedLayer, match="HTTP 403"):
            check_segmentation(nuclei, Segmentation(server.url("seg"), 0), "v7")


def test_positions_in_nm(folder: Path) -> None:
    """Positions in nm with the voxel size of the segmentation are outside the volume; the line names resolution_nm."""
    segmentation = Segmentation(f"precomputed://file://{folder}/gz", 0)
    nuclei = nuclei_at([(20 * 256, 20 * 256, 20 * 200), (40 * 256, 30 * 256, 20 * 200)], 2, NM)
    with pytest.raises(SegmentationError, match="outside the volume") as caught:
        check_segmentation(nuclei, segmentation, "v7")
    said = str(caught.value)
    assert said.startswith("2 of 2 sampled centres are outside the volume")
    assert "resolution_nm" in said
    assert "1310720, 1310720, 800000 nm" in said
    assert "0, 0, 0 to 13312, 10240, 6400 nm" in said
