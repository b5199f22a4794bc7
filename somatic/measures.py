"""Volume, area and centre of closed meshes."""

from dataclasses import dataclass

import numpy as np
import trimesh

from somatic.errors import DegenerateMesh
from somatic.features import Row
from somatic.geometry.compiled import compiled

# Volume over area^1.5, which is 0.09 for a sphere: below this a volume is rounding.
_FLAT = 1e-9


@dataclass(frozen=True)
class Measures:
    """Volume (um^3), area (um^2), area to volume (1 for a sphere) and centre of mass, (3,) nm, of a closed mesh."""

    volume_um3: float
    area_um2: float
    area_to_volume: float
    centre_nm: np.ndarray

    @classmethod
    def of(cls, *, volume_nm3: float, area_nm2: float, centre_nm: np.ndarray) -> "Measures":
        """From a volume, an area and a centre in nm."""
        radius_nm = np.cbrt(3 * abs(volume_nm3) / (4 * np.pi))
        ratio = float(area_nm2 / volume_nm3 * radius_nm / 3)
        return cls(volume_nm3 / 1e9, area_nm2 / 1e6, ratio, centre_nm)


def measure(mesh: trimesh.Trimesh, name: str = "mesh") -> Measures:
    """Measure a closed mesh with vertices in nm; for an open one volume and centre mean nothing.

    Parameters
    ----------
    mesh : trimesh.Trimesh
    name : str
        What it is called in an error.

    Raises
    ------
    DegenerateMesh
        The mesh is flat: it has no volume, and no centre.
    """
    # Far from the origin the sums of a volume lose digits, so measure as if it stood there.
    anchor = mesh.vertices.mean(axis=0)
    volume, area, moment = integrals(mesh.vertices - anchor, mesh.faces.view(np.ndarray))
    if not abs(volume) > _FLAT * area**1.5:
        raise DegenerateMesh(f"the {name} is flat: {len(mesh.faces)} faces enclose no volume")
    return Measures.of(volume_nm3=volume, area_nm2=area, centre_nm=moment / volume + anchor)


def soma_columns(measures: Measures) -> Row:
    """The columns of a soma's size and place."""
    return {
        "soma_volume_um": measures.volume_um3,
        "soma_area_um": measures.area_um2,
        "soma_area_to_volume_ratio": measures.area_to_volume,
        **point_columns("soma_center", measures.centre_nm),
    }


def nucleus_columns(measures: Measures) -> Row:
    """The columns of a nucleus's size and place."""
    return {
        "nucleus_volume_um": measures.volume_um3,
        "nucleus_area_um": measures.area_um2,
        "nuclear_area_to_volume_ratio": measures.area_to_volume,
        **point_columns("nucleus_center", measures.centre_nm),
    }


def point_columns(name: str, point_nm: np.ndarray) -> Row:
    """The columns of a point, (3,) in nm."""
    return {f"{name}_{axis}_nm": float(value) for axis, value in zip("xyz", point_nm, strict=True)}


@compiled
def integrals(vertices, faces):
    """Volume, area and first moment of a closed mesh, from one tetrahedron to the origin for each face."""
    volume = area = 0.0
    moment = np.zeros(3)
    for face in faces:
        p, q, r = vertices[face[0]], vertices[face[1]], vertices[face[2]]
        ax, ay, az = q[0] - p[0], q[1] - p[1], q[2] - p[2]
        bx, by, bz = r[0] - p[0], r[1] - p[1], r[2] - p[2]
        x, y, z = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        area += 0.5 * np.sqrt(x * x + y * y + z * z)
        tetrahedron = (p[0] * x + p[1] * y + p[2] * z) / 6.0
        volume += tetrahedron
        for axis in range(3):
            moment[axis] += 0.25 * tetrahedron * (p[axis] + q[axis] + r[axis])
    return volume, area, moment
