"""Stores that answer 403 for files that they do not have: what counts as missing, and what never does."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import trimesh
from file_server import S3_DENIED, Fault, FileServer, fast_http  # noqa: F401
from stores import nuclei_at
from volumes import put_multilod_nuclei, put_nuclei, put_sharded_volume, put_volume

from somatic.cell import Cell, extract_cell
from somatic.check import check_segmentation
from somatic.cutout import Cutout, Segmentation
from somatic.errors import MissingNucleusMesh, PermanentError, RefusedFile, RefusedLayer
from somatic.geometry.box import Box
from somatic.nucleus import NucleusLayer
from somatic.volume.file_cache import FileCache

ROOT = 2**62 + 11
NUCLEUS = 2**53 + 3
OFFSET = np.array((-32, 5, 700))
SHAPE = (128, 64, 32)
FULL = 16 * 16 * 16
"""Voxels of a file."""

pytestmark = pytest.mark.usefixtures("fast_http")


def labels() -> np.ndarray:
    """A root that fills the half of the volume at low x, and nothing in the other."""
    made = np.zeros(SHAPE, np.uint64)
    made[:64] = ROOT
    return made


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same labels in files and in shards, without those that are empty, and nuclei of all kinds of meshes."""
    folder = tmp_path_factory.mktemp("bucket")
    shape = {"offset_vx": OFFSET, "file_shape": (16, 16, 16), "encoding": "compressed_segmentation"}
    put_volume(folder / "files", labels(), gzip=True, **shape)
    put_sharded_volume(folder / "shards", labels(), **shape)
    ball = trimesh.creation.icosphere(3, 5000)
    put_nuclei(folder / "legacy", {NUCLEUS: [ball]})
    put_multilod_nuclei(folder / "multilod", NUCLEUS, ball, sharded=False)
    put_multilod_nuclei(folder / "multilod_sharded", NUCLEUS, ball, sharded=True)
    return folder


@pytest.fixture
def store(bucket: Path) -> Iterator[FileServer]:
    """The folder as S3 serves it where it may not be listed."""
    with FileServer(bucket, hides_missing=True) as server:
        yield server


def around(x: int, half: int = 24) -> Box:
    """A box around a point of the middle line along x, counted from the corner of the volume."""
    centre = OFFSET + (x, 32, 16)
    return Box(centre - half, centre + half)


def voxel_files(server: FileServer) -> list[str]:
    """Requests for files of voxels under their own name."""
    return [path for path in server.asked if "/256_256_200/" in path and not path.endswith((".gz", ".br"))]


