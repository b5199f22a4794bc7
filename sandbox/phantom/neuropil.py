"""Dense neurites without end: a periodic tile of packed tubes, laid out over any volume.

A neurite that leaves the tile on one side goes on in the next copy of the tile, so that a label is one
connected neurite however many copies it runs through. A smooth warp hides that the copies are alike.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter1d
from scipy.spatial import cKDTree

TILE_UM = 16.0
N_NEURITES = 340
N_STEPS = 200
STEP_UM = 0.25
UNLABELLED_SHARE = 0.035
"""Of the neuropil: the space farthest from any neurite's core."""

MAX_COPY = 4
"""Farthest copy of the tile, along an axis, that a volume or a neurite may reach from the first one."""

_COPIES = 16  # along an axis that keys can tell apart: from -(MAX_COPY + 2) to 2 * MAX_COPY + 1
N_KEYS = N_NEURITES * _COPIES**3
_GAP = -(2**30)  # stays below 0 whatever copy is added


@dataclass(frozen=True)
class Neuropil:
    """A tile of neurites and the warp that it is seen through.

    Attributes
    ----------
    tile : (nx, ny, nz) int32
        What each voxel of the tile adds to a neurite's key; far below zero where there is no neurite.
    voxel_um : (3,) float
    waves : (3, n, 4) float
        For each axis: amplitude, two wave numbers along the other axes (1/um), phase.
    """

    tile: NDArray[np.int32]
    voxel_um: NDArray[np.float64]
    waves: NDArray[np.float64]

    def keys(self, x_um: NDArray, y_um: NDArray, z_um: NDArray) -> NDArray[np.int32]:
        """Neurite at every point of a grid.

        Parameters
        ----------
        x_um, y_um, z_um : (nx,), (ny,), (nz,) float32
            Coordinates of the grid.

        Returns
        -------
        (nx, ny, nz) int32, Fortran order
            0 to `N_KEYS` - 1, or a negative number in the gaps between neurites.
        """
        found = np.empty((len(x_um), len(y_um), len(z_um)), np.int32, order="F")
        shift_z = self._shift(2, x_um[:, None], y_um[None, :])
        tile = self.tile.ravel()
        for k, z in enumerate(z_um.tolist()):
            at_um = (
                x_um[:, None] + self._shift(0, y_um, z)[None, :],
                y_um[None, :] + self._shift(1, x_um, z)[:, None],
                z + shift_z,
            )
            place = key = np.int32(0)
            for axis, size in enumerate(self.tile.shape):
                voxel = np.floor(at_um[axis] / np.float32(self.voxel_um[axis])).astype(np.int32)
                copy = np.floor_divide(voxel, np.int32(size))
                place = place * np.int32(size) + (voxel - copy * np.int32(size))
                key = key * np.int32(_COPIES) + copy
            found[:, :, k] = key + tile.take(place)
        return found

    def _shift(self, axis: int, first_um: NDArray, second_um: NDArray | float) -> NDArray[np.float32]:
        total = sum(
            amplitude * np.sin(2 * np.pi * (first * first_um + second * second_um + phase))
            for amplitude, first, second, phase in self.waves[axis].tolist()
        )
        return np.asarray(total, np.float32)


def make_neuropil(rng: np.random.Generator, voxel_um: NDArray[np.float64]) -> Neuropil:
    """Grow neurites in a periodic tile until they fill it.

    Parameters
    ----------
    rng : numpy.random.Generator
    voxel_um : (3,) float
        Size of a voxel; the tile must hold a whole number of them along each axis.

    Returns
    -------
    Neuropil
    """
    radius_um = _radii(rng)
    path_um = _pack(_paths(rng), radius_um)
    copy = np.floor(path_um / TILE_UM).astype(np.int64)
    voxel = np.floor((path_um - copy * TILE_UM) / voxel_um).astype(np.int64)
    if np.abs(copy).max() > MAX_COPY:
        raise ValueError("a neurite runs through more copies of the tile than its key can count")
    # A point that is n copies away from where its neurite starts belongs, seen in copy c, to the neurite
    # that starts in copy c - n.
    key = np.repeat(np.arange(N_NEURITES), N_STEPS)
    for axis in range(3):
        key = key * _COPIES + MAX_COPY + 2 - copy[:, axis]
    shape = np.round(TILE_UM / voxel_um).astype(int)
    tile = _fill(voxel, radius_um, key.astype(np.int32), shape, voxel_um)
    return Neuropil(tile, voxel_um, _waves(rng))


def _paths(rng: np.random.Generator) -> NDArray[np.float64]:
    start_um = rng.random((N_NEURITES, 1, 3)) * TILE_UM
    turn = gaussian_filter1d(rng.normal(size=(N_NEURITES, N_STEPS, 3)), 6, axis=1)
    direction = rng.normal(size=(N_NEURITES, 1, 3))
    direction /= np.linalg.norm(direction, axis=2, keepdims=True)
    direction = direction + 0.13 * np.cumsum(turn, axis=1)
    direction /= np.linalg.norm(direction, axis=2, keepdims=True)
    return (start_um + np.cumsum(direction * STEP_UM, axis=1)).reshape(-1, 3)


