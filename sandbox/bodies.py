"""Bodies whose volume, area and folds are known without voxels."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import elliprg

Level = Callable[[NDArray, NDArray, NDArray], NDArray]
"""Of points x, y, z in nm; below 0 inside."""


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
