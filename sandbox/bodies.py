"""Bodies whose volume, area and folds are known without voxels."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import elliprg

from somatic.corrected.folds import Infolding

Level = Callable[[NDArray, NDArray, NDArray], NDArray]
"""Of points x, y, z in nm; below 0 inside."""
NUCLEUS_NM = 5000.0
"""Radius of the nuclei with folds."""
# Of the envelope, as docs/definitions.md says.
_BALL_NM, _FOLDED_NM = 2000.0, 150.0


def turned(seed: int) -> NDArray:
    """A random rotation, (3, 3)."""
    rotation, triangle = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
    rotation = rotation * np.sign(np.diag(triangle))
    return rotation * np.linalg.det(rotation)


def ellipsoid(axes_nm: Sequence[float], rotation: NDArray | None = None) -> Level:
    """An ellipsoid around the origin with these semi-axes, along the rows of a rotation."""
    directions = np.eye(3) if rotation is None else rotation

    def level(x: NDArray, y: NDArray, z: NDArray) -> NDArray:
        along = (d[0] * x + d[1] * y + d[2] * z for d in directions)
        return sum((a / axis) ** 2 for a, axis in zip(along, axes_nm, strict=True)) - 1

    return level


def ellipsoid_volume_um3(axes_nm: Sequence[float]) -> float:
    """Volume of an ellipsoid with these semi-axes."""
    return float(4 / 3 * np.pi * np.prod(axes_nm)) / 1e9


def ellipsoid_area_um2(axes_nm: Sequence[float]) -> float:
    """Area of an ellipsoid with these semi-axes, by Carlson's integral (DLMF 19.33.1)."""
    a, b, c = np.asarray(axes_nm, float)
    return float(4 * np.pi * a * b * c * elliprg(1 / a**2, 1 / b**2, 1 / c**2)) / 1e6


def ball_on_rod(radius_nm: float, rod_nm: float) -> Level:
    """A ball around the origin with a rod of another radius along x that never ends."""

    def level(x: NDArray, y: NDArray, z: NDArray) -> NDArray:
        across = y**2 + z**2
        return np.minimum(x**2 + across - radius_nm**2, across - rod_nm**2)

    return level


def ball_on_rod_um(radius_nm: float, rod_nm: float, half_nm: float) -> tuple[float, float, float]:
    """Volume (um^3), area and area of both cut ends (um^2) of `ball_on_rod` between x = -half_nm and half_nm."""
    enters = np.sqrt(radius_nm**2 - rod_nm**2)
    volume = 4 / 3 * np.pi * enters**3 + 2 * np.pi * rod_nm**2 * half_nm
    area = 4 * np.pi * radius_nm * enters + 4 * np.pi * rod_nm * (half_nm - enters)
    return volume / 1e9, area / 1e6, 2 * np.pi * rod_nm**2 / 1e6


def voxels(
    level: Level, shape: Sequence[int], resolution_nm: Sequence[float], centre_nm: Sequence[float]
) -> NDArray[np.bool_]:
    """Voxels whose middle lies inside a body, (nx, ny, nz); voxel i reaches from i to i + 1 times its size."""
    middles = [(np.arange(n) + 0.5) * size - c for n, size, c in zip(shape, resolution_nm, centre_nm, strict=True)]
    return level(*np.meshgrid(*middles, indexing="ij", sparse=True)) < 0


def ellipsoid_voxels(
    axes_nm: Sequence[float], resolution_nm: Sequence[float], seed: int = 0, margin_nm: float = 400.0
) -> tuple[NDArray[np.bool_], NDArray]:
    """A turned ellipsoid in voxels, (nx, ny, nz), and its centre in nm, which is no special place of a voxel."""
    sizes = np.asarray(resolution_nm, float)
    half_nm = max(axes_nm) + margin_nm
    centre_nm = half_nm + np.random.default_rng(seed).uniform(0, 1, 3) * sizes
    shape = np.ceil((2 * half_nm + sizes) / sizes).astype(int).tolist()
    return voxels(ellipsoid(axes_nm, turned(seed)), shape, sizes.tolist(), centre_nm.tolist()), centre_nm


