"""Bodies in voxels whose volume and area are known."""

import numpy as np
from scipy.special import elliprg

LABEL, NEIGHBOUR, UNLABELLED = 2**60 + 1, 7, 0


def turned(seed: int) -> np.ndarray:
    """A random rotation, (3, 3)."""
    rotation, triangle = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
    rotation = rotation * np.sign(np.diag(triangle))
    return rotation * np.linalg.det(rotation)


def ellipsoid_voxels(
    axes_nm: np.ndarray, resolution_nm: np.ndarray, seed: int = 0, margin_nm: float = 400.0
) -> tuple[np.ndarray, np.ndarray]:
    """A turned ellipsoid with these semi-axes, as (nx, ny, nz) bool, and its centre in nm; voxel i is from i to i + 1.

    The centre is no special place of a voxel.
    """
    axes_nm, resolution_nm = np.asarray(axes_nm, float), np.asarray(resolution_nm, float)
    half_nm = axes_nm.max() + margin_nm
    centre_nm = half_nm + np.random.default_rng(seed).uniform(0, 1, 3) * resolution_nm
    shape = np.ceil((2 * half_nm + resolution_nm) / resolution_nm).astype(int)
    middles = [(np.arange(n) + 0.5) * size for n, size in zip(shape, resolution_nm, strict=True)]
    x, y, z = np.meshgrid(*[m - c for m, c in zip(middles, centre_nm, strict=True)], indexing="ij", sparse=True)
    within = sum(((r[0] * x + r[1] * y + r[2] * z) / a) ** 2 for r, a in zip(turned(seed), axes_nm, strict=True))
    return within < 1, centre_nm


def ellipsoid_volume_um3(axes_nm: np.ndarray) -> float:
    """Volume of an ellipsoid with these semi-axes."""
    return float(4 / 3 * np.pi * np.prod(axes_nm)) / 1e9


def ellipsoid_area_um2(axes_nm: np.ndarray) -> float:
    """Area of an ellipsoid with these semi-axes, by Carlson's integral (DLMF 19.33.1)."""
    a, b, c = np.asarray(axes_nm, float)
    return float(4 * np.pi * a * b * c * elliprg(1 / a**2, 1 / b**2, 1 / c**2)) / 1e6
