"""The voxels of one root: where its box lies, and what the files of a segmentation hold there."""

from pathlib import Path

import numpy as np
import pytest
from cloudfiles import CloudFiles
from cloudvolume import Bbox, CloudVolume
from hypothesis import given, settings
from hypothesis import strategies as st
from volumes import put_sharded_volume, put_volume

from somatic.cutout import Box, Cutout, Segmentation, cutout_box
from somatic.geometry.bitmask import BitMask
from somatic.volume.files import LayerFiles

MINNIE = ((4, 4, 40), (64, 64, 40))
SHAPE = (50, 37, 29)
ROOT = 864691135012345679


def labels_of(dtype: str, seed: int = 0) -> np.ndarray:
    """Blocks of labels 0 to 3, with a first file that holds none."""
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, 4, (13, 10, 8)), np.ones((4, 4, 4), int))[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    labels[:32, :32, :16] = 0
    return labels.astype(dtype)


def box(lower: tuple[int, int, int], upper: tuple[int, int, int]) -> Box:
    """A box from two corners."""
    return Box(np.array(lower), np.array(upper))


@pytest.mark.parametrize(
    ("x", "n_voxels"),
    # (x - 3750) / 16 to (x + 3750) / 16, each truncated: 7500 / 16 = 468.75 voxels are 468 or 469.
    [(3750, 468), (3766, 468), (3751, 468), (3754, 469), (3765, 469), (160_000, 469), (160_009, 468)],
)
def test_a_box_on_minnie65_is_468_or_469_voxels(x: int, n_voxels: int) -> None:
    """15 um around a point of a 4 x 4 x 40 nm table, at 64 x 64 x 40 nm."""
    found = cutout_box(np.array([x, x, 1000]), np.array(MINNIE[0]), 15_000, np.array(MINNIE[1]))
    assert found.shape == (n_voxels, n_voxels, 750)
    assert found.lower_vx.tolist() == [(x - 3750) // 16, (x - 3750) // 16, 625]


@pytest.mark.parametrize(
    ("centre", "table_nm", "resolution_nm", "radius_nm", "lower", "upper"),
    [
        # 15000 / 9.7 = 1546.39: 1546 voxels to each side; 2 x 2 x 1 voxels of the table are one.
        ((2000, 2001, 400), (9.7, 9.7, 45), (19.4, 19.4, 45), 15_000, (227, 227, 67), (1773, 1773, 733)),
        # A mip finer than the table: 300 voxels of 8 nm are 600 of 4 nm.
        ((300, 300, 60), (8, 8, 40), (4, 4, 40), 400, (500, 500, 50), (700, 700, 70)),
        # An odd ratio: (100 - 83) / 3 = 5.67, (100 + 83) / 3 = 61.
        ((100, 100, 100), (12, 12, 12), (36, 36, 36), 1000, (5, 5, 5), (61, 61, 61)),
        # Neither resolution is whole, but their ratio is: (307 - 10) / 3 = 99, (317 - 10) / 3 = 102.33.
        ((307, 317, 100), (4.3, 4.3, 45), (12.9, 12.9, 45), 45, (99, 102, 99), (105, 109, 101)),
        # Truncated towards zero on both sides of it: -7 / 2 and 7 / 2 are -3 and 3.
        ((0, -1, 2), (10, 10, 10), (20, 20, 20), 70, (-3, -4, -2), (3, 3, 4)),
        # Wholly at negative coordinates: (-100 - 7) / 2 = -53.5, (-100 + 7) / 2 = -46.5.
        ((-100, -100, -100), (10, 10, 10), (20, 20, 20), 70, (-53, -53, -53), (-46, -46, -46)),
    ],
)
def test_box_arithmetic_by_hand(
    centre: tuple, table_nm: tuple, resolution_nm: tuple, radius_nm: float, lower: tuple, upper: tuple
) -> None:
    """Whole voxels of the table on each side, divided by the ratio, truncated towards zero, maximum exclusive."""
    found = cutout_box(np.array(centre), np.array(table_nm), radius_nm, np.array(resolution_nm))
    assert found.lower_vx.tolist() == list(lower)
    assert found.upper_vx.tolist() == list(upper)


@pytest.mark.parametrize("store", ["file", "sharded"])
@pytest.mark.parametrize("encoding", ["raw", "compressed_segmentation"])
@pytest.mark.parametrize("dtype", ["uint32", "uint64"])
@pytest.mark.parametrize(("offset", "resolution"), [((0, 0, 0), (256, 256, 200)), ((-20, -7, 1003), (9.7, 9.7, 45))])
def test_a_box_that_sticks_out_on_every_side(
    tmp_path: Path, dtype: str, encoding: str, offset: tuple, resolution: tuple, store: str
) -> None:
    """Every voxel of the volume stands where it should, all others are empty, and the shares add up."""
    labels = labels_of(dtype)
    put = put_volume if store == "file" else put_sharded_volume
    url = put(tmp_path, labels, encoding=encoding, offset_vx=offset, resolution_nm=resolution)
    segmentation = Segmentation(url, 0)
    assert segmentation.resolution_nm.tolist() == list(resolution)

    start = np.array(offset)
    around = Box(start - (3, 4, 5), start + SHAPE + (1, 2, 3))
    cutout = segmentation.read(around, 2)
    expected = np.zeros((54, 43, 37), bool)
    expected[3:53, 4:41, 5:34] = labels == 2
    np.testing.assert_array_equal(cutout.mask.to_array(), expected)
    assert cutout.inside.n_voxels == labels.size
    assert cutout.n_unlabelled == np.count_nonzero(labels == 0)
    assert cutout.frac_outside_volume == pytest.approx(1 - labels.size / (54 * 43 * 37), abs=1e-12)
    assert cutout.frac_unlabelled == pytest.approx(np.mean(labels == 0), abs=1e-12)
    assert cutout.frac_zero == pytest.approx(1 - np.count_nonzero(labels == 2) / (54 * 43 * 37), abs=1e-12)
    assert not cutout.touches_box

    assert cutout.unlabelled is None
    both = segmentation.read(around, 2, with_unlabelled=True)
    np.testing.assert_array_equal(both.mask.words, cutout.mask.words)
    assert both.n_unlabelled == cutout.n_unlabelled
    assert both.unlabelled is not None
    expected[:] = False
    expected[3:53, 4:41, 5:34] = labels == 0
    np.testing.assert_array_equal(both.unlabelled.to_array(), expected)


@pytest.mark.parametrize("codec", ["crackle", "compresso"])
def test_other_codecs_when_installed(tmp_path: Path, codec: str) -> None:
    """Encodings of labels whose packages are optional are read where they are there."""
    pytest.importorskip(codec, reason=f"the package of the encoding {codec} is not installed")
    labels = labels_of("uint64")
    segmentation = Segmentation(put_volume(tmp_path, labels, encoding=codec), 0)
    np.testing.assert_array_equal(segmentation.read(segmentation.bounds, 3).mask.to_array(), labels == 3)


@pytest.mark.parametrize("root", [2**53 + 1, ROOT, 2**63 - 1, 2**63 + 1, 2**64 - 1])
@pytest.mark.parametrize("encoding", ["raw", "compressed_segmentation"])
def test_ids_that_differ_in_their_last_bit(tmp_path: Path, root: int, encoding: str) -> None:
    """Neighbours whose ids are the same as floats are told apart."""
    labels = np.full((12, 10, 8), root, dtype=np.uint64)
    labels[6:] = root ^ 1
    segmentation = Segmentation(put_volume(tmp_path, labels, encoding=encoding), 0)
    mask = segmentation.read(segmentation.bounds, root).mask.to_array()
    assert mask[:6].all()
    assert not mask[6:].any()
    assert segmentation.label_at(np.array([0, 0, 0])) == root
    assert segmentation.label_at(np.array([6.5, 0, 0]) * 256) == root ^ 1


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_a_root_that_the_labels_cannot_hold(tmp_path: Path, dtype: str) -> None:
    """A root id beyond the type of the labels has no voxel, also where its low bits are a label."""
    bits = np.dtype(dtype).itemsize * 8
    segmentation = Segmentation(put_volume(tmp_path, np.full((8, 8, 8), 5, dtype=dtype)), 0)
    assert not segmentation.read(segmentation.bounds, 2**bits + 5).mask.to_array().any()
    assert not segmentation.read(segmentation.bounds, 2**63 - 1).mask.to_array().any()
    assert segmentation.read(segmentation.bounds, 5).mask.to_array().all()


def test_a_segment_that_fills_the_box(tmp_path: Path) -> None:
    """All voxels are its own, it touches the box, and nothing is unlabelled."""
    segmentation = Segmentation(put_volume(tmp_path, np.full((40, 40, 40), ROOT, dtype=np.uint64)), 0)
    cutout = segmentation.read(box((4, 5, 6), (31, 33, 35)), ROOT)
    assert cutout.mask.to_array().shape == (27, 28, 29)
    assert cutout.mask.to_array().all()
    assert (cutout.frac_zero, cutout.frac_unlabelled, cutout.frac_outside_volume) == (0, 0, 0)
    assert cutout.touches_box


WHOLE = Box(np.zeros(3, int), np.full(3, 5))


@pytest.mark.parametrize("side", range(6))
def test_touching_any_face_of_the_box(side: int) -> None:
    """One voxel on one face is enough, one voxel further in is not."""
    axis, last = divmod(side, 2)
    index = [2, 2, 2]
    index[axis] = 4 if last else 0
    mask = np.zeros((5, 5, 5), bool)
    mask[tuple(index)] = True
    assert Cutout(BitMask.of(mask), WHOLE, 0).touches_box
    index[axis] = 3 if last else 1
    mask = np.zeros((5, 5, 5), bool)
    mask[tuple(index)] = True
    assert not Cutout(BitMask.of(mask), WHOLE, 0).touches_box


@pytest.mark.parametrize("shift", [(100, 0, 0), (0, -100, 0), (0, 0, 60), (50, 0, 0), (-20, -20, -20)])
def test_a_box_outside_the_volume(tmp_path: Path, shift: tuple) -> None:
    """Nothing is asked for, nothing is found, and no share is a division by zero; boxes that only touch it too."""
    labels = np.ones(SHAPE, np.uint32)
    url = put_volume(tmp_path, labels)
    for file in tmp_path.rglob("*-*_*"):
        file.write_bytes(b"unreadable")
    cutout = Segmentation(url, 0).read(box(shift, tuple(v + 20 for v in shift)), 1)
    assert cutout.mask.to_array().shape == (20, 20, 20)
    assert not cutout.mask.to_array().any()
    assert (cutout.inside.n_voxels, cutout.frac_unlabelled, cutout.frac_outside_volume) == (0, None, 1)


def test_missing_files_are_unlabelled(tmp_path: Path) -> None:
    """A file that the store does not have is background, and counted."""
    segmentation = Segmentation(put_volume(tmp_path, np.ones(SHAPE, np.uint64)), 0)
    (tmp_path / "256_256_200" / "32-50_0-32_0-16").unlink()
    cutout = segmentation.read(box((30, 0, 0), (50, 37, 29)), 1, with_unlabelled=True)
    assert cutout.n_unlabelled == 18 * 32 * 16
    assert cutout.unlabelled is not None
    assert cutout.unlabelled.to_array()[2:, :32, :16].sum() == cutout.unlabelled.count() == cutout.n_unlabelled
    assert np.count_nonzero(cutout.mask.to_array()) == 20 * 37 * 29 - 18 * 32 * 16


def test_missing_shards_are_unlabelled(tmp_path: Path) -> None:
    """So is a whole shard, and a file that a shard leaves out."""
    labels = labels_of("uint64", seed=3)
    labels[:32, :32] = 0
    labels[32:48, :16, :16] = 0
    segmentation = Segmentation(put_sharded_volume(tmp_path, labels), 0)
    # Shards are 32 x 32 x 32 voxels: one of the four was left out, and one file of another.
    assert len(list(tmp_path.rglob("*.shard"))) == 3
    cutout = segmentation.read(segmentation.bounds, 1)
    np.testing.assert_array_equal(cutout.mask.to_array(), labels == 1)
    assert cutout.n_unlabelled == np.count_nonzero(labels == 0)


def test_every_mip_has_its_own_voxels(tmp_path: Path) -> None:
    """The files, bounds and resolution are those of the mip that is asked for."""
    fine, coarse = labels_of("uint64"), labels_of("uint64", seed=1)[:25, :19]
    volume = CloudVolume(put_volume(tmp_path, fine, offset_vx=(10, 20, 30)))
    volume.add_scale((2, 2, 1), encoding="compressed_segmentation", chunk_size=(16, 16, 16))
    volume.commit_info()
    CloudVolume(volume.cloudpath, mip=1, progress=False, compress="gzip")[:] = coarse[..., np.newaxis]
    for mip, labels, lower in ((0, fine, [10, 20, 30]), (1, coarse, [5, 10, 30])):
        segmentation = Segmentation(f"precomputed://file://{tmp_path}", mip)
        assert segmentation.bounds.lower_vx.tolist() == lower
        assert segmentation.resolution_nm.tolist() == [256 << mip, 256 << mip, 200]
        np.testing.assert_array_equal(segmentation.read(segmentation.bounds, 1).mask.to_array(), labels == 1)


def test_label_at_a_point(tmp_path: Path) -> None:
    """The label of the voxel that a point lies in, 0 outside and in a file that is not there."""
    labels = np.arange(1, 1 + 20 * 18 * 16, dtype=np.uint64).reshape(20, 18, 16)
    labels[:16, :16] = 0
    segmentation = Segmentation(put_volume(tmp_path, labels, offset_vx=(-5, 6, 7), file_shape=(16, 16, 16)), 0)

    def at(*voxel: float) -> int:
        return segmentation.label_at(np.array(voxel) * (256, 256, 200))

    assert at(12, 8, 9) == labels[17, 2, 2]
    assert at(12.99, 8.99, 9.99) == labels[17, 2, 2]
    assert at(13, 8, 9) == labels[18, 2, 2]
    assert at(-5, 6, 7) == 0
    assert at(-5.01, 6, 7) == at(15, 6, 7) == at(0, 0, 0) == 0


@pytest.fixture(scope="module")
def speckled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, np.ndarray]]:
    """The same labels in three stores, at an odd negative offset."""
    labels = labels_of("uint64", seed=5)
    folder = tmp_path_factory.mktemp("speckled")
    where = {"offset_vx": (-21, 13, -7)}
    return {
        "raw": put_volume(folder / "raw", labels, gzip=True, **where),
        "coded": put_volume(folder / "coded", labels, encoding="compressed_segmentation", **where),
        "sharded": put_sharded_volume(folder / "sharded", labels, data_encoding="raw", **where),
    }


