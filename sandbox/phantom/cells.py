"""The cells of the phantom: soma, folded nucleus, dendrites."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label

from sandbox.phantom.layout import CELLS, CellPlan
from sandbox.phantom.shapes import Blob, Floats, Groove, Tube, random_blob, random_directions, random_frame
from somatic.geometry.bitmask import BitMask
from somatic.geometry.morphology import fill_holes

STEP_UM = 0.8
CYTOPLASM_UM = 0.45
"""Least thickness of the cytoplasm between nucleus and membrane."""


@dataclass(frozen=True)
class Cell:
    """A cell with its shapes.

    Attributes
    ----------
    plan : CellPlan
    soma : Blob or None
        None where the cell is not segmented.
    nucleus : Blob
    grooves : list of Groove
    dendrites : list of Tube
        The first point of each lies inside the soma.
    """

    plan: CellPlan
    soma: Blob | None
    nucleus: Blob
    grooves: list[Groove]
    dendrites: list[Tube]

    def nucleus_level(self, x_um: Floats, y_um: Floats, z_um: Floats) -> Floats:
        """Level of the nucleus: inside its blob, outside its grooves, away from the membrane."""
        level = self.nucleus.level(x_um, y_um, z_um)
        for groove in self.grooves:
            level = np.maximum(level, -groove.level(x_um, y_um, z_um))
        if self.soma is not None:
            level = np.maximum(level, self.soma.level(x_um, y_um, z_um) + CYTOPLASM_UM)
        return level


@dataclass(frozen=True)
class NucleusMask:
    """The voxels of a nucleus.

    Attributes
    ----------
    mask : (nx, ny, nz) bool
    lower_vx : (3,) int
        Its lower corner, from the lower corner of the volume.
    """

    mask: NDArray[np.bool_]
    lower_vx: NDArray[np.int64]

    def centre_vx(self) -> NDArray[np.float64]:
        """Centre of mass; a voxel's middle lies half a voxel above its index."""
        return np.argwhere(self.mask).mean(axis=0) + self.lower_vx + 0.5


def make_cells(seed: int, chosen: list[int], obstacles: list[Tube]) -> dict[int, Cell]:
    """Shape the chosen cells of the layout and grow their dendrites round each other.

    Parameters
    ----------
    seed : int
    chosen : list of int
        Indices into `CELLS`; what else is chosen does not change a cell's soma and nucleus.
    obstacles : list of Tube
        What dendrites keep clear of besides each other and the somata.

    Returns
    -------
    dict of int to Cell
        By index into `CELLS`.
    """
    bodies = {i: _body(np.random.default_rng([seed, 1, i]), CELLS[i]) for i in chosen}
    somata = [body.soma for body in bodies.values() if body.soma is not None]
    grown = list(obstacles)
    cells = {}
    for i, body in bodies.items():
        dendrites: list[Tube] = []
        if body.soma is not None:
            rng = np.random.default_rng([seed, 2, i])
            for direction in _directions(rng, body.soma, somata, body.plan.n_dendrites):
                tube = _dendrite(rng, body.soma, direction, somata, grown, apical=not dendrites)
                dendrites.append(tube)
                grown.append(tube)
        cells[i] = Cell(body.plan, body.soma, body.nucleus, body.grooves, dendrites)
    return cells


def nucleus_mask(cell: Cell, voxel_um: NDArray[np.float64], shape: NDArray[np.int64]) -> NucleusMask:
    """Voxels whose middles lie in the nucleus: one piece, without holes inside.

    Parameters
    ----------
    cell : Cell
    voxel_um : (3,) float
    shape : (3,) int
        Voxels of the volume; the nucleus stays clear of its faces.

    Returns
    -------
    NucleusMask
        No larger than the nucleus.
    """
    reach_um = cell.nucleus.reach_um()
    lower = np.floor((cell.nucleus.centre_um - reach_um) / voxel_um).astype(np.int64)
    upper = np.ceil((cell.nucleus.centre_um + reach_um) / voxel_um).astype(np.int64)
    lower, upper = np.maximum(lower, 1), np.minimum(upper, shape - 1)
    axes = np.ogrid[tuple(slice(a, b) for a, b in zip(lower, upper, strict=True))]
    x, y, z = (((axis + 0.5) * size).astype(np.float32) for axis, size in zip(axes, voxel_um, strict=True))
    piece, _ = label(cell.nucleus_level(x, y, z) <= 0)
    largest = 1 + int(np.argmax(np.bincount(piece.ravel())[1:]))
    extent = find_objects(piece)[largest - 1]
    mask = fill_holes(BitMask.of(piece[extent] == largest)).to_array()
    return NucleusMask(mask, lower + [side.start for side in extent])


