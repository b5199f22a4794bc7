"""Checking the info file of a layer before cloud-volume sees it.

cloud-volume believes an info file: it allocates voxel chunks as large as it says, and codecs follow block sizes without
looking where they lead.
"""

import math
from collections.abc import Mapping
from typing import Any

LARGEST_INFO_BYTES = 2**22
LARGEST_CHUNK_BYTES = 2**30
"""Of the labels of a voxel chunk, which is decoded whole; those of real layers have up to a tenth of that."""

_MOST_SCALES = 100
_FARTHEST_VX = 2**40
_SMALLEST_NM, _LARGEST_NM = 1e-3, 1e9
_MOST_VOXELS_PER_BLOCK = 2**20
_MOST_MINISHARD_BITS = 22
"""The index of a shard then has 64 MB, which is read at once."""
_MOST_CODE_BITS = 64
_BITS = ("preshift_bits", "minishard_bits", "shard_bits")
_SHARDING = {
    "@type": ("neuroglancer_uint64_sharded_v1",),
    "hash": ("identity", "murmurhash3_x86_128"),
    "minishard_index_encoding": ("raw", "gzip"),
    "data_encoding": ("raw", "gzip"),
}
_LONGEST_TEXT = 1000
_LABEL_BYTES = {"uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8}


def checked_info(info: Any, mip: int) -> dict[str, Any]:
    """Check the parts of an info file that reading a mip relies on.

    Parameters
    ----------
    info : object
        What the file holds.
    mip : int
        The mip that is read; a mip that does not exist is left to cloud-volume.

    Returns
    -------
    dict
        The same, lengths in voxels of that mip as integers.

    Raises
    ------
    ValueError
        Says which part is wrong, and how.
    """
    if not isinstance(info, dict):
        raise ValueError(f"its info file holds a {type(info).__name__}, expected an object")
    scales = info.get("scales")
    if not isinstance(scales, list) or not all(isinstance(scale, dict) for scale in scales):
        raise ValueError("scales is not a list of objects")
    if not 1 <= len(scales) <= _MOST_SCALES:
        raise ValueError(f"it has {len(scales)} scales, expected 1 to {_MOST_SCALES}")
    for scale in scales:
        _numbers(scale, "resolution", _SMALLEST_NM, _LARGEST_NM)
    for key in ("type", "data_type"):
        _text(info, key)
    n_channels = info.get("num_channels")
    if isinstance(n_channels, bool) or not isinstance(n_channels, int):
        raise ValueError(f"num_channels is {_cut(n_channels)}, expected a whole number")
    for key in ("mesh", "skeletons"):
        if info.get(key):
            _path(info, key)
    if not 0 <= mip < len(scales):
        return info
    checked = _checked_scale(scales[mip], info["data_type"])
    return info | {"scales": [checked if number == mip else scale for number, scale in enumerate(scales)]}


def _checked_scale(scale: Mapping[str, Any], data_type: str) -> dict[str, Any]:
    found = dict(scale)
    _path(found, "key")
    encoding = _text(found, "encoding")
    found["size"] = _whole(found.get("size"), "size", 1, _FARTHEST_VX)
    if "voxel_offset" in found:
        found["voxel_offset"] = _whole(found["voxel_offset"], "voxel_offset", -_FARTHEST_VX, _FARTHEST_VX)
    chunk_sizes = found.get("chunk_sizes")
    if not isinstance(chunk_sizes, list) or not chunk_sizes:
        raise ValueError("chunk_sizes is not a list of sizes")
    chunk = _whole(chunk_sizes[0], "chunk_sizes", 1, _FARTHEST_VX)
    found["chunk_sizes"] = [chunk]
    n_bytes = math.prod(chunk) * _LABEL_BYTES.get(data_type, 1)
    if n_bytes > LARGEST_CHUNK_BYTES:
        raise ValueError(f"a voxel chunk of {_shown(chunk)} has {n_bytes} bytes, more than {LARGEST_CHUNK_BYTES}")
    if encoding == "compressed_segmentation":
        if data_type not in ("uint32", "uint64"):
            raise ValueError(f"labels of type {data_type[:40]!r} cannot be in compressed_segmentation")
        key = "compressed_segmentation_block_size"
        block = _whole(found.get(key), key, 1, _MOST_VOXELS_PER_BLOCK)
        if math.prod(block) > _MOST_VOXELS_PER_BLOCK:
            raise ValueError(f"{key} {_shown(block)} has more than {_MOST_VOXELS_PER_BLOCK} voxels")
        found[key] = block
    if found.get("sharding") is not None:
        check_sharding(found["sharding"])
        bits = [max(-(-size // length) - 1, 0).bit_length() for size, length in zip(found["size"], chunk, strict=True)]
        if sum(bits) > _MOST_CODE_BITS or max(bits) >= 32:
            raise ValueError(f"sharded chunks of {_shown(chunk)} cannot be numbered in a volume of this size")
    return found


def check_sharding(sharding: Any) -> None:
    """Check the specification of shards, of voxels or of meshes; raises ValueError."""
    if not isinstance(sharding, dict):
        raise ValueError("sharding is not an object")
    if unknown := sharding.keys() - _SHARDING.keys() - set(_BITS):
        raise ValueError(f"sharding: unknown key {_cut(min(unknown))}")
    for key, known in _SHARDING.items():
        value = sharding.get(key, known[0] if key.endswith("encoding") else None)
        if value not in known:
            raise ValueError(f"sharding: {key} is {_cut(value)}, expected {' or '.join(known)}")
    bits: dict[str, int] = {}
    for key in _BITS:
        value = sharding.get(key)
        most = _MOST_MINISHARD_BITS if key == "minishard_bits" else 63
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise ValueError(f"sharding: {key} is {_cut(value)}, expected 0 to {most}")
        bits[key] = value
    if bits["minishard_bits"] + bits["shard_bits"] > _MOST_CODE_BITS:
        raise ValueError("sharding: minishard_bits and shard_bits are more than 64 together")


def _whole(value: Any, key: str, least: int, most: int) -> list[int]:
    """Three whole numbers; some writers make floats of them."""
    if not isinstance(value, list) or len(value) != 3:
        raise ValueError(f"{key} is {_cut(value)}, expected three whole numbers")
    for one in value:
        if isinstance(one, bool) or not isinstance(one, int | float) or one != one or not least <= one <= most:
            raise ValueError(f"{key} is {_cut(value)}, expected three whole numbers from {least} to {most}")
        if one != int(one):
            raise ValueError(f"{key} is {_cut(value)}, expected three whole numbers")
    return [int(one) for one in value]


def _numbers(scale: Mapping[str, Any], key: str, least: float, most: float) -> None:
    value = scale.get(key)
    if not (isinstance(value, list) and len(value) == 3) or not all(
        isinstance(one, int | float) and not isinstance(one, bool) and least <= one <= most for one in value
    ):
        raise ValueError(f"{key} is {_cut(value)}, expected three numbers from {least:g} to {most:g}")


def _text(part: Mapping[str, Any], key: str) -> str:
    value = part.get(key)
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= _LONGEST_TEXT:
        raise ValueError(f"{key} is {_cut(value)}, expected a text")
    return value


def _path(part: Mapping[str, Any], key: str) -> None:
    """A folder of the layer; the format allows one beside it, reached by `..`, but no other root or host."""
    value = _text(part, key)
    if value.startswith(("/", "\\", "~")) or "://" in value:
        raise ValueError(f"{key} is {_cut(value)}, expected a path relative to the layer")


def _shown(lengths: list[int]) -> str:
    return " x ".join(map(str, lengths))


def _cut(value: Any) -> str:
    text = repr(value[:4] if isinstance(value, list) else value)
    return text if len(text) <= 80 else f"{text[:80]}..."
