"""The phantom volume: which object every voxel belongs to, a few sections at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from sandbox.phantom.cells import Cell, NucleusMask, make_cells, nucleus_mask
from sandbox.phantom.layout import (
    CELLS,
    HOLES_UM,
    MISSING_SECTIONS_UM,
    VESSEL_RADIUS_UM,
    VESSEL_UM,
    VESSEL_WALL_UM,
    VOXEL_SIZE_NM,
    cells_within,
)
from sandbox.phantom.neuropil import MAX_COPY, N_KEYS, TILE_UM, make_neuropil
from sandbox.phantom.shapes import Floats, Tube, rod_level

RIM_UM = 0.07
"""Unlabelled space outside the membrane of a cell."""

UNLABELLED = 0
FIRST_CELL = 1
VESSEL_WALL = FIRST_CELL + len(CELLS)
FIRST_NEURITE = VESSEL_WALL + 1
N_OBJECTS = FIRST_NEURITE + N_KEYS
"""Objects are numbered: 0 nothing, then the cells of the layout in order, the wall, the neurites."""


@dataclass(frozen=True)
class _Body:
    """An object, or a part of one, and the box of voxels that holds it and its rim."""

    owner: int
    lower_vx: NDArray[np.int64]
    upper_vx: NDArray[np.int64]
    level: Callable[..., Floats]


class Phantom:
    """Tissue made up from a seed.

    Parameters
    ----------
    seed : int
    extent_um : tuple of 3 float
        Size of the volume, at most 58 um along an axis.

    Attributes
    ----------
    shape : (3,) int64
        Size in voxels.
    voxel_um : (3,) float
    cells : dict of int to Cell
        By index into `CELLS`; those whose nuclei lie inside the volume.

    Raises
    ------
    ValueError
        The volume is larger than the neuropil can be laid out over, or too small for any nucleus.
    """

    def __init__(self, seed: int, extent_um: tuple[float, float, float]) -> None:
        if max(extent_um) > MAX_COPY * TILE_UM - 6:
            raise ValueError(f"a phantom is at most {MAX_COPY * TILE_UM - 6:.0f} um long, asked {extent_um} um")
        self.voxel_um = np.array(VOXEL_SIZE_NM) / 1000
        self.shape = np.round(np.array(extent_um) / self.voxel_um).astype(np.int64)
        chosen = cells_within(extent_um)
        if not chosen:
            raise ValueError(f"no nucleus fits into a phantom of {extent_um} um: the smallest is about 17 um long")
        vessel = _vessel()
        wall = Tube(vessel.points_um, vessel.radii_um + VESSEL_WALL_UM)
        self.cells = make_cells(seed, chosen, [wall])
        self._neuropil = make_neuropil(np.random.default_rng([seed, 3]), self.voxel_um)
        self._missing = {round(z / self.voxel_um[2]): share for z, share in MISSING_SECTIONS_UM}
        self._bodies = [
            _Body(
                owner,
                np.floor((np.min(corners, axis=0) - RIM_UM) / self.voxel_um).astype(np.int64),
                np.ceil((np.max(corners, axis=0) + RIM_UM) / self.voxel_um).astype(np.int64),
                level,
            )
            for owner, corners, level in _bodies(self.cells, vessel)
        ]

    def nuclei(self) -> dict[int, NucleusMask]:
        """Voxels of every nucleus, by index into `CELLS`."""
        return {i: nucleus_mask(cell, self.voxel_um, self.shape) for i, cell in self.cells.items()}

    def objects(self, z_start: int, z_stop: int) -> NDArray[np.uint32]:
        """Object of every voxel of some sections.

        Parameters
        ----------
        z_start, z_stop : int
            Sections, counted from the lower face of the volume.

        Returns
        -------
        (nx, ny, z_stop - z_start) uint32, Fortran order
        """
        lower = np.array([0, 0, z_start])
        upper = np.array([*self.shape[:2], z_stop])
        key = self._neuropil.keys(*self._middles(lower, upper))
        found = np.where(key < 0, UNLABELLED, key + FIRST_NEURITE).astype(np.uint32)
        self._paint(found, lower, upper)
        for z, share in self._missing.items():
            if z_start <= z < z_stop:
                section = found[:, :, z - z_start]
                section[_falls_out(section, share)] = UNLABELLED
        return found

    def _paint(self, found: NDArray[np.uint32], lower: NDArray, upper: NDArray) -> None:
        """Lay the bodies over the neuropil; where two overlap, the one that is deeper there wins."""
        deepest = np.full(found.shape, np.inf, np.float32, order="F")
        for body in self._bodies:
            first, last = np.maximum(body.lower_vx, lower), np.minimum(body.upper_vx, upper)
            if (first >= last).any():
                continue
            box = tuple(slice(a, b) for a, b in zip(first - lower, last - lower, strict=True))
            level = body.level(*np.ix_(*self._middles(first, last)))
            wins = level < np.minimum(deepest[box], RIM_UM)
            deepest[box][wins] = level[wins]
            found[box][wins] = np.where(level[wins] <= 0, body.owner, UNLABELLED)

    def _middles(self, lower: NDArray, upper: NDArray) -> list[NDArray[np.float32]]:
        """Middles of the voxels from one corner to another along each axis, um."""
        spans = zip(lower, upper, self.voxel_um, strict=True)
        return [((np.arange(a, b) + 0.5) * size).astype(np.float32) for a, b, size in spans]


def _bodies(cells: dict[int, Cell], vessel: Tube) -> Iterator[tuple[int, Floats, Callable[..., Floats]]]:
    """Owner, two or more corners of a box that holds it (um), level of every body."""
    for owner, level_of in ((UNLABELLED, rod_level), (VESSEL_WALL, _wall_level)):
        yield from _rods(owner, vessel, level_of, VESSEL_WALL_UM)
    for x, y, z, radius_um in HOLES_UM:
        centre_um = np.array([x, y, z])
        corners = centre_um + radius_um * np.array([[-1], [1]])
        yield UNLABELLED, corners, partial(_ball_level, centre_um=centre_um, radius_um=radius_um)
    for i, cell in cells.items():
        blob = cell.nucleus if cell.soma is None else cell.soma
        corners = blob.centre_um + blob.reach_um() * np.array([[-1], [1]])
        yield FIRST_CELL + i, corners, blob.level
        for dendrite in cell.dendrites:
            yield from _rods(FIRST_CELL + i, dendrite, rod_level, 0.0)


def _rods(
    owner: int, tube: Tube, level_of: Callable[..., Floats], margin_um: float
) -> Iterator[tuple[int, Floats, Callable[..., Floats]]]:
    ends_um = zip(tube.points_um, tube.points_um[1:], tube.radii_um, tube.radii_um[1:], strict=False)
    for start_um, end_um, first_um, last_um in ends_um:
        reach_um = max(first_um, last_um) + margin_um
        corners = np.concatenate([end + reach_um * np.array([[-1], [1]]) for end in (start_um, end_um)])
        radii_um = (float(first_um), float(last_um))
        yield owner, corners, partial(level_of, start_um=start_um, end_um=end_um, radii_um=radii_um)


def _wall_level(x_um: Floats, y_um: Floats, z_um: Floats, **rod: Any) -> Floats:
    half_um = VESSEL_WALL_UM / 2
    return np.abs(rod_level(x_um, y_um, z_um, **rod) - half_um) - half_um


def _ball_level(x_um: Floats, y_um: Floats, z_um: Floats, centre_um: Floats, radius_um: float) -> Floats:
    x, y, z = (c - float(m) for c, m in zip((x_um, y_um, z_um), centre_um, strict=True))
    return np.sqrt(x**2 + y**2 + z**2) - radius_um


def _vessel() -> Tube:
    along = np.linspace(0, len(VESSEL_UM) - 1, 50)
    points_um = CubicSpline(np.arange(len(VESSEL_UM)), np.array(VESSEL_UM))(along)
    return Tube(points_um, VESSEL_RADIUS_UM * (1 + 0.1 * np.sin(2 * along)))


def _falls_out(section: NDArray[np.uint32], share: float) -> NDArray[np.bool_]:
    """Whether a voxel's object is among those that are gone from the section; all its voxels agree."""
    lot = (section * np.uint32(2654435761)) >> np.uint32(8)
    return lot < np.uint32(share * 2**24)
