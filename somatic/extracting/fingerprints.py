"""Fingerprints: short hashes of all that a cell's numbers depend on. Equal fingerprints mean equal numbers."""

import hashlib
import json
from typing import Any

import numpy as np
import numpy.typing as npt

from somatic import features
from somatic.cell import Cell
from somatic.tables import Synapses

_SYNAPSE_COLUMNS = ("ctr_x_vx", "ctr_y_vx", "ctr_z_vx", "post_x_vx", "post_y_vx", "post_z_vx", "size")
# Made once, since the fingerprints of a whole dataset are compared at a time.
_JSON = json.JSONEncoder(sort_keys=True)


def soma_fingerprint(
    cell: Cell, *, layer_url: str, mip: int, radius_nm: float, definitions: str, nuclei_url: str | None
) -> str | None:
    """Hash of what the soma's numbers depend on, its synapses left out.

    Parameters
    ----------
    cell : Cell
        With its leaves, where the segmentation is a graph.
    layer_url : str
        The layer that is read: the flat copy, or the watershed of the graph.
    mip : int
        Which of its resolutions.
    radius_nm : float
        Half the side of the cutout.
    definitions : str
        Which definitions the numbers follow.
    nuclei_url : str or None
        The layer of the nuclei, where the soma's numbers hang on the mesh of its nucleus.

    Returns
    -------
    str or None
        `<place>-<labels>`: where and how is measured (`place_fingerprint`), and which labels: the leaves of the root
        id in the cutout, on a flat copy the root id itself. None where the leaves could not be had.
    """
    if isinstance(cell.leaves, Exception):
        return None
    labels = np.array([cell.root_id], dtype=np.uint64) if cell.leaves is None else cell.leaves
    place = place_fingerprint(
        cell, layer_url=layer_url, mip=mip, radius_nm=radius_nm, definitions=definitions, nuclei_url=nuclei_url
    )
    return f"{place}-{_hash_of_ids(labels)}"


def place_fingerprint(
    cell: Cell, *, layer_url: str, mip: int, radius_nm: float, definitions: str, nuclei_url: str | None
) -> str:
    """First half of `soma_fingerprint`, which takes no leaves: a root id that kept its meaning keeps the other half."""
    return _hash(
        nucleus_id=cell.nucleus_id,
        centre_vx=list(cell.centre_vx),
        table_resolution_nm=[float(size) for size in cell.table_resolution_nm],
        radius_nm=float(radius_nm),
        layer_url=layer_url,
        mip=mip,
        definitions=definitions,
        nuclei_url=nuclei_url,
        features_version=features.SOMA_VERSION,
    )


def nucleus_fingerprint(nucleus_id: int, *, layer_url: str, definitions: str) -> str:
    """Hash of what the nucleus's numbers depend on; the materialization version is none of it."""
    return _hash(
        nucleus_id=nucleus_id,
        layer_url=layer_url,
        definitions=definitions,
        features_version=features.NUCLEUS_VERSION,
    )


def synapse_hash(in_cutout: Synapses) -> str:
    """Hash of the ids, positions and sizes of a cell's synapses (`somatic.synapses.synapses_in_cutout`)."""
    frame = in_cutout.frame
    digest = hashlib.sha256(np.asarray(in_cutout.resolution_nm, dtype="<f8").tobytes())
    digest.update(frame["synapse_id"].to_numpy(dtype="<i8").tobytes())
    digest.update(np.ascontiguousarray(frame[list(_SYNAPSE_COLUMNS)].to_numpy(dtype="<f8")).tobytes())
    return digest.hexdigest()[:16]


def _hash_of_ids(ids: npt.NDArray[np.uint64]) -> str:
    return hashlib.sha256(np.unique(ids).astype("<u8").tobytes()).hexdigest()[:16]


def _hash(**parts: Any) -> str:
    return hashlib.sha256(_JSON.encode(parts).encode()).hexdigest()[:16]
