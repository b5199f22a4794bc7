"""How deep below the pia a cell lies."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def depth_um(
    centres_nm: npt.NDArray[np.float64], point_nm: Sequence[float], down: Sequence[float]
) -> npt.NDArray[np.float64]:
    """Distance from the plane of the pia.

    Parameters
    ----------
    centres_nm : (n, 3) float
        NaN where a cell has no position.
    point_nm : (3,) float
        A point of the pia.
    down : (3,) float
        Direction to the white matter, of any length.

    Returns
    -------
    (n,) float
        In micrometres, negative above the pia.
    """
    direction = np.asarray(down, dtype=float)
    return (centres_nm - np.asarray(point_nm, dtype=float)) @ direction / np.linalg.norm(direction) / 1000