def evenly(curve: NDArray, n_points: int) -> NDArray:
    """Points of a curve, (n, 2), equally far apart along it."""
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    places = np.linspace(0, along[-1], n_points)
    return np.stack([np.interp(places, along, axis) for axis in curve.T], axis=1)


def revolved(outline: NDArray, n_along: int, n_round: int) -> trimesh.Trimesh:
    """Body with an outline, (n, 2) distance from the axis and height, from its top to its bottom."""
    radius, height = evenly(outline, n_along)[1:-1].T
    angle = 2 * np.pi * np.arange(n_round) / n_round
    rings = np.stack([np.outer(radius, np.cos(angle)), np.outer(radius, np.sin(angle))], axis=-1)
    rings = np.concatenate([rings, np.broadcast_to(height[:, None, None], (*rings.shape[:2], 1))], axis=-1)
    vertices = np.vstack([[0, 0, outline[0, 1]], [0, 0, outline[-1, 1]], rings.reshape(-1, 3)])
    index = 2 + np.arange(len(radius) * n_round).reshape(-1, n_round)
    faces = [np.stack([np.zeros(n_round, int), index[0], np.roll(index[0], -1)], axis=1)]
    for upper, lower in pairwise(index):
        right_upper, right_lower = np.roll(upper, -1), np.roll(lower, -1)
        faces += [np.stack([upper, lower, right_lower], 1), np.stack([upper, right_lower, right_upper], 1)]
    faces.append(np.stack([np.ones(n_round, int), np.roll(index[-1], -1), index[-1]], axis=1))
    return trimesh.Trimesh(vertices, np.vstack(faces), process=False)


def infolding_of(outline: NDArray) -> Infolding:
    """Infolding of a body of revolution, in its plane: the ball touches it in the plane of the axis and its centre.

    The centre is put over every 1 nm of the outline, and stays where the ball lies on nothing else.
    """
    half = evenly(outline, int(np.linalg.norm(np.diff(outline, axis=0), axis=1).sum()))
    around = np.vstack([half, half[-2:0:-1] * (-1, 1)])
    tangent = np.roll(around, -1, axis=0) - np.roll(around, 1, axis=0)
    outwards = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1) / np.linalg.norm(tangent, axis=1, keepdims=True)
    centres = around + _BALL_NM * outwards
    centres = centres[cKDTree(around).query(centres)[0] > _BALL_NM - 0.01]
    middle = (half[1:] + half[:-1]) / 2
    area = 2 * np.pi * middle[:, 0] * np.linalg.norm(np.diff(half, axis=0), axis=1)
    depth = cKDTree(centres).query(middle)[0] - _BALL_NM
    folded = depth > _FOLDED_NM
    order = np.argsort(depth[folded])
    share = np.cumsum(area[folded][order]) / area[folded].sum()
    return Infolding(
        area_um2=area[folded].sum() / 1e6,
        fraction=area[folded].sum() / area.sum(),
        mean_depth_nm=np.average(depth[folded], weights=area[folded]),
        depth_95_nm=depth[folded][order][np.searchsorted(share, 0.95)],
        n_folds=1,
    )


def sphere_outline(depth_nm: Callable[[NDArray], NDArray]) -> NDArray:
    """Outline of a sphere that is less high by a depth, a function of the distance from its top along the surface."""
    angle = np.linspace(0, np.pi, 100_001)
    radius = NUCLEUS_NM - depth_nm(angle * NUCLEUS_NM)
    return np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1)


def groove_outline(depth_nm: float, width_nm: float) -> NDArray:
    """Outline of a sphere with a groove all round its equator."""
    return sphere_outline(lambda along: depth_nm * np.exp(-(((along - NUCLEUS_NM * np.pi / 2) / width_nm) ** 2)))