@pytest.mark.parametrize("kind", ["files", "shards"])
def test_a_refused_file_is_background(store: FileServer, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Refused as a missing one is, with others served: its voxels are empty and counted, and one warning says so."""
    segmentation = Segmentation(store.url(kind), 0)
    with caplog.at_level(logging.WARNING):
        cutouts = [segmentation.read(around(x), ROOT) for x in (56, 60)]
    for cutout, empty in zip(cutouts, (56 + 24 - 64, 60 + 24 - 64), strict=True):
        inside = cutout.inside.slices_within(Box(np.zeros(3, int), np.array(cutout.mask.shape)))
        mask = cutout.mask.to_array()[inside]
        assert mask[: 48 - empty].all()
        assert not mask[48 - empty :].any()
        assert cutout.n_unlabelled == empty * 48 * 32
    [warning] = [record.getMessage() for record in caplog.records]
    assert "HTTP 403 AccessDenied: Access Denied" in warning
    assert "treated as missing" in warning
    assert store.url(kind) in warning
    assert segmentation.n_files_refused > 0


@pytest.mark.parametrize("kind", ["files", "shards"])
def test_the_same_numbers_as_from_a_store_that_says_404(bucket: Path, kind: str) -> None:
    """How a store calls what it does not have changes no voxel and no share."""

    def read(*, hides_missing: bool) -> Cutout:
        with FileServer(bucket, hides_missing=hides_missing) as server:
            return Segmentation(server.url(kind), 0).read(around(56), ROOT, with_unlabelled=True)

    one, other = read(hides_missing=True), read(hides_missing=False)
    np.testing.assert_array_equal(one.mask.words, other.mask.words)
    assert one.unlabelled
    assert other.unlabelled
    np.testing.assert_array_equal(one.unlabelled.words, other.unlabelled.words)
    assert one.frac_unlabelled == other.frac_unlabelled > 0


@pytest.mark.parametrize("kind", ["files", "shards"])
def test_the_file_of_the_centre_is_not_missing(store: FileServer, kind: str) -> None:
    """A cell is where its centre is: with that file refused and others served it is an error of this cell alone."""
    segmentation = Segmentation(store.url(kind), 0)
    box = around(72)
    with pytest.raises(RefusedFile, match=r"^the file .* was refused \(HTTP 403 .*centre"):
        segmentation.read(box, ROOT)
    # The box is the same; the centre is where there are files.
    cutout = segmentation.read(box, ROOT, centre_vx=OFFSET + (60, 32, 16))
    assert cutout.mask.count() == 16 * 48 * 32


@pytest.mark.parametrize("kind", ["files", "shards"])
def test_nothing_is_served(store: FileServer, kind: str) -> None:
    """Where every file of a cutout is refused from the start it is the layer that is refused, and never background."""
    store.refuse(["/256_256_200/"])
    segmentation = Segmentation(store.url(kind), 0)
    for x in (32, 100):
        with pytest.raises(RefusedLayer, match=r"^[^\n]*refused \(HTTP 403[^\n]*revoked[^\n]*credentials[^\n]*$"):
            segmentation.read(around(x), ROOT)
    with pytest.raises(RefusedLayer):
        segmentation.label_at((OFFSET + (32, 32, 16)) * (256, 256, 200))


@pytest.mark.parametrize("kind", ["files", "shards"])
def test_access_that_is_revoked_is_never_background(store: FileServer, kind: str) -> None:
    """After files were served too, between two cells or in the middle of one."""
    segmentation = Segmentation(store.url(kind), 0)
    assert segmentation.read(around(32), ROOT).mask.count() == 48 * 48 * 32
    store.refuse(["/256_256_200/"])
    with pytest.raises(RefusedLayer, match="revoked"):
        segmentation.read(around(40), ROOT)
    store.faults.clear()
    assert segmentation.read(around(40), ROOT).mask.count() == 48 * 48 * 32


def test_access_that_is_revoked_while_a_cell_is_read(store: FileServer) -> None:
    """The file of the centre came, those after it did not: what was served a moment ago is requested again."""
    segmentation = Segmentation(store.url("files"), 0)
    served: list[int] = []

    def revoke(port: int) -> None:
        served.append(port)
        if len(served) > 10:
            fault.status, fault.body = 403, S3_DENIED

    fault = store.faults["/256_256_200/"] = Fault(call=revoke)
    with pytest.raises(RefusedLayer, match="revoked"):
        segmentation.read(around(32), ROOT)


def test_a_centre_in_the_cache_is_no_proof(store: FileServer, tmp_path: Path) -> None:
    """A process that finds the file of the centre in the cache requests it before it takes a refusal for a hole."""
    Segmentation(store.url("files"), 0, cache=FileCache(tmp_path)).read(around(8, half=24), ROOT)
    later = Segmentation(store.url("files"), 0, cache=FileCache(tmp_path))
    assert later.read(around(30, half=24), ROOT, centre_vx=OFFSET + (8, 32, 16)).mask.count() == 48 * 48 * 32
    store.refuse(["/256_256_200/"])
    revoked = Segmentation(store.url("files"), 0, cache=FileCache(tmp_path))
    with pytest.raises(RefusedLayer, match="revoked"):
        revoked.read(around(50, half=24), ROOT, centre_vx=OFFSET + (30, 32, 16))


def test_a_process_that_starts_with_a_refusal(store: FileServer) -> None:
    """The first batch of files has none that is served; the file of the centre comes in a later one."""
    segmentation = Segmentation(store.url("files"), 0)
    # Files of 16 x 16 x 16 voxels are fetched by layers of z; the root is not in the first.
    store.faults |= {f"_{z}": Fault(status=403, body=S3_DENIED) for z in ("700-716",)}
    cutout = segmentation.read(Box(OFFSET, OFFSET + SHAPE), ROOT, centre_vx=OFFSET + (32, 32, 20))
    assert cutout.mask.count() == 64 * 64 * 16


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, b"InvalidObjectState"), (403, b"RequestTimeTooSkewed"), (401, b""), (400, b"UserProjectMissing")],
)
def test_other_refusals_are_not_holes(store: FileServer, status: int, code: bytes) -> None:
    """An archived file, a clock that is wrong, a login: no store answers like this for a file that it does not have."""
    segmentation = Segmentation(store.url("files"), 0)
    body = b"<Error><Code>" + code + b"</Code><Message>so it is</Message></Error>"
    store.faults["-32--16_5-21_700-716"] = Fault(status=status, body=body)
    with pytest.raises(RefusedFile, match=f"HTTP {status}.*{code.decode()}: so it is") as caught:
        segmentation.read(around(32, half=40), ROOT)
    assert isinstance(caught.value, PermanentError)


def test_a_bucket_that_is_gone_is_not_a_hole(store: FileServer) -> None:
    """404 with the code of a missing bucket says nothing about a file."""
    segmentation = Segmentation(store.url("files"), 0)
    segmentation.read(around(32), ROOT)
    store.faults["/256_256_200/"] = Fault(status=404, body=b"<Error><Code>NoSuchBucket</Code></Error>")
    with pytest.raises(RefusedLayer, match="NoSuchBucket"):
        segmentation.read(around(32), ROOT)


def test_a_refusal_is_not_tried_again(store: FileServer) -> None:
    """What is refused is requested once, and once under each of the names that it may have on a disk."""
    segmentation = Segmentation(store.url("files"), 0)
    segmentation.read(around(32), ROOT)
    store.asked.clear()
    segmentation.read(around(56), ROOT)
    refused = [path for path in store.asked if "/32-48_" in path or "/48-64_" in path]
    assert refused
    assert len(refused) == len(set(refused))


def test_a_shard_that_is_refused_after_its_index(store: FileServer) -> None:
    """A shard whose index was read is not missing, whatever is answered for a part of it."""
    segmentation = Segmentation(store.url("shards"), 0)
    # A shard has 2 x 2 x 2 files; this reads one of them, and another shard, which stays.
    segmentation.read(Box(OFFSET, OFFSET + 16), ROOT)
    [shard] = {path.rpartition("/")[2] for path in store.asked_for(".shard")}
    segmentation.read(Box(OFFSET + (48, 0, 0), OFFSET + (64, 16, 16)), ROOT)
    store.faults[f"/{shard}"] = Fault(status=403, body=S3_DENIED)
    with pytest.raises(RefusedFile, match=f"{shard}.*after its index was served"):
        segmentation.read(Box(OFFSET + 16, OFFSET + 32), ROOT, centre_vx=OFFSET + (60, 60, 30))


def test_optional_files_may_be_refused(store: FileServer) -> None:
    """Neither provenance nor the info file of the meshes is needed to read labels and legacy meshes."""
    assert Segmentation(store.url("files"), 0).label_at((OFFSET + (5, 5, 5)) * (256, 256, 200)) == ROOT
    store.faults["/mesh/info"] = Fault(status=403, body=S3_DENIED)
    store.faults["/provenance"] = Fault(status=403, body=S3_DENIED)
    assert NucleusLayer(store.url("legacy")).mesh(NUCLEUS).is_watertight


MESHES = ("legacy", "multilod", "multilod_sharded")


@pytest.mark.parametrize("kind", MESHES)
def test_a_refused_mesh_is_a_missing_one(store: FileServer, kind: str) -> None:
    """A nucleus without a mesh is told apart from a layer that is refused, whether or not a mesh was read before."""
    missing = NUCLEUS + 1
    for before in (False, True):
        nuclei = NucleusLayer(store.url(kind))
        if before:
            assert len(nuclei.mesh(NUCLEUS).faces)
        with pytest.raises(MissingNucleusMesh, match=f"no mesh of nucleus {missing}"):
            nuclei.mesh(missing)


@pytest.mark.parametrize("kind", MESHES)
def test_meshes_that_are_no_longer_served(store: FileServer, kind: str) -> None:
    """Access that was revoked is no fault of a nucleus."""
    nuclei = NucleusLayer(store.url(kind))
    store.refuse([f"/{kind}/"])
    for nucleus in (NUCLEUS, NUCLEUS + 1):
        with pytest.raises(RefusedLayer, match=f"mesh of nucleus {nucleus}.*HTTP 403"):
            nuclei.mesh(nucleus)


def test_a_refused_fragment_is_no_missing_mesh(store: FileServer) -> None:
    """The manifest names it, so that there is a mesh; it is a permanent fault of this nucleus."""
    nuclei = NucleusLayer(store.url("legacy"))
    store.faults[f"/mesh/{NUCLEUS}:0:0"] = Fault(status=403, body=S3_DENIED)
    with pytest.raises(RefusedFile, match=f"{NUCLEUS}.*HTTP 403"):
        nuclei.mesh(NUCLEUS)


def cell_at(x: int) -> Cell:
    """A cell with its centre at a point of the middle line."""
    centre = OFFSET + (x, 32, 16)
    return Cell(NUCLEUS, ROOT, (int(centre[0]), int(centre[1]), int(centre[2])), (256, 256, 200))


def test_a_cell_with_refused_files(store: FileServer) -> None:
    """It is measured, and frac_unlabelled has the share of what was refused."""
    segmentation = Segmentation(store.url("files"), 0)
    row = extract_cell(cell_at(56), segmentation, None, None, radius_nm=24 * 256).row
    assert row["status"] == "ok"
    # The box is 48 x 48 x 60 voxels, of which 16 along x are in files that are not there; z is that of the volume.
    assert row["frac_unlabelled"] == pytest.approx(16 / 48)


def test_a_cell_whose_centre_is_refused(store: FileServer) -> None:
    """It has failed for good, in one line; its nucleus is kept."""
    segmentation, nuclei = Segmentation(store.url("files"), 0), NucleusLayer(store.url("legacy"))
    measured = extract_cell(cell_at(72), segmentation, nuclei, None, radius_nm=24 * 256)
    assert measured.row["status"] == "failed"
    assert isinstance(measured.error, RefusedFile)
    assert "HTTP 403" in measured.row["reason"]
    assert measured.row["nucleus_volume_um"] == pytest.approx(4 / 3 * np.pi * 125, rel=0.02)
    store.refuse(["/256_256_200/"])
    with pytest.raises(RefusedLayer):
        extract_cell(cell_at(32), segmentation, nuclei, None, radius_nm=24 * 256)
    store.faults.clear()
    store.refuse(["/legacy/"])
    with pytest.raises(RefusedLayer):
        extract_cell(cell_at(32), segmentation, nuclei, None, radius_nm=24 * 256)


def test_a_check_where_some_centres_are_refused(store: FileServer) -> None:
    """A sampled nucleus in a file that is not there counts as wrong; with none that is served the layer is refused."""
    segmentation = Segmentation(store.url("files"), 0)
    inside, empty = [OFFSET + (x, 32, 16) for x in (10, 40, 60)], [OFFSET + (x, 32, 16) for x in (80, 100)]
    assert check_segmentation(nuclei_at([*empty, *inside], ROOT, (256, 256, 200)), segmentation, "v7") == 5
    fresh = Segmentation(store.url("files"), 0)
    with pytest.raises(RefusedLayer, match="HTTP 403"):
        check_segmentation(nuclei_at(empty, ROOT, (256, 256, 200)), fresh, "v7")
