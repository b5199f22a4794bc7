"""A shard on a disk that was cut short is an error, and not a volume with holes."""

from pathlib import Path

import numpy as np
import pytest
from cloudfiles import CloudFiles
from volumes import put_sharded_volume

from somatic.cutout import Box, Segmentation
from somatic.errors import SegmentationUnavailable

LABELS = np.kron(np.random.default_rng(0).integers(1, 4, (12, 10, 9)), np.ones((4, 4, 4), int)).astype(np.uint64)
LABELS[:16] = 0


@pytest.mark.parametrize(
    ("index_encoding", "data_encoding", "encoding"),
    [("raw", "raw", "raw"), ("raw", "gzip", "compressed_segmentation"), ("gzip", "raw", "compressed_segmentation")],
)
def test_a_shard_cut_anywhere(tmp_path: Path, index_encoding: str, data_encoding: str, encoding: str) -> None:
    """Empty, cut in its index, in its data, in the index of its minishards: all the same error."""
    url = put_sharded_volume(
        tmp_path, LABELS, encoding=encoding, data_encoding=data_encoding, index_encoding=index_encoding
    )
    shard = min(tmp_path.rglob("*.shard"))
    content = shard.read_bytes()
    for length in (0, 24, 64, len(content) // 2, len(content) - 24, len(content) - 1):
        shard.write_bytes(content[:length])
        segmentation = Segmentation(url, 0)
        with pytest.raises(SegmentationUnavailable, match=r"^[^\n]+$"):
            segmentation.read(Box(np.array([12, 0, 0]), np.array([20, 20, 20])), 1)
    shard.write_bytes(content)
    segmentation = Segmentation(url, 0)
    np.testing.assert_array_equal(segmentation.read(segmentation.bounds, 1).mask.to_array(), LABELS == 1)


def test_a_whole_shard_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that a shard leaves out cost one look at it, not one each."""
    sizes: list[str] = []
    size = CloudFiles.size

    def counted(files: CloudFiles, name: str) -> int:
        sizes.append(name)
        return size(files, name)

    monkeypatch.setattr(CloudFiles, "size", counted)
    labels = LABELS.copy()
    labels[16:32, :32, :32] = 0
    labels[16, 0, 0] = 1
    segmentation = Segmentation(put_sharded_volume(tmp_path, labels), 0)
    for _ in range(2):
        assert segmentation.read(segmentation.bounds, 1).n_unlabelled == np.count_nonzero(labels == 0)
    assert len(sizes) == len(set(sizes)) > 0
