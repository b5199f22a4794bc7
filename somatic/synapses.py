"""Synapses on a soma."""

import numpy as np

from somatic.cutout import half_side_vx
from somatic.features import Row
from somatic.tables import Synapses

MAX_DISTANCE_NM = 150.0
"""A synapse is on a soma where its ctr_pt is nearer to it than this."""


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


def synapse_columns(in_cutout: Synapses, on_soma: np.ndarray) -> Row:
    """The columns of the synapses on a soma, but for their density.

    Parameters
    ----------
    in_cutout : Synapses
        Those onto the root in its cutout (`synapses_in_cutout`).
    on_soma : (n,) bool
        Which of them lie on the soma.

    Returns
    -------
    Row
        The sizes are null where the table has none, their mean also where there is no synapse.
    """
    sizes = in_cutout.frame["size"][on_soma]
    known = not sizes.isna().any()
    return {
        "soma_synapse_number": int(np.count_nonzero(on_soma)),
        "soma_synapse_size_sum": float(sizes.sum()) if known else None,
        "soma_synapse_size_mean": float(sizes.mean()) if known and len(sizes) else None,
    }
