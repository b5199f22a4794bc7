"""Features as segment properties of Neuroglancer, held against the rules of the format."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from volumes import put_volume

from somatic.cutout import Segmentation
from somatic.errors import StoreError
from somatic.features import feature_table
from somatic.results.flags import find_flags
from somatic.results.mesh_layer import MeshLayer
from somatic.results.segment_properties import segment_properties

ID = 2**63 - 1
_RANGES = {"uint8": (0, 2**8), "int8": (-(2**7), 2**7), "uint16": (0, 2**16), "int16": (-(2**15), 2**15)}
_RANGES |= {"uint32": (0, 2**32), "int32": (-(2**31), 2**31)}


def rows() -> list[dict[str, Any]]:
    """A cell with all, one without a nucleus, one without a soma."""
    common = {"soma_id": 5, "materialization_version": 1, "definitions": "published", "status": "ok"}
    soma = {"soma_volume_um": 1234.56789, "soma_synapse_number": 40, "soma_center_x_nm": -5.0}
    return [
        {**common, **soma, "nucleus_id": 2**53 + 1, "nucleus_volume_um": 200.0, "n_nuclei_in_segment": 2},
        {**common, **soma, "nucleus_id": ID, "status": "failed", "reason": "no mesh"},
        {**common, "nucleus_id": 7, "nucleus_volume_um": 300.0, "status": "failed", "reason": "no voxel"},
    ]


def properties() -> dict[str, Any]:
    """Those of the rows."""
    features = feature_table(rows())
    return segment_properties(features, find_flags(features))


def check_format(info: dict[str, Any]) -> None:
    """The rules of segment_properties.md in Neuroglancer's repository, one by one."""
    assert info["@type"] == "neuroglancer_segment_properties"
    assert set(info) == {"@type", "inline"}
    assert set(info["inline"]) == {"ids", "properties"}
    ids = info["inline"]["ids"]
    assert all(isinstance(one, str) and one == str(int(one)) and 0 <= int(one) < 2**64 for one in ids)
    assert len(set(ids)) == len(ids)
    kinds = [one["type"] for one in info["inline"]["properties"]]
    assert set(kinds) <= {"label", "description", "string", "tags", "number"}
    assert all(kinds.count(kind) <= 1 for kind in ("label", "description", "tags"))
    for one in info["inline"]["properties"]:
        assert isinstance(one["id"], str)
        assert len(one["values"]) == len(ids)
        if one["type"] == "number":
            assert isinstance(one.get("description", ""), str)
            assert "tags" not in one
            assert all(type(value) in (int, float) and value == value for value in one["values"])
            if one["data_type"] != "float32":
                low, high = _RANGES[one["data_type"]]
                assert all(type(value) is int and low <= value < high for value in one["values"])
        if one["type"] == "tags":
            assert "description" not in one
            assert all(tag and " " not in tag and not tag.startswith("#") for tag in one["tags"])
            assert len({tag.lower() for tag in one["tags"]}) == len(one["tags"]) == len(one["tag_descriptions"])
            for value in one["values"]:
                assert value == sorted(set(value))
                assert all(0 <= tag < len(one["tags"]) for tag in value)


def test_they_follow_the_format() -> None:
    """Types, ids as strings, one value a segment; no NaN in the JSON."""
    info = properties()
    check_format(json.loads(json.dumps(info, allow_nan=False)))


def test_values_and_tags() -> None:
    """Numbers are those of the rows to a float32, -1 is null, positions and features that no cell has are left out."""
    inline = properties()["inline"]
    assert inline["ids"] == [str(2**53 + 1), str(ID)]
    by_id = {one["id"]: one for one in inline["properties"]}
    assert by_id["soma_volume_um"]["values"] == [1234.57, 1234.57]
    assert by_id["nucleus_volume_um"]["values"] == [200.0, -1]
    assert by_id["nucleus_volume_um"]["description"] == "volume of the nucleus (um^3); -1 for none"
    assert (by_id["soma_synapse_number"]["data_type"], by_id["soma_synapse_number"]["values"]) == ("int32", [40, 40])
    assert not {"soma_center_x_nm", "avg_fold_depth_nm", "nucleus_watertight"} & set(by_id)
    tags = by_id["tags"]
    assert [[tags["tags"][tag] for tag in cell] for cell in tags["values"]] == [["ok", "several_nuclei"], ["failed"]]


def test_the_layer_names_them(store_url: str, tmp_path: Path) -> None:
    """They lie where the info of the layer says, which else stays as it was; a layer begun anew does not name them."""
    segmentation = Segmentation(put_volume(tmp_path / "seg", np.ones((4, 4, 4), np.uint64)), 0)
    layer = MeshLayer(store_url)
    with pytest.raises(StoreError):
        layer.put_properties(properties())
    layer.put_info(segmentation)
    before = json.loads(layer._store.get("info"))
    layer.put_properties(properties())
    info = json.loads(layer._store.get("info"))
    assert info == before | {"segment_properties": "segment_properties"}
    assert json.loads(layer._store.get(f"{info['segment_properties']}/info")) == properties()
