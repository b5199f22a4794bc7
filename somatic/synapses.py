"""Synapses on a soma."""

import numpy as np
import trimesh
from scipy.spatial import cKDTree

from somatic.cutout import half_side_vx
from somatic.tables import Synapses

_MAX_DISTANCE_NM = 150.0


def count_soma_synapses(
    synapses: Synapses, root_id: int, centre_nm: np.ndarray, radius_nm: float, soma: trimesh.Trimesh
) -> int:
    """Number of synapses onto a soma, as published (definitions.md, "Soma features").

    Parameters
    ----------
    synapses : Synapses
        Synapses of this root and of any others.
    root_id : int
        The postsynaptic cell.
    centre_nm : (3,) float
        Centre of the cutout.
    radius_nm : float
        Half its side: a synapse counts when its post_pt lies in the box, faces included, in whole voxels of the
        synapse table.
    soma : trimesh.Trimesh
        Soma mesh; a synapse counts when its ctr_pt is less than 150 nm from the nearest vertex.

    Returns
    -------
    int
    """
    frame = synapses.frame[synapses.frame["post_root_id"] == root_id]
    resolution_nm = np.asarray(synapses.resolution_nm)
    centre_vx = np.rint(np.asarray(centre_nm) / resolution_nm)
    post_vx = frame[["post_x_vx", "post_y_vx", "post_z_vx"]].to_numpy(float)
    in_box = (np.abs(post_vx - centre_vx) <= half_side_vx(radius_nm, resolution_nm)).all(axis=1)
    ctr_nm = frame[["ctr_x_vx", "ctr_y_vx", "ctr_z_vx"]].to_numpy(float)[in_box] * resolution_nm
    if not len(ctr_nm):
        return 0
    distance_nm, _ = cKDTree(soma.vertices).query(ctr_nm)
    return int(np.count_nonzero(distance_nm < _MAX_DISTANCE_NM))
