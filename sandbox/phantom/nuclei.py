"""The nuclei of the phantom as CAVE would hold them."""

import numpy as np
import pandas as pd

from sandbox.phantom.cells import NucleusMask
from sandbox.phantom.ids import nucleus_ids, supervoxel_ids, table_roots
from sandbox.phantom.layout import CELLS, VERSIONS, VOXEL_SIZE_NM, Role, to_table_voxels
from sandbox.phantom.objects import FIRST_CELL

MOVED_BY_VX = (60, -45, 4)
"""How far the point of the "moved" nucleus lies from its centre in version 2, in voxels of the tables."""

_WRITTEN_ROOTS: dict[Role, object] = {"no root": pd.NA, "root 0": 0, "root 1": 1}


def nucleus_volume_um3(nucleus: NucleusMask) -> float:
    """Volume of a nucleus by its voxels."""
    return float(np.count_nonzero(nucleus.mask) * np.prod(VOXEL_SIZE_NM) / 1e9)


def nucleus_table(seed: int, nuclei: dict[int, NucleusMask], version: int) -> pd.DataFrame:
    """Nuclei as CAVE would hold them in one version.

    Parameters
    ----------
    seed : int
    nuclei : dict of int to NucleusMask
        By index into `CELLS`.
    version : int

    Returns
    -------
    DataFrame
        id, volume (um^3), pt_position_x, _y, _z, pt_root_id (NA, 0 and 1 are no roots), orig_root_id,
        pt_supervoxel_id, pt_position_lookup_x, _y, _z; positions int32 in voxels of `TABLE_RESOLUTION_NM`,
        ids Int64.
    """
    ids = nucleus_ids(seed)
    roots = table_roots(seed, version)[FIRST_CELL : FIRST_CELL + len(CELLS)].astype(np.int64)
    supervoxels = supervoxel_ids(np.random.default_rng([seed, 11]), roots)
    rows = []
    for i, nucleus in nuclei.items():
        role = CELLS[i].role
        if role == "new" and version == VERSIONS[0]:
            continue
        x, y, z = to_table_voxels(nucleus.centre_vx() * VOXEL_SIZE_NM / 1000)
        if role == "moved" and version == VERSIONS[1]:
            x, y, z = (x, y, z) + np.array(MOVED_BY_VX)
        root = _WRITTEN_ROOTS.get(role, int(roots[i]))
        rows.append(
            {
                "id": int(ids[i]),
                "volume": nucleus_volume_um3(nucleus),
                "pt_position_x": x,
                "pt_position_y": y,
                "pt_position_z": z,
                "pt_root_id": root,
                "orig_root_id": 0 if root is pd.NA else root,
                "pt_supervoxel_id": int(supervoxels[i]),
                "pt_position_lookup_x": x,
                "pt_position_lookup_y": y,
                "pt_position_lookup_z": z,
            }
        )
    id_columns = dict.fromkeys(["id", "pt_root_id", "orig_root_id", "pt_supervoxel_id"], "Int64")
    positions = {name: "int32" for name in rows[0] if "position" in name}
    return pd.DataFrame.from_records(rows).astype(id_columns | positions)
