"""Synapses on a soma."""

import numpy as np
import trimesh
from scipy.spatial import cKDTree

from somatic.cutout import half_side_vx
from somatic.tables import Synapses

_MAX_DISTANCE_NM = 150.0


def synapses_in_cutout(synapses: Synapses, root_id: int, centre_nm: np.ndarray, radius_nm: float) -> Synapses:
    """Synapses onto a root whose post_pt lies in its cutout.

    Parameters
    ----------
    synapses : Synapses
        Synapses of this root and of any others.
    root_id : int
        The postsynaptic cell.
    centre_nm : (3,) float
        Centre of the cutout.
    radius_nm : float
        Half its side; in whole voxels of the synapse table, faces included (definitions.md, "Soma features").
    """
    first, last = np.searchsorted(synapses.frame["post_root_id"], [root_id, root_id + 1])
    frame = synapses.frame.iloc[first:last]
    resolution_nm = np.asarray(synapses.resolution_nm)
    centre_vx = np.rint(np.asarray(centre_nm) / resolution_nm)
    post_vx = frame[["post_x_vx", "post_y_vx", "post_z_vx"]].to_numpy(float)
    in_box = (np.abs(post_vx - centre_vx) <= half_side_vx(radius_nm, resolution_nm)).all(axis=1)
    return Synapses(frame[in_box], synapses.resolution_nm)


def synapse_centres_nm(synapses: Synapses) -> np.ndarray:
    """The ctr_pt of synapses, (n, 3) float."""
    ctr_vx = synapses.frame[["ctr_x_vx", "ctr_y_vx", "ctr_z_vx"]].to_numpy(float)
    return ctr_vx * np.asarray(synapses.resolution_nm)


def count_soma_synapses(in_cutout: Synapses, soma: trimesh.Trimesh) -> int:
    """Number of synapses on a soma, of `on_soma`."""
    return int(np.count_nonzero(on_soma(in_cutout, soma)))


def on_soma(in_cutout: Synapses, soma: trimesh.Trimesh) -> np.ndarray:
    """Which synapses lie on a soma, as published (definitions.md, "Soma features").

    Parameters
    ----------
    in_cutout : Synapses
        Those onto the root in its cutout (`synapses_in_cutout`).
    soma : trimesh.Trimesh
        Soma mesh, vertices in nm; a synapse counts when its ctr_pt is less than 150 nm from the nearest vertex.

    Returns
    -------
    (n,) bool

    Notes
    -----
    Vertices are taken as a mesh layer keeps them, in float32, so that a stored mesh gives the same number.
    """
    if not len(in_cutout.frame):
        return np.zeros(0, dtype=bool)
    distance_nm, _ = cKDTree(soma.vertices.astype(np.float32)).query(synapse_centres_nm(in_cutout))
    return distance_nm < _MAX_DISTANCE_NM
