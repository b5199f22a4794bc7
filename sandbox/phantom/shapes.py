"""Bodies as levels: below 0 inside, above 0 outside, close to a distance in um near the surface."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Blob:
    """An ellipsoid with low, wide bumps; every ray from its centre meets its surface once.

    Attributes
    ----------
    centre_um : (3,) float
    frame : (3, 3) float
        Rows are the axes of the ellipsoid.
    axes : (3,) float
        Lengths of the axes, relative.
    radius_um : float
    bumps : (n, 3) float
        Directions of the bumps, unit vectors in the ellipsoid's frame.
    heights : (n,) float
        Of the bumps, as a share of the radius.
    """

    centre_um: Floats
    frame: Floats
    axes: Floats
    radius_um: float
    bumps: Floats
    heights: Floats

    def level(self, x_um: Floats, y_um: Floats, z_um: Floats) -> Floats:
        """Level at points given as coordinate arrays that broadcast against each other."""
        rows = (self.frame / self.axes[:, None]).tolist()
        x, y, z = (c - float(m) for c, m in zip((x_um, y_um, z_um), self.centre_um, strict=True))
        q = [a * x + b * y + c * z for a, b, c in rows]
        length = np.sqrt(q[0] ** 2 + q[1] ** 2 + q[2] ** 2) + 1e-6
        return length - self._radius(*(c / length for c in q))

    def surface(self, direction: Floats) -> Floats:
        """Points of the surface, (n, 3) um, in (n, 3) unit directions of the ellipsoid's frame."""
        radius_um = self._radius(*direction.T)
        return self.centre_um + (direction * radius_um[:, None] * self.axes) @ self.frame

    def normal(self, point_um: Floats) -> Floats:
        """Outward unit normals, (n, 3), at (n, 3) points near the surface."""
        step_um = 0.02
        slope = [self.level(*(point_um + step).T) - self.level(*(point_um - step).T) for step in step_um * np.eye(3)]
        normal = np.stack(slope, axis=-1)
        return normal / np.linalg.norm(normal, axis=1, keepdims=True)

    def reach_um(self) -> float:
        """Radius of a ball round the centre that holds the body."""
        return float(self.radius_um * self.axes.max() * (1 + np.clip(self.heights, 0, None).sum()))

    def _radius(self, x: Floats, y: Floats, z: Floats) -> Floats:
        total: Floats = np.ones((), np.asarray(x).dtype)
        for (a, b, c), height in zip(self.bumps.tolist(), self.heights.tolist(), strict=True):
            total = total + height * np.exp(3.0 * (a * x + b * y + c * z - 1.0))
        return self.radius_um * total


@dataclass(frozen=True)
class Groove:
    """A bent slit that runs into a nucleus from its surface and ends on its inside.

    Attributes
    ----------
    centre_um : (3,) float
        Centre of the nucleus.
    frame : (3, 3) float
        Rows: along the slit, outwards, across it.
    radius_um : float
        Of the nucleus.
    depth_um, half_width_um, bend_per_um : float
    """

    centre_um: Floats
    frame: Floats
    radius_um: float
    depth_um: float
    half_width_um: float
    bend_per_um: float

    def level(self, x_um: Floats, y_um: Floats, z_um: Floats) -> Floats:
        """Level at points given as coordinate arrays that broadcast against each other."""
        x, y, z = (c - float(m) for c, m in zip((x_um, y_um, z_um), self.centre_um, strict=True))
        along, out, across = (a * x + b * y + c * z for a, b, c in self.frame.tolist())
        surface_um = np.sqrt(np.clip(self.radius_um**2 - along**2, 0, None))
        floor_um = surface_um - self.depth_um * (1 - (along / (0.9 * self.radius_um)) ** 2)
        wall = np.abs(across - self.bend_per_um * along**2) - self.half_width_um
        return np.maximum(wall, floor_um - out)


@dataclass(frozen=True)
class Tube:
    """A chain of tapered rods.

    Attributes
    ----------
    points_um : (n, 3) float
    radii_um : (n,) float
    """

    points_um: Floats
    radii_um: Floats


def rod_level(
    x_um: Floats, y_um: Floats, z_um: Floats, start_um: Floats, end_um: Floats, radii_um: tuple[float, float]
) -> Floats:
    """Level of a rod with round ends whose radius runs evenly from one value to the other."""
    ax, ay, az = (end_um - start_um).tolist()
    x, y, z = (c - float(s) for c, s in zip((x_um, y_um, z_um), start_um, strict=True))
    along = np.clip((x * ax + y * ay + z * az) / (ax * ax + ay * ay + az * az), 0, 1)
    distance = np.sqrt((x - along * ax) ** 2 + (y - along * ay) ** 2 + (z - along * az) ** 2)
    return distance - (radii_um[0] + along * (radii_um[1] - radii_um[0]))


def random_frame(rng: np.random.Generator) -> Floats:
    """A right-handed frame of three unit vectors in any direction, as rows."""
    frame, triangle = np.linalg.qr(rng.normal(size=(3, 3)))
    frame = frame * np.sign(np.diag(triangle))
    frame[2] *= np.sign(np.linalg.det(frame))
    return frame


def random_directions(rng: np.random.Generator, n: int) -> Floats:
    """Unit vectors, (n, 3), evenly over the sphere."""
    direction = rng.normal(size=(n, 3))
    return direction / np.linalg.norm(direction, axis=1, keepdims=True)


def random_blob(rng: np.random.Generator, centre_um: Floats, radius_um: float, bump: float) -> Blob:
    """A blob with chance axes, and bumps and dents up to a share `bump` of its radius."""
    heights = rng.uniform(-bump, bump, 6)
    return Blob(
        centre_um=np.asarray(centre_um, float),
        frame=random_frame(rng),
        axes=rng.uniform(0.86, 1.14, 3),
        radius_um=radius_um,
        bumps=random_directions(rng, 6),
        heights=heights,
    )