@pytest.mark.parametrize("store", ["raw", "coded", "sharded"])
@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    corner=st.tuples(*(st.integers(0, n - 1) for n in SHAPE)),
    size=st.tuples(*(st.integers(1, n) for n in SHAPE)),
    root=st.integers(1, 3),
)
def test_the_same_as_a_plain_download(
    speckled: dict[str, str], store: str, corner: tuple, size: tuple, root: int
) -> None:
    """Any box inside the volume holds what cloud-volume's own download gives."""
    segmentation = Segmentation(speckled[store], 0)
    lower = np.array(corner) + (-21, 13, -7)
    upper = np.minimum(lower + size, segmentation.bounds.upper_vx)
    plain = CloudVolume(speckled[store], fill_missing=True, progress=False).download(Bbox(lower, upper))
    cutout = segmentation.read(Box(lower, upper), root)
    np.testing.assert_array_equal(cutout.mask.to_array(), np.asarray(plain)[..., 0] == root)
    assert cutout.n_unlabelled == np.count_nonzero(np.asarray(plain) == 0)


def test_files_are_fetched_in_bounded_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many raw files a box has, those in memory at once hold no more labels than the bound."""
    labels = np.ones((64, 32, 160), np.uint64)
    segmentation = Segmentation(put_volume(tmp_path, labels), 0)
    monkeypatch.setattr("somatic.volume.files.BATCH_BYTES", 4 * 32 * 32 * 16 * 8)
    batches: list[int] = []
    fetch = LayerFiles._fetch

    def counted(*args: np.ndarray) -> dict:
        contents = fetch(*args)
        batches.append(len(contents))
        return contents

    monkeypatch.setattr(LayerFiles, "_fetch", counted)
    assert segmentation.read(segmentation.bounds, 1).mask.to_array().all()
    assert batches == [4] * 5


def test_a_bucket_is_asked_without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Public gs:// and s3:// layers are fetched over plain HTTPS, where no token or key of this machine goes along."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key-of-this-machine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-this-machine")
    asked = []

    def send(_: object, request: object, **__: object) -> None:
        asked.append(request)
        raise KeyboardInterrupt

    monkeypatch.setattr("requests.adapters.HTTPAdapter.send", send)
    for url in ("gs://bucket/a/seg", "precomputed://gs://bucket/a/seg", "precomputed://s3://bucket/a/seg"):
        with pytest.raises(KeyboardInterrupt):
            Segmentation(url, 0)
    assert [request.url for request in asked] == [
        "https://storage.googleapis.com/bucket/a/seg/info",
        "https://storage.googleapis.com/bucket/a/seg/info",
        "https://s3.amazonaws.com/bucket/a/seg/info",
    ]
    assert not any("Authorization" in request.headers for request in asked)
    assert "this-machine" not in str([(request.url, dict(request.headers)) for request in asked])


def test_the_store_has_what_the_test_thinks(tmp_path: Path) -> None:
    """The volumes of this file are gzipped where they should be, and leave out files without labels."""
    put_volume(tmp_path / "zipped", labels_of("uint32"), gzip=True)
    put_volume(tmp_path / "plain", labels_of("uint32"))
    for folder, ending in (("zipped", ".gz"), ("plain", "")):
        names = {path.name for path in (tmp_path / folder / "256_256_200").iterdir()}
        assert f"32-50_0-32_0-16{ending}" in names
        assert f"0-32_0-32_0-16{ending}" not in names
        assert len(names) == 7
    assert CloudFiles(f"file://{tmp_path}/plain").get("256_256_200/32-50_0-32_0-16")