def _body(rng: np.random.Generator, plan: CellPlan) -> Cell:
    centre_um = np.array(plan.centre_um)
    if plan.soma_radius_um == 0:
        nucleus = _endothelial_nucleus(centre_um, plan.nucleus_radius_um)
        return Cell(plan, None, nucleus, [], [])
    soma = random_blob(rng, centre_um, plan.soma_radius_um, 0.2)
    off_centre_um = random_directions(rng, 1)[0] * rng.uniform(0.2, 0.6)
    nucleus = random_blob(rng, centre_um + off_centre_um, plan.nucleus_radius_um, 0.12)
    grooves = [_groove(rng, nucleus) for _ in range(plan.n_grooves)]
    return Cell(plan, soma, nucleus, grooves, [])


def _endothelial_nucleus(centre_um: Floats, radius_um: float) -> Blob:
    """Flat against the wall of a vessel along y."""
    axes = np.array([0.75, 1.9, 0.8])
    return Blob(centre_um, np.eye(3), axes, radius_um, np.zeros((0, 3)), np.zeros(0))


def _groove(rng: np.random.Generator, nucleus: Blob) -> Groove:
    return Groove(
        centre_um=nucleus.centre_um,
        frame=random_frame(rng),
        radius_um=nucleus.radius_um,
        depth_um=nucleus.radius_um * rng.uniform(0.4, 0.75),
        half_width_um=rng.uniform(0.2, 0.32),
        bend_per_um=rng.uniform(-0.08, 0.08),
    )


def _directions(rng: np.random.Generator, soma: Blob, somata: list[Blob], n: int) -> list[Floats]:
    """Where dendrites leave: the first towards the pia (-y), all apart, none straight at a neighbour."""
    apical = np.array([0.0, -1.0, 0.0]) + rng.normal(size=3) * 0.2
    chosen = [apical / np.linalg.norm(apical)]
    towards = [other.centre_um - soma.centre_um for other in somata if other is not soma]
    near = [v / np.linalg.norm(v) for v in towards if np.linalg.norm(v) < 18]
    for _ in range(n - 1):
        trial = random_directions(rng, 40)
        crowding = np.max([trial @ taken for taken in chosen + near], axis=0)
        chosen.append(trial[np.argmin(crowding)])
    return chosen[:n]


def _dendrite(
    rng: np.random.Generator,
    soma: Blob,
    direction: Floats,
    somata: list[Blob],
    obstacles: list[Tube],
    apical: bool,
) -> Tube:
    """Grow a dendrite that tapers and bends until it is well out of the cell's 30 um box."""
    thick_um, thin_um = (rng.uniform(1.5, 1.9), 0.75) if apical else (rng.uniform(0.9, 1.4), 0.4)
    hillock = 1.8
    others = [other for other in somata if other is not soma]
    centre_um = np.array([other.centre_um for other in others]).reshape(-1, 3)
    keep_um = np.array([1.12 * other.radius_um for other in others])
    around_um = np.concatenate([tube.points_um for tube in obstacles]) if obstacles else np.zeros((0, 3))
    around_radius_um = np.concatenate([tube.radii_um for tube in obstacles]) if obstacles else np.zeros(0)
    away = np.linalg.norm(around_um - soma.centre_um, axis=1) > soma.radius_um + 2
    around_um, around_radius_um = around_um[away], around_radius_um[away]

    point_um = soma.centre_um + direction * soma.radius_um * 0.6
    points_um, radii_um = [point_um], [thick_um * 1.5]
    heading = direction
    for step in range(1, 60):
        taper = np.exp(-step * STEP_UM / 7) + hillock * np.exp(-step * STEP_UM / 1.5)
        radius_um = thin_um + (thick_um - thin_um) * taper
        outwards = point_um - soma.centre_um
        push = 0.15 * outwards / np.linalg.norm(outwards) + 0.22 * rng.normal(size=3)
        push = push + _repel(point_um, centre_um, keep_um + radius_um, 2.5, 1.2)
        push = push + _repel(point_um, around_um, around_radius_um + radius_um + 0.3, 0.8, 0.7)
        heading = heading + push
        heading = heading / np.linalg.norm(heading)
        point_um = point_um + heading * STEP_UM
        points_um.append(point_um)
        radii_um.append(radius_um)
        if np.abs(point_um - soma.centre_um).max() > 18:
            break
    return Tube(np.array(points_um), np.array(radii_um))


def _repel(point_um: Floats, centre_um: Floats, keep_um: Floats, range_um: float, strength: float) -> Floats:
    """Push away from bodies nearer than a distance, the stronger the nearer."""
    apart = point_um - centre_um
    distance_um = np.linalg.norm(apart, axis=1)
    nearness = np.clip(1 - (distance_um - keep_um) / range_um, 0, 1.5)
    if not nearness.any():
        return np.zeros(3)
    nearest = np.argmax(nearness)
    return strength * nearness[nearest] * apart[nearest] / distance_um[nearest]
