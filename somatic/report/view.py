"""What a picture of a cell is made of."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from somatic.cell import Cell, Measured
from somatic.definitions import definitions_called
from somatic.soma import Masks
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
        The mask that was measured, before and after its repair; empty where there is none.
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


def view_cell(cell: Cell, measured: Measured, synapses: Synapses | None) -> CellView:
    """Gather what a picture of a measured cell needs.

    Parameters
    ----------
    cell : Cell
    measured : Measured
        Of `somatic.cell.extract_cell` with `keep_masks`.
    synapses : Synapses or None
        As it was given there.

    Raises
    ------
    ValueError
        The masks were not kept.
    """
    if measured.masks is None:
        raise ValueError(f"the masks of nucleus {cell.nucleus_id} were not kept; measure it with keep_masks=True")
    place = measured.masks.place
    steps = definitions_called(measured.row["definitions"])
    before, after = _arrays(measured.masks)
    synapses_nm, counted = np.zeros((0, 3)), np.zeros(0, dtype=bool)
    if synapses is not None:
        in_cutout = synapses_in_cutout(synapses, cell.root_id, cell.centre_nm, place.radius_nm)
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
        place.box.lower_vx * place.resolution_nm,
        place.resolution_nm,
    )


def _arrays(masks: Masks) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Both masks in the whole cutout, (nx, ny, nz) each."""
    shape = masks.place.box.shape
    before = np.zeros(shape, bool) if masks.cutout is None else masks.cutout.to_array()
    after = np.zeros(shape, bool)
    if masks.repaired is not None:
        part = masks.repaired.mask.to_array()
        x, y, z = masks.repaired.lower_vx
        after[x : x + part.shape[0], y : y + part.shape[1], z : z + part.shape[2]] = part
    return before, after
