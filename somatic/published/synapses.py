"""Synapses on a soma, as published (definitions.md, "Soma features")."""

import numpy as np
import trimesh
from scipy.spatial import cKDTree

from somatic.synapses import MAX_DISTANCE_NM, synapse_centres_nm
from somatic.tables import Synapses


def on_soma(in_cutout: Synapses, soma: trimesh.Trimesh) -> np.ndarray:
    """Which synapses lie on a soma.

    Parameters
    ----------
    in_cutout : Synapses
        Those onto the root in its cutout (`somatic.synapses.synapses_in_cutout`).
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
    return distance_nm < MAX_DISTANCE_NM
