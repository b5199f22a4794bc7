"""Layers of strangers: voxels or one line, whatever info files, voxel chunks and shards hold and claim."""

import gzip
import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cage import Cage
from damage import damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shared import SHARED
from volumes import put_sharded_volume, put_volume

from somatic.cutout import Segmentation
from somatic.geometry.box import Box
from somatic.volume.info import checked_info

LABELS = np.ones((40, 40, 32), np.uint64)
few = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
SHARDING = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "hash": "identity",
    "minishard_index_encoding": "gzip",
    "data_encoding": "gzip",
}
KINDS = ("raw", "compressed_segmentation", "sharded")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good layer of each kind."""
    folder = tmp_path_factory.mktemp("layers")
    for encoding in KINDS[:2]:
        put_volume(folder / encoding, LABELS, encoding=encoding, gzip=True)
    put_sharded_volume(folder / "sharded", LABELS, data_encoding="raw", index_encoding="raw")
    return folder


def read(url: str) -> int:
    """Voxels of label 1 of a layer."""
    segmentation = Segmentation(url, 0)
    bounds = segmentation.bounds
    return segmentation.read(Box(bounds.lower_vx, np.minimum(bounds.upper_vx, bounds.lower_vx + 40)), 1).mask.count()


def copy_of(good: Path, kind: str, folder: Path) -> Path:
    """A copy of a layer that may be damaged."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good / kind, folder)
    return folder


def first_file(folder: Path) -> Path:
    """A voxel chunk or a shard of a layer."""
    return min(path for path in folder.rglob("*") if path.is_file() and path.parent != folder)


@pytest.mark.parametrize("kind", KINDS)
def test_good_layers_are_read(cage: Cage, good: Path, kind: str) -> None:
    """In as little memory as the others have."""
    assert cage.read(read, f"precomputed://file://{good / kind}").value == LABELS.size


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["info", "voxels"])
@few
@given(data=st.data())
def test_files_that_are_cut_and_swapped(
    cage: Cage, good: Path, tmp_path: Path, kind: str, what: str, data: st.DataObject
) -> None:
    """The info file, and a voxel chunk or shard, however they are damaged."""
    folder = copy_of(good, kind, tmp_path / "layer")
    path = folder / "info" if what == "info" else first_file(folder)
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    cage.read(read, f"precomputed://file://{folder}")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"chunk_sizes": [[10_000] * 3]}, "voxel chunk"),
        ({"chunk_sizes": [[0, 1, 1]]}, "chunk_sizes"),
        ({"chunk_sizes": [[1.5, 1, 1]]}, "chunk_sizes"),
        ({"size": [10**30] * 3}, "size"),
        ({"voxel_offset": [2**62] * 3}, "voxel_offset"),
        ({"resolution": [0, 1, 1]}, "resolution"),
        ({"compressed_segmentation_block_size": [2**40] * 3}, "block_size"),
        ({"compressed_segmentation_block_size": [0, 8, 8]}, "block_size"),
        ({"key": "/etc"}, "key"),
        ({"key": "https://host/x"}, "key"),
        ({"sharding": SHARDING | {"preshift_bits": 60, "minishard_bits": 60, "shard_bits": 0}}, "minishard_bits"),
    ],
)
def test_what_an_info_file_cannot_say(
    cage: Cage, good: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    """Each is refused when the layer is opened, and named."""
    folder = copy_of(good, "compressed_segmentation", tmp_path / "layer")
    info = json.loads((folder / "info").read_text())
    info["scales"][0].update(changes)
    (folder / "info").write_text(json.dumps(info))
    refused = cage.read(read, f"precomputed://file://{folder}")
    assert refused.error == "SegmentationError"
    assert said in refused.text


@pytest.mark.parametrize("target", ["precomputed://middleauth+https://host/x", "precomputed://file:///etc", 5])
def test_redirects(cage: Cage, good: Path, tmp_path: Path, target: object) -> None:
    """None leads to this machine, nor to where a token would be sent."""
    folder = copy_of(good, "raw", tmp_path / "layer")
    info = json.loads((folder / "info").read_text()) | {"redirect": target}
    (folder / "info").write_text(json.dumps(info))
    assert "redirects to" in cage.read(read, f"precomputed://file://{folder}").text


def test_bombs(cage: Cage, good: Path, tmp_path: Path) -> None:
    """A gigabyte in a megabyte of gzip, a sparse file of a terabyte."""
    folder = copy_of(good, "raw", tmp_path / "layer")
    url, path = f"precomputed://file://{folder}", first_file(folder)
    path.write_bytes(gzip.compress(bytes(10**9), 1))
    assert "more than the" in cage.read(read, url).text
    with path.open("wb") as file:
        file.truncate(10**12)
    assert "more than 1073741824" in cage.read(read, url).text


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("what", ["info", "voxels"])
def test_what_is_no_file(cage: Cage, good: Path, tmp_path: Path, kind: str, what: str) -> None:
    """A pipe is not waited for, and a device not read to its end."""
    folder = copy_of(good, "raw", tmp_path / "layer")
    path = folder / "info" if what == "info" else first_file(folder)
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    assert "not a regular file" in cage.read(read, f"precomputed://file://{folder}").text


@pytest.mark.parametrize("claimed", [2**40, 2**63, 2**64 - 1])
def test_an_index_that_claims_terabytes(cage: Cage, good: Path, tmp_path: Path, claimed: int) -> None:
    """The index of a shard is refused before anything is allocated for it."""
    folder = copy_of(good, "sharded", tmp_path / "layer")
    path = first_file(folder)
    content = bytearray(path.read_bytes())
    content[8:16] = struct.pack("<Q", claimed)
    path.write_bytes(bytes(content))
    assert "claims an index" in cage.read(read, f"precomputed://file://{folder}").text


@pytest.mark.skipif(not (SHARED / "real_infos").is_dir(), reason="the folder shared is not beside the project")
def test_infos_of_real_layers() -> None:
    """Those that are quoted whole are accepted at each mip."""
    needed = {"key", "size", "chunk_sizes", "encoding"}
    checked = 0
    for path in (SHARED / "real_infos").glob("*.json"):
        info = json.loads(path.read_text())["info"]
        scales = info.get("scales") or []
        if scales and "data_type" in info and all(needed <= scale.keys() for scale in scales):
            for mip in range(len(scales)):
                checked_info(info, mip)
                checked += 1
    assert checked >= 19
