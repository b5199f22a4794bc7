"""What `somatic.workers.ready_published` has, with the loops of the corrected definitions compiled too."""

import numpy as np
import pandas as pd
import trimesh

from somatic.corrected import fold_columns, measure_nucleus, on_soma, repair, soma_surface
from somatic.cutout import Cutout
from somatic.geometry.bitmask import BitMask
from somatic.geometry.box import Box
from somatic.soma import Place
from somatic.tables import Synapses, synapses_from_raw
from somatic.workers.ready_published import CellMeasurer, keep_for_good

__all__ = ["CellMeasurer"]

_SIDE_VX = 24


def _compile_loops() -> None:
    """Measure a ball with a ball in it."""
    box = Box(np.zeros(3, dtype=np.int64), np.full(3, _SIDE_VX))
    x, y, z = np.indices(box.shape) - _SIDE_VX // 2
    squared = x**2 + y**2 + z**2
    mask, unlabelled = BitMask.of(squared < 100), BitMask.of(squared == 100)
    voxel_nm, centre_nm = np.full(3, 100.0), np.full(3, 50.0 * _SIDE_VX)
    nucleus = trimesh.creation.icosphere(2, 700.0).apply_translation(centre_nm)
    surface, _ = measure_nucleus(nucleus, voxel_nm)
    fold_columns(surface)
    place = Place(box, voxel_nm, centre_nm, 50.0 * _SIDE_VX)
    mesh, _ = soma_surface(repair(Cutout(mask, box, unlabelled.count(), unlabelled), place, nucleus), place)
    on_soma(_one_synapse(centre_nm), mesh)


def _one_synapse(at_nm: np.ndarray) -> Synapses:
    raw = pd.DataFrame({"id": [1], "pre_pt_root_id": [2], "post_pt_root_id": [3], "ctr_pt_position": [list(at_nm)]})
    return synapses_from_raw(raw, resolution_nm=(1, 1, 1), where="one synapse")


_compile_loops()
keep_for_good()
