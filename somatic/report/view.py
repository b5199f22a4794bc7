"""What a picture of a cell is made of."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from somatic.cell import Cell, Measured, cell_box
from somatic.cutout import Segmentation
from somatic.definitions import definitions_called
from somatic.errors import SomaticError
from somatic.soma import Place
from somatic.synapses import synapse_centres_nm, synapses_in_cutout
from somatic.tables import Synapses


@dataclass(frozen=True, eq=False)
class CellView:
    """What a picture of a cell is made of.

    Attributes
    ----------
    measured : Measured
        Row and meshes.
    fold_depth_nm : (n,) float or None
        Of each vertex of the nucleus.
    synapses_nm, counted : (m, 3) float, (m,) bool
        The synapses in the cutout, and which of them count.
    before, after : (nx, ny, nz) bool
        The mask, before and after its repair.
    lower_nm, voxel_nm : (3,) float
        Where the mask begins, and the size of a voxel.
    """

    measured: Measured
    fold_depth_nm: npt.NDArray[np.float64] | None
    synapses_nm: npt.NDArray[np.float64]
    counted: npt.NDArray[np.bool_]
    before: npt.NDArray[np.bool_]
    after: npt.NDArray[np.bool_]
    lower_nm: npt.NDArray[np.float64]
    voxel_nm: npt.NDArray[np.float64]


def view_cell(
    cell: Cell, measured: Measured, segmentation: Segmentation, synapses: Synapses | None, radius_nm: float
) -> CellView:
    """Gather what a picture of a measured cell needs; its cutout is read once more.

    Raises
    ------
    SomaticError
        The segmentation could not be read.
    """
    box = cell_box(cell, radius_nm, segmentation.resolution_nm)
    steps = definitions_called(measured.row["definitions"])
    # A root id whose leaves could not be had has no mask; its row says why.
    labels = np.empty(0, np.uint64) if isinstance(cell.leaves, SomaticError) else cell.leaves
    cutout = segmentation.read(box, cell.root_id if labels is None else labels, with_unlabelled=True)
    before = cutout.mask.to_array()
    after = np.zeros_like(before)
    if before.any():
        place = Place(box, segmentation.resolution_nm, cell.centre_nm, radius_nm)
        soma = steps.repair(cutout, place, measured.nucleus)
        part = soma.mask.to_array()
        x, y, z = soma.lower_vx
        after[x : x + part.shape[0], y : y + part.shape[1], z : z + part.shape[2]] = part
    synapses_nm, counted = np.zeros((0, 3)), np.zeros(0, dtype=bool)
    if synapses is not None:
        in_cutout = synapses_in_cutout(synapses, cell.root_id, cell.centre_nm, radius_nm)
        synapses_nm = synapse_centres_nm(in_cutout)
        counted = np.zeros(len(synapses_nm), bool)
        if measured.soma is not None:
            counted = steps.on_soma(in_cutout, measured.soma)
    return CellView(
        measured,
        steps.fold_depth_nm(measured.nucleus) if measured.nucleus is not None else None,
        synapses_nm,
        counted,
        before,
        after,
        box.lower_vx * segmentation.resolution_nm,
        segmentation.resolution_nm,
    )
