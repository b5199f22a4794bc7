"""What lies where in the phantom volume: its cells, the awkward ones among them, its gaps.

Lengths are in um from the lower corner of the volume unless a name says otherwise.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Role = Literal[
    "ordinary",
    "edge",
    "merged",
    "no mesh",
    "not in segmentation",
    "no root",
    "root 0",
    "root 1",
    "re-rooted",
    "moved",
    "new",
]
"""What is special about a nucleus.

edge : the volume's face cuts the soma, the box sticks out
merged : two somata under one root in version 1, under two in version 2
no mesh : nothing in the mesh layer of the nuclei
not in segmentation : the tables name a root that has no voxel; its own voxels carry another one
no root, root 0, root 1 : the row has no root, written as NA, 0 and 1; its voxels are unlabelled
re-rooted : the same voxels, another root id in version 2
moved : the nucleus point lies elsewhere in version 2
new : the row is there in version 2 only; the voxels are in both
"""

WITHOUT_ROOT: tuple[Role, ...] = ("no root", "root 0", "root 1")

VOXEL_SIZE_NM = (128, 128, 80)
TABLE_RESOLUTION_NM = (4, 4, 40)
VOXEL_OFFSET = (1041, -213, 705)
EXTENT_UM = (56.0, 56.0, 45.0)
VERSIONS = (1, 2)


@dataclass(frozen=True)
class CellPlan:
    """A soma and its nucleus before chance shapes them.

    A radius of soma of 0 stands for a nucleus whose cell is not segmented, as in a vessel's wall.
    """

    role: Role
    centre_um: tuple[float, float, float]
    soma_radius_um: float
    nucleus_radius_um: float
    n_grooves: int
    n_dendrites: int


CELLS = (
    CellPlan("ordinary", (18.0, 18.0, 16.0), 5.6, 3.8, 2, 5),
    CellPlan("ordinary", (37.0, 20.0, 17.0), 6.0, 4.1, 1, 4),
    CellPlan("re-rooted", (26.0, 37.0, 15.5), 5.2, 3.6, 3, 4),
    CellPlan("ordinary", (20.0, 30.5, 29.5), 5.8, 3.9, 1, 5),
    CellPlan("ordinary", (38.0, 36.0, 28.0), 6.6, 4.5, 4, 5),
    CellPlan("moved", (30.0, 17.0, 32.0), 5.0, 3.4, 2, 4),
    CellPlan("merged", (44.0, 47.0, 12.0), 5.0, 3.4, 1, 3),
    CellPlan("merged", (49.9, 41.5, 14.8), 4.8, 3.2, 2, 3),
    CellPlan("edge", (4.6, 34.0, 17.0), 6.0, 3.4, 2, 3),
    CellPlan("no root", (10.0, 50.0, 35.0), 4.6, 3.1, 1, 0),
    CellPlan("no mesh", (48.0, 10.0, 35.0), 5.4, 3.7, 1, 4),
    CellPlan("not in segmentation", (26.0, 49.0, 36.0), 5.2, 3.5, 2, 4),
    CellPlan("new", (50.0, 28.0, 36.5), 5.0, 3.5, 3, 4),
    CellPlan("ordinary", (9.0, 9.0, 36.0), 5.5, 3.7, 0, 4),
    CellPlan("root 0", (12.6, 12.0, 6.4), 0.0, 1.7, 0, 0),
    CellPlan("root 1", (10.0, 42.0, 9.2), 0.0, 1.6, 0, 0),
)

VESSEL_UM = ((10.0, -2.0, 5.5), (9.6, 14.0, 6.2), (10.6, 30.0, 5.6), (10.4, 44.0, 6.4), (12.0, 58.0, 6.0))
VESSEL_RADIUS_UM = 2.3
VESSEL_WALL_UM = 0.4

HOLES_UM = ((31.0, 8.0, 24.0, 1.2), (33.0, 29.0, 8.0, 0.9), (13.0, 40.0, 26.0, 1.4), (40.0, 52.0, 36.0, 1.1))
"""Unlabelled balls: x, y, z, radius."""

MISSING_SECTIONS_UM = ((20.8, 1.0), (22.4, 1.0), (22.48, 1.0), (10.4, 0.5), (18.8, 0.5), (40.0, 0.5))
"""Sections without labels: z, share of the labels that are gone."""


def cells_within(extent_um: tuple[float, float, float]) -> list[int]:
    """Cells whose nuclei lie wholly inside a volume, as indices into `CELLS`.

    Two merged cells are both in or both out.

    Parameters
    ----------
    extent_um : tuple of 3 float
        Size of the volume.

    Returns
    -------
    list of int
    """

    def inside(cell: CellPlan) -> bool:
        reach_um = 1.25 * cell.nucleus_radius_um
        if cell.soma_radius_um == 0:
            reach_um = 2.2 * cell.nucleus_radius_um
        return all(c + reach_um < size for c, size in zip(cell.centre_um, extent_um, strict=True))

    merged_in = all(inside(cell) for cell in CELLS if cell.role == "merged")
    return [i for i, cell in enumerate(CELLS) if inside(cell) and (cell.role != "merged" or merged_in)]


def to_table_voxels(position_um: NDArray[np.floating]) -> NDArray[np.int64]:
    """Positions in the volume as voxels of the tables.

    Parameters
    ----------
    position_um : (..., 3) float
        From the lower corner of the volume.

    Returns
    -------
    (..., 3) int64
        Rounded.
    """
    position_nm = position_um * 1000 + np.array(VOXEL_OFFSET) * VOXEL_SIZE_NM
    return np.round(position_nm / TABLE_RESOLUTION_NM).astype(np.int64)
