"""A soma on its way from a cutout to a mesh."""

from dataclasses import dataclass, field

import numpy as np

from somatic.features import Row
from somatic.geometry.bitmask import BitMask
from somatic.geometry.box import Box


@dataclass(frozen=True, eq=False)
class Place:
    """Where a cutout lies.

    Attributes
    ----------
    box : Box
        In voxels of the volume.
    resolution_nm : (3,) float
        Size of a voxel.
    centre_nm : (3,) float
        The centre that was asked for, which the box has in its middle but for whole voxels.
    radius_nm : float
        Half its side.
    """

    box: Box
    resolution_nm: np.ndarray
    centre_nm: np.ndarray
    radius_nm: float


@dataclass(frozen=True, eq=False)
class SomaMask:
    """A repaired mask.

    Attributes
    ----------
    mask : BitMask
        Of a part of the cutout.
    lower_vx : (3,) int64
        Where the part begins, in voxels of the cutout.
    columns : Row
        What its repair told of the cell.
    """

    mask: BitMask
    lower_vx: np.ndarray
    columns: Row = field(default_factory=dict)


@dataclass(eq=False)
class Masks:
    """The mask of a cell that was measured, before and after its repair.

    Attributes
    ----------
    place : Place
        Where its cutout lies.
    cutout : BitMask or None
        Voxels of the root id, of the shape of `place.box`; None where they could not be had.
    repaired : SomaMask or None
        What was meshed; None where the cutout has no voxel of the root id.
    """

    place: Place
    cutout: BitMask | None = None
    repaired: SomaMask | None = None