def _radii(rng: np.random.Generator) -> NDArray[np.float64]:
    """Thin and thick neurites, with boutons."""
    thickness_um = np.clip(rng.lognormal(np.log(0.22), 0.4, (N_NEURITES, 1)), 0.12, 0.7)
    along_um = np.arange(N_STEPS) * STEP_UM / rng.uniform(0.5, 1.2, (N_NEURITES, 1))
    bouton = np.clip(np.sin(along_um + rng.uniform(0, 2 * np.pi, (N_NEURITES, 1))), 0, 1) ** 4
    return (thickness_um * (1 + 0.6 * bouton)).ravel()


def _pack(path_um: NDArray[np.float64], radius_um: NDArray[np.float64]) -> NDArray[np.float64]:
    """Push neurites that overlap apart, so that they share the tile evenly."""
    neurite = np.repeat(np.arange(N_NEURITES), N_STEPS)
    for _ in range(3):
        tree = cKDTree(path_um % TILE_UM, boxsize=TILE_UM)
        a, b = tree.query_pairs(0.7, output_type="ndarray").T
        apart = (path_um[a] - path_um[b] + TILE_UM / 2) % TILE_UM - TILE_UM / 2
        distance = np.sqrt(np.einsum("ij,ij->i", apart, apart)) + 1e-6
        overlap = radius_um[a] + radius_um[b] - distance
        touching = (overlap > 0) & (neurite[a] != neurite[b])
        a, b = a[touching], b[touching]
        push = apart[touching] * (0.35 * overlap / distance)[touching, None]
        moved = [np.bincount(a, p, len(path_um)) - np.bincount(b, p, len(path_um)) for p in push.T]
        smooth = np.clip(np.stack(moved, axis=-1), -0.3, 0.3).reshape(N_NEURITES, N_STEPS, 3)
        path_um = path_um + gaussian_filter1d(smooth, 2, axis=1).reshape(-1, 3)
    return path_um


def _fill(
    voxel: NDArray[np.int64],
    radius_um: NDArray[np.float64],
    key: NDArray[np.int32],
    shape: NDArray[np.int64],
    voxel_um: NDArray[np.float64],
) -> NDArray[np.int32]:
    """Paint a core round every point, then give each voxel to the core whose surface is nearest."""
    core = np.full(shape, _GAP, np.int32)
    grain_um = 0.05
    core_class = np.maximum(np.round((radius_um - 0.12) / grain_um), 1).astype(int)
    for k in np.unique(core_class):
        of_class = np.flatnonzero(core_class == k)
        ball = _ball(k * grain_um, voxel_um)
        at = voxel[of_class, None, :] + ball[None]
        wrapped = np.floor_divide(at, shape)
        x, y, z = np.moveaxis(at - wrapped * shape, -1, 0)
        core[x, y, z] = key[of_class, None] - _copies_along(wrapped)
    margin = np.ceil(0.9 / voxel_um).astype(int)
    grid = np.ogrid[tuple(slice(-m, n + m) for m, n in zip(margin, shape, strict=True))]
    wide = core[np.ix_(*(axis.ravel() % n for axis, n in zip(grid, shape, strict=True)))]
    beyond = np.stack(np.broadcast_arrays(*(axis // n for axis, n in zip(grid, shape, strict=True))), axis=-1)
    wide = np.where(wide == _GAP, _GAP, wide + _copies_along(beyond))
    distance_um, nearest = distance_transform_edt(wide == _GAP, sampling=voxel_um, return_indices=True)
    inner = tuple(slice(m, -m) for m in margin)
    distance_um = distance_um[inner]
    tile = wide[tuple(axis[inner] for axis in nearest)]
    tile[distance_um > np.quantile(distance_um, 1 - UNLABELLED_SHARE)] = _GAP
    return np.ascontiguousarray(tile, np.int32)


def _copies_along(copies: NDArray[np.int64]) -> NDArray[np.int32]:
    """Change of a key over a number of tiles along each axis."""
    return (copies @ np.array([_COPIES**2, _COPIES, 1])).astype(np.int32)


def _ball(radius_um: float, voxel_um: NDArray[np.float64]) -> NDArray[np.int64]:
    reach = np.ceil(radius_um / voxel_um).astype(int)
    offset = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1)
    offset = offset.reshape(-1, 3)
    return offset[((offset * voxel_um) ** 2).sum(axis=1) <= radius_um**2]


def _waves(rng: np.random.Generator) -> NDArray[np.float64]:
    n = 3
    waves = np.empty((3, n, 4))
    waves[..., 0] = rng.uniform(0.3, 0.7, (3, n))
    waves[..., 1:3] = rng.choice([-1, 1], (3, n, 2)) / rng.uniform(16, 30, (3, n, 2))
    waves[..., 3] = rng.random((3, n))
    return waves
