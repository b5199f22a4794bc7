"""Segmentations and meshes over HTTP: what a failure means, and that nothing waits for ever."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import trimesh
from file_server import Fault, FileServer, fast_http  # noqa: F401
from volumes import put_nuclei, put_sharded_volume, put_volume

from somatic.cutout import Segmentation
from somatic.errors import MissingNucleusMesh, RefusedLayer, SegmentationError, SegmentationUnavailable
from somatic.nucleus import NucleusLayer
from somatic.volume import patience

LABELS = np.kron(np.random.default_rng(0).integers(1, 4, (13, 10, 8)), np.ones((4, 4, 4), int)).astype(np.uint64)
FILE = "0-32_0-32_0-16"
NUCLEUS = 2**53 + 3

pytestmark = pytest.mark.usefixtures("fast_http")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same labels in every kind of store, and a nucleus."""
    folder = tmp_path_factory.mktemp("bucket")
    put_volume(folder / "raw", LABELS)
    put_volume(folder / "raw_gz", LABELS, gzip=True)
    put_volume(folder / "coded", LABELS, encoding="compressed_segmentation")
    put_volume(folder / "coded_gz", LABELS, encoding="compressed_segmentation", gzip=True)
    put_sharded_volume(folder / "sharded", LABELS)
    put_nuclei(folder / "nuclei", {NUCLEUS: [trimesh.creation.icosphere(2, 5000)]})
    return folder


@pytest.fixture
def server(bucket: Path) -> Iterator[FileServer]:
    """The folder over HTTP."""
    with FileServer(bucket) as server:
        yield server


def read(server: FileServer, store: str) -> tuple[np.ndarray, int]:
    """Mask of label 2 in the whole volume, and the number of unlabelled voxels."""
    segmentation = Segmentation(server.url(store), 0)
    cutout = segmentation.read(segmentation.bounds, 2)
    return cutout.mask.to_array(), cutout.n_unlabelled


STORES = ("raw", "raw_gz", "coded", "coded_gz")


@pytest.mark.parametrize("store", [*STORES, "sharded"])
def test_what_is_served_is_read(server: FileServer, store: str) -> None:
    """The same labels through every kind of store."""
    mask, n_unlabelled = read(server, store)
    np.testing.assert_array_equal(mask, LABELS == 2)
    assert n_unlabelled == 0


@pytest.mark.parametrize("store", STORES)
def test_404_is_background(server: FileServer, store: str) -> None:
    """A file that the server says it does not have is empty and counted."""
    server.faults[FILE] = Fault(status=404)
    mask, n_unlabelled = read(server, store)
    assert not mask[:32, :32, :16].any()
    np.testing.assert_array_equal(mask[32:], LABELS[32:] == 2)
    assert n_unlabelled == 32 * 32 * 16


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize(
    "fault",
    [
        {"status": 429},
        {"status": 500},
        {"status": 503},
        {"status": 204},
        {"body": b""},
        {"body": b"<html>sign in, please</html>"},
        {"body": bytes(1000)},
        {"cut": True},
    ],
    ids=str,
)
def test_anything_else_is_an_error(server: FileServer, store: str, fault: dict) -> None:
    """Busy, broken, empty, foreign or cut short: a failure that may pass, in one line, and never a hole."""
    server.faults[FILE] = Fault(**fault)
    with pytest.raises(SegmentationUnavailable, match=r"^[^\n]+$"):
        read(server, store)


@pytest.mark.parametrize("fault", [{"status": 500}, {"body": b"x"}, {"cut": True}], ids=str)
def test_a_shard_that_fails_is_an_error(server: FileServer, fault: dict) -> None:
    """As for single files."""
    server.faults[".shard"] = Fault(**fault)
    with pytest.raises(SegmentationUnavailable, match=r"^[^\n]+$"):
        read(server, "sharded")


def test_a_shard_that_is_not_there_is_background(server: FileServer) -> None:
    """404 for a whole shard leaves its voxels empty."""
    server.faults[".shard"] = Fault(status=404)
    mask, n_unlabelled = read(server, "sharded")
    assert not mask.any()
    assert n_unlabelled == LABELS.size


def test_a_server_that_recovers_is_read(server: FileServer) -> None:
    """Two failures of a file and then the file: all voxels are there."""
    server.faults[FILE] = Fault(status=503, times=2)
    mask, _ = read(server, "coded")
    np.testing.assert_array_equal(mask, LABELS == 2)
    assert sum(FILE in path for path in server.asked) == 3


def test_a_server_that_never_answers(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for ever: after the time-out of every try it is a failure that may pass."""
    monkeypatch.setattr(patience, "READ_TIMEOUT_S", 0.1)
    server.faults[FILE] = Fault(wait=threading.Event())
    start = time.monotonic()
    with pytest.raises(SegmentationUnavailable, match="Timeout"):
        read(server, "coded")
    assert 0.1 < time.monotonic() - start < 10


def test_time_outs_are_set() -> None:
    """cloud-files itself sends requests that may wait for ever."""
    assert 0 < patience.CONNECT_TIMEOUT_S <= 30
    assert 0 < patience.READ_TIMEOUT_S <= 120


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, RefusedLayer),
        (403, RefusedLayer),
        (404, SegmentationError),
        (500, SegmentationUnavailable),
        (503, SegmentationUnavailable),
    ],
)
def test_opening(server: FileServer, status: int, error: type[Exception]) -> None:
    """A layer that may not be read or is not there is permanent; a server in trouble is not."""
    server.faults["/info"] = Fault(status=status)
    for layer in (lambda: Segmentation(server.url("raw"), 0), lambda: NucleusLayer(server.url("nuclei"))):
        with pytest.raises(error, match=r"^[^\n]+$") as caught:
            layer()
        assert type(caught.value) is error
        assert server.url() in str(caught.value)


@pytest.mark.parametrize("part", [f"{NUCLEUS}:0", f"{NUCLEUS}:0:0"])
@pytest.mark.parametrize("fault", [{"status": 500}, {"cut": True}, {"body": b""}], ids=str)
def test_a_mesh_that_fails_is_not_a_missing_one(server: FileServer, part: str, fault: dict) -> None:
    """The manifest or its fragment broken, cut or empty: a failure that may pass."""
    nuclei = NucleusLayer(server.url("nuclei"))
    assert nuclei.mesh(NUCLEUS).is_watertight
    server.faults[f"mesh/{part}"] = Fault(**fault)
    with pytest.raises(SegmentationUnavailable, match=r"^[^\n]+$"):
        nuclei.mesh(NUCLEUS)


def test_a_mesh_that_is_not_there(server: FileServer) -> None:
    """404 for a manifest is a nucleus without a mesh; 404 for a fragment that it names is a failure."""
    nuclei = NucleusLayer(server.url("nuclei"))
    with pytest.raises(MissingNucleusMesh, match=str(NUCLEUS + 1)):
        nuclei.mesh(NUCLEUS + 1)
    server.faults[f"mesh/{NUCLEUS}:0:0"] = Fault(status=404)
    with pytest.raises(SegmentationUnavailable):
        nuclei.mesh(NUCLEUS)
