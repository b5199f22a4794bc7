"""A file of labels is decoded exactly or refused, whatever was done to it; never a hole, never a crash."""

import struct

import compressed_segmentation
import numpy as np
import pytest

from somatic.volume.decoding import decode_labels, encoding_fault

BLOCK = (8, 8, 8)


def coded(labels: np.ndarray) -> bytes:
    """A file of compressed_segmentation, by its own encoder."""
    return compressed_segmentation.compress(np.asfortranarray(labels), block_size=BLOCK, order="F")


def decode(content: bytes, labels: np.ndarray) -> np.ndarray:
    """Decode a file that should hold these labels."""
    return decode_labels(content, "compressed_segmentation", labels.shape, labels.dtype, BLOCK)


def blocks(shape: tuple[int, int, int], dtype: str, n_labels: int) -> np.ndarray:
    """Blocks of 4 voxels with labels above 2^53 where they fit; `n_labels` decides how many bits an index has."""
    rng = np.random.default_rng(n_labels)
    small = rng.integers(0, n_labels, [-(-n // 4) for n in shape])
    labels = np.kron(small, np.ones((4, 4, 4), int))[: shape[0], : shape[1], : shape[2]].astype(dtype)
    return labels + np.array(2**60 + 1 if dtype == "uint64" else 2**31, dtype=dtype)


@pytest.mark.parametrize("dtype", ["uint32", "uint64"])
@pytest.mark.parametrize("shape", [(32, 32, 16), (30, 29, 13), (7, 3, 2)])
@pytest.mark.parametrize("n_labels", [1, 2, 5, 1000])
def test_whole_files_give_their_labels(shape: tuple[int, int, int], dtype: str, n_labels: int) -> None:
    """What the encoder wrote is read back to the last bit, also in files that end inside a block."""
    labels = blocks(shape, dtype, n_labels)
    np.testing.assert_array_equal(decode(coded(labels), labels), labels)


@pytest.mark.parametrize("dtype", ["uint32", "uint64"])
@pytest.mark.parametrize("n_labels", [1, 2, 5, 1000, 2**30])
def test_a_file_cut_anywhere_is_refused(dtype: str, n_labels: int) -> None:
    """However little is missing: the bare codec gives wrong labels here, or ends the process."""
    labels = blocks((20, 17, 9), dtype, n_labels)
    if n_labels == 2**30:
        labels = np.random.default_rng(0).integers(1, n_labels, (20, 17, 9)).astype(dtype)
    content = coded(labels)
    lengths = {*range(120), *range(0, len(content), 97), *range(len(content) - 60, len(content))}
    for length in sorted(n for n in lengths if 0 <= n < len(content)):
        with pytest.raises(ValueError, match=r"empty|whole number|format|ends in|header"):
            decode(content[:length], labels)


def test_random_bytes_never_end_the_process() -> None:
    """Of any bytes the decoder either says that they are no labels, or stays within them."""
    labels = blocks((24, 16, 16), "uint64", 5)
    content = coded(labels)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        broken = bytearray(content)
        for position in rng.integers(4, len(broken), 4):
            broken[position] ^= int(rng.integers(1, 256))
        try:
            assert decode(bytes(broken), labels).shape == labels.shape
        except ValueError:
            refused += 1
    assert refused > 10
    for length in (3, 4, 400, 4000):
        with pytest.raises(ValueError, match=r"whole number|format"):
            decode(rng.bytes(length), labels)
    with pytest.raises(ValueError, match=r"whole number|format"):
        decode(b"<html><body>502 Bad Gateway</body></html>", labels)


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ((2, 0), "header"),
        ((2 | 3 << 24, 2), "number of bits"),
        ((2 | 32 << 24, 2), "number of bits"),
        ((2 | 1 << 24, 5), "indices"),
        ((2 | 1 << 24, 2**32 - 1), "indices"),
        ((17, 2), "labels of a block"),
    ],
)
def test_a_header_that_points_out_of_the_file(header: tuple[int, int], text: str) -> None:
    """One block of 8^3 labels written by hand: its table, its bits and its indices must lie in the file."""
    # Channel 1 begins at word 1; the header of the block; 16 words of 1-bit indices; no table at all.
    content = struct.pack("<I2I16I", 1, *header, *[0] * 16)
    if header == (2, 0):
        content = struct.pack("<I2I16I", 1, 1, 0, *[0] * 16)
    with pytest.raises(ValueError, match=text):
        decode_labels(content, "compressed_segmentation", (8, 8, 8), np.dtype("uint64"), BLOCK)


def test_a_block_by_hand() -> None:
    """One block of 8^3 labels with two labels, alternating along x, as the format describes it."""
    labels = np.broadcast_to(np.where(np.arange(8) % 2, 7, 2**63 + 9).astype(np.uint64)[:, None, None], (8, 8, 8))
    # Header: table at word 18 of the data, 1 bit, indices at word 2; then 512 bits 0 1 0 1, then the table.
    content = struct.pack("<I2I16I2Q", 1, 18 | 1 << 24, 2, *[0xAAAAAAAA] * 16, 2**63 + 9, 7)
    np.testing.assert_array_equal(decode(content, labels), labels)


@pytest.mark.parametrize("length", [0, 1, 8, 8 * 511, 8 * 513])
def test_raw_files_of_a_wrong_size_are_refused(length: int) -> None:
    """Too short, too long, and empty, which cloud-volume takes for background."""
    with pytest.raises(ValueError, match=r"empty|reshape|multiple"):
        decode_labels(bytes(length), "raw", (8, 8, 8), np.dtype("uint64"))


def test_raw_files_are_stored_x_first() -> None:
    """The first voxels of a raw file are neighbours along x."""
    labels = decode_labels(bytes(range(24)), "raw", (2, 3, 4), np.dtype("uint8"))
    assert labels[:, 0, 0].tolist() == [0, 1]
    assert labels[0, :, 0].tolist() == [0, 2, 4]
    assert labels[0, 0].tolist() == [0, 6, 12, 18]


def test_encodings_that_hold_no_labels() -> None:
    """Lossy and unknown encodings, and those whose codec is not here, are told apart."""
    assert encoding_fault("raw") is None
    assert encoding_fault("compressed_segmentation") is None
    assert "jpeg" in str(encoding_fault("jpeg"))
    assert "raw, compressed_segmentation" in str(encoding_fault("brotli"))


def test_a_codec_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said which package to install."""
    monkeypatch.setitem(__import__("cloudvolume").chunks.NEEDS_INSTALL, "crackle", "crackle-codec")
    assert "pip install crackle-codec" in str(encoding_fault("crackle"))
