"""The features of the cells as Neuroglancer's segment properties, to be filtered and sorted by in the viewer.

The format: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/segment_properties.md
"""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from somatic.features import FEATURES_OF_SHAPE, SCHEMA
from somatic.results.flags import FLAG_COLUMNS

NONE = -1
"""Stands for null, since the format has none and JSON no NaN; no feature is negative."""

_DIGITS = 6
"""Of a float32, which is what the viewer makes of a number."""


def segment_properties(features: pa.Table, flags: pa.Table) -> dict[str, Any]:
    """Content of the info file of segment properties, for the cells that have a soma mesh.

    Parameters
    ----------
    features, flags : pyarrow.Table
        Of a result set, with the same nuclei in the same order.

    Returns
    -------
    dict
        Each feature of `FEATURES_OF_SHAPE` as a number, `NONE` where it is null, and status and flags as tags.
        Features that no cell has are left out.
    """
    has_mesh = pc.is_valid(features["soma_volume_um"])
    features, flags = features.filter(has_mesh), flags.filter(has_mesh)
    properties = [_number(features, name) for name in FEATURES_OF_SHAPE]
    return {
        "@type": "neuroglancer_segment_properties",
        "inline": {
            "ids": [str(nucleus_id) for nucleus_id in features["nucleus_id"].to_pylist()],
            "properties": [*filter(None, properties), _tags(features, flags)],
        },
    }


def _number(features: pa.Table, name: str) -> dict[str, Any] | None:
    values = features[name]
    if values.null_count == len(values):
        return None
    unit, described = (SCHEMA.field(name).metadata[key].decode() for key in (b"unit", b"description"))
    if unit not in ("", "1"):
        described += f" ({unit})"
    if values.null_count:
        described += f"; {NONE} for none"
    whole = pa.types.is_integer(values.type)
    numbers = pc.fill_null(values, NONE).to_pylist()
    return {
        "id": name,
        "type": "number",
        "description": described,
        "data_type": "int32" if whole else "float32",
        "values": numbers if whole else [float(f"{number:.{_DIGITS}g}") for number in numbers],
    }


def _tags(features: pa.Table, flags: pa.Table) -> dict[str, Any]:
    """Status and flags; a cell has the numbers of its tags, ascending."""
    named = {"ok": "measured", "failed": "something could not be measured"}
    named |= {column.name: column.description for column in FLAG_COLUMNS}
    has = [pc.equal(features["status"], status).to_pylist() for status in ("ok", "failed")]
    has += [flags[column.name].to_pylist() for column in FLAG_COLUMNS]
    return {
        "id": "tags",
        "type": "tags",
        "tags": list(named),
        "tag_descriptions": list(named.values()),
        "values": [[tag for tag, there in enumerate(cell) if there] for cell in zip(*has, strict=True)],
    }
