"""The JSON input of Extract_Somatic_Features, the scripts that this package replaces."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from somatic.errors import printable
from somatic.validation import validated

SYNAPSES_OF_DATASTACK = "datastack"
"""In place of a table's name: the synapse table that the datastack names."""

_CREDENTIALS = ("google", "gcs", "token")
"""How the names of keys begin that say where to write in Google's cloud, and with which secret."""

_WITHOUT_EFFECT = {
    "voxel_resolution": "the resolution of each table is asked from CAVE",
    "disk_cache_path": "meshes lie with the results",
    "chunk": "cells are grouped when a run is planned",
    "pool_size": "say --workers",
}


class _Seed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=100,
        description='the name of a datastack, as "minnie65_public"',
    )
    materialization_version: int | None = Field(
        default=None, strict=True, ge=0, description="a materialization version, a whole number"
    )
    nucleus_table: str = Field(
        min_length=1, description='the name of a view of nuclei, as "nucleus_detection_lookup_v1"'
    )
    nuc_seg_source: str | None = Field(default=None, description="the URL of the nucleus layer")
    mip_level: int = Field(strict=True, ge=0, description="the mip level that is measured, as 3")
    cutout_radius: float = Field(
        default=15.0,
        strict=True,
        gt=0,
        allow_inf_nan=False,
        description="half the edge of the cutout in micrometres, as 15",
    )
    output_filepath: str | None = Field(default=None, description='the path or URL for results, as "../data"')
    voxel_resolution: Any = None
    disk_cache_path: Any = None
    chunk: Any = None
    pool_size: Any = None


def dataset_of_seed(raw: Any, where: str) -> tuple[dict[str, Any], list[str]]:
    """Translate an old input into the keys of a dataset file.

    It names no segmentation and no synapse table: the datastack's own are meant.

    Parameters
    ----------
    raw : object
        What the JSON file holds.
    where : str
        The file, as it is called in an error.

    Returns
    -------
    dict
        Keys of a dataset file (docs/datasets.md).
    list of str
        A sentence for each key that has no effect any more. Values are not repeated: some are secrets.

    Raises
    ------
    DatasetError
        A key is missing, unknown or of the wrong kind.
    """
    notes = []
    kept = raw
    if isinstance(raw, dict):
        kept = {key: value for key, value in raw.items() if not key.lower().startswith(_CREDENTIALS)}
        for key, value in raw.items():
            if key not in kept and value:
                notes.append(f"{where}: {printable(key)} has no effect any more: results go to output_filepath or --to")
            elif key in _WITHOUT_EFFECT and value:
                notes.append(f"{where}: {key} has no effect any more: {_WITHOUT_EFFECT[key]}")
    seed = validated(_Seed, kept, where)
    cave = {
        "datastack": seed.dataset,
        "nuclei": {"view": seed.nucleus_table, "position": "pt_position_lookup"},
        "nucleus_segmentation": seed.nuc_seg_source or None,
        "synapses": SYNAPSES_OF_DATASTACK,
    }
    dataset = {
        "name": seed.dataset,
        "mip": seed.mip_level,
        "cutout_radius_um": seed.cutout_radius,
        "version": seed.materialization_version,
        "results": seed.output_filepath or None,
        "cave": cave,
    }
    return dataset, notes
