"""One closed body of a mesh, whatever state it is stored in, and how far that is from what is stored."""

from dataclasses import dataclass

import numpy as np
import trimesh

from somatic.errors import DegenerateMesh, OpenNucleusMesh
from somatic.geometry.mesh import is_consistent, is_watertight
from somatic.repair.agreement import compare
from somatic.repair.bodies import Bodies, covered_faces, find_bodies
from somatic.repair.doubled import needed_faces
from somatic.repair.holes import Bounds, close_holes
from somatic.repair.pieces import areas, edges_of, turned_outwards
from somatic.repair.seams import Rims, join_rims

_SMALL_HOLE = 16
"""Holes of so many vertices are closed before wider gaps are joined."""
_LONGEST_EDGE = 0.995
"""Share of the area whose edges are shorter than the widest gap, which is that of a row of faces that is missing."""
_SEAM = 0.015
_WIDEST_SEAM = 0.04
"""At most these shares of the root of the area."""
_COVERED = 0.01
"""Share of the area from which bodies that touch or overlap are made one. Voxels that meet at an edge have less."""
_WHOLLY_COVERED = 0.95
_KNOWN = 0.2
"""Share of the lines through a mesh that have to tell something of it."""
_FLAT = 1e-9
"""Volume over area^1.5 below which a body encloses nothing but rounding; for a ball it is 0.09."""
_MOST_TURNS = 5


@dataclass(frozen=True)
class ClosedMesh:
    """A closed mesh of one body.

    Attributes
    ----------
    mesh : trimesh.Trimesh
        Facing outwards, with its cavities and what touches it; the mesh that was given where there was nothing to do.
    was_open : bool
        Whether holes or seams were closed, or doubled faces and walls taken out.
    n_bodies : int
        Bodies that do not touch, of which this is the largest.
    volume, dropped_volume : float
        Of this one, and of all others.
    deviation : float
        Largest relative difference, of volume or of area, from what was given, by each of: the bodies that were
        dropped; lines through the mesh as it was and as it is; what the surface would have beyond holes that are not
        on a side of the volume, if it were round there.
    """

    mesh: trimesh.Trimesh
    was_open: bool
    n_bodies: int
    volume: float
    dropped_volume: float
    deviation: float


def close_mesh(mesh: trimesh.Trimesh, *, gap: float = 0.0, bounds: Bounds | None = None) -> ClosedMesh:
    """Close a mesh, and keep the largest body.

    Parameters
    ----------
    mesh : trimesh.Trimesh
        Without equal vertices.
    gap : float
        Gaps of this width are closed as seams. Wider ones are where they are narrower than edges of the mesh.
    bounds : Bounds, optional
        Of the volume, at whose sides bodies are cut. Without them holes do not count as a deviation.

    Raises
    ------
    OpenNucleusMesh
        It cannot be closed, or too little of it is there to know its volume.
    DegenerateMesh
        It encloses no volume.
    """
    vertices, faces = np.asarray(mesh.vertices, dtype=float), np.asarray(mesh.faces, dtype=np.int64)
    was_open = not is_watertight(mesh)
    rows = _usable(faces) if was_open else np.arange(len(faces))
    if not len(rows):
        raise OpenNucleusMesh("the nucleus mesh has no face with an area")
    is_reversed = np.zeros(len(faces), dtype=bool)
    is_reversed[rows] = turned_outwards(vertices, faces[rows])
    stored = np.column_stack([_reversed(faces, is_reversed), np.arange(len(faces))])
    closing = _Closing(vertices, stored[rows], *_gaps(vertices, faces[rows], gap), bounds)
    if was_open:
        closing.close()
    bodies = closing.bodies(is_reversed)
    if was_joined := closing.join_bodies(bodies):
        bodies = closing.bodies(is_reversed)
    inner_volume = closing.inner_volume + bodies.volume[bodies.is_inner].sum()

    number, body = closing.faces[:, 3], bodies.of_face
    is_kept = ~(bodies.is_apart | bodies.is_inner)[body]
    in_cavity = bodies.is_cavity[body]
    kept = _reversed(closing.faces[:, :3], in_cavity)[is_kept]
    volume = float(np.where(bodies.is_cavity, -bodies.volume, bodies.volume)[~(bodies.is_apart | bodies.is_inner)].sum())
    if not volume > _FLAT * bodies.area[0] ** 1.5:
        raise DegenerateMesh(f"the nucleus mesh is flat: {len(kept)} faces enclose no volume")
    apart = bodies.is_apart
    deviations = [
        inner_volume / volume,
        bodies.volume[apart].sum() / (volume + bodies.volume[apart].sum()),
        bodies.area[apart].sum() / bodies.area.sum(),
    ]
    if bounds is not None:
        deviations.append(_beyond_holes(closing.hole_areas, bodies.area[0]))
    if was_open or was_joined:
        is_stored = np.zeros(len(faces), dtype=bool)
        is_stored[rows] = True
        is_stored[closing.covered] = False
        is_stored[number[apart[body] & (number >= 0)]] = False
        as_stored = _reversed(stored[:, :3], np.isin(stored[:, 3], number[in_cavity]))[is_stored]
        agreement = compare((vertices, as_stored), (closing.vertices, kept))
        if agreement.known < _KNOWN:
            raise OpenNucleusMesh("the nucleus mesh has holes: too little of it is there to know its volume")
        deviations += [agreement.volume, agreement.area]
    elif is_kept.all() and (kept == faces).all():
        return ClosedMesh(mesh, False, 1, volume, 0.0, float(max(deviations)))
    result = _mesh(closing.vertices, kept)
    if not is_consistent(result):
        raise OpenNucleusMesh("the nucleus mesh has holes that cannot be closed")
    n_apart = int(np.count_nonzero(bodies.volume[apart] > _FLAT * bodies.area[0] ** 1.5))
    dropped_volume = float(bodies.volume[apart].sum())
    return ClosedMesh(result, was_open or was_joined, 1 + n_apart, volume, dropped_volume, float(max(deviations)))


class _Closing:
    """A mesh on its way to be closed; `faces` are (m, 4), the last column the row in which a face is stored."""

    def __init__(
        self, vertices: np.ndarray, faces: np.ndarray, gap: float, widest: float, bounds: Bounds | None
    ) -> None:
        self.vertices, self.faces = vertices, faces
        self.hole_areas: list[float] = []
        self.inner_volume = 0.0
        self.covered = np.empty(0, dtype=np.int64)
        self._gap, self._widest, self._bounds = gap, widest, bounds

    def close(self) -> None:
        """Join seams, the narrowest first, and close the holes that are left."""
        rims = Rims(self.vertices, self.faces)
        rims.without_conflicts()
        width = self._gap
        join_rims(rims, width, narrowest=True)
        while True:
            self.hole_areas += close_holes(rims, _SMALL_HOLE, self._bounds)
            rims.without_conflicts()
            if width >= self._widest or rims.is_closed:
                break
            width = min(2 * width, self._widest)
            join_rims(rims, width, narrowest=False)
        for _ in range(_MOST_TURNS):
            if rims.is_closed:
                break
            self.hole_areas += close_holes(rims, None, self._bounds)
            rims.without_conflicts()
        self.vertices, self.faces = rims.vertices, rims.faces
        if not rims.is_closed or not len(self.faces):
            raise OpenNucleusMesh("the nucleus mesh has holes that cannot be closed")

    def bodies(self, is_reversed: np.ndarray) -> Bodies:
        """Tell bodies apart, each facing outwards; `is_reversed` says which stored faces were turned so far."""
        faces, number = self.faces[:, :3], self.faces[:, 3]
        self.faces[:, :3] = _reversed(faces, turned_outwards(self.vertices, faces))
        return find_bodies(self.vertices, self.faces[:, :3], is_reversed[number] & (number >= 0), self._gap)

    def join_bodies(self, bodies: Bodies) -> bool:
        """Make bodies that touch or overlap one, where it makes a difference; whether it did."""
        part = np.flatnonzero(~bodies.is_apart[bodies.of_face])
        body = np.where(bodies.is_cavity, 0, np.arange(len(bodies.volume)))[bodies.of_face[part]]
        if not body.any():
            return False
        faces = self.faces[part, :3]
        is_inside, is_copy = covered_faces(self.vertices, faces, body, self._gap)
        is_covered, area = is_inside | is_copy, areas(self.vertices[faces])
        if area[is_covered].sum() < _COVERED * area.sum():
            return False
        covered_area = np.bincount(body, np.where(is_covered, area, 0), minlength=len(bodies.volume))
        is_covered |= (covered_area > _WHOLLY_COVERED * np.bincount(body, area, minlength=len(bodies.volume)))[body]
        # A copy of the surface takes nothing away, but a body inside another may have been meant as a cavity.
        is_deep = np.bincount(body, np.where(is_inside, area, 0), minlength=len(bodies.volume)) > covered_area / 2
        self.inner_volume = float(bodies.volume[bodies.is_inner & is_deep].sum())
        number = self.faces[part[is_covered], 3]
        self.covered = number[number >= 0]
        others = np.delete(self.faces, part, axis=0)
        self.faces = self.faces[part[~is_covered]]
        self.close()
        self.faces = np.vstack([self.faces, others])
        return True


def _usable(faces: np.ndarray) -> np.ndarray:
    """Rows of the faces that have three corners and are not doubled."""
    a, b, c = faces.T
    rows = np.flatnonzero((a != b) & (b != c) & (c != a))
    return rows[needed_faces(faces[rows])] if len(rows) else rows


def _gaps(vertices: np.ndarray, faces: np.ndarray, gap: float) -> tuple[float, float]:
    """Width of gaps that are seams, at least an edge as most of the surface has, and of those that may be."""
    edges = vertices[edges_of(faces)]
    length = np.linalg.norm(edges[:, 1] - edges[:, 0], axis=1).reshape(-1, 3)
    # A small dense part has most of the edges, a flat wall the longest.
    weight = areas(vertices[faces])
    size = np.sqrt(weight.sum())
    usual = min(_quantile(length.mean(axis=1), weight, 0.5), _SEAM * size)
    longest = min(_quantile(length.max(axis=1), weight, _LONGEST_EDGE), _WIDEST_SEAM * size)
    return max(usual, gap), max(longest, usual, gap)


def _quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    order = np.argsort(values)
    upto = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(upto, share * upto[-1]).clip(max=len(values) - 1)])


def _reversed(faces: np.ndarray, which: np.ndarray) -> np.ndarray:
    return np.where(which[:, None], faces[:, ::-1], faces)


def _beyond_holes(hole_areas: list[float], area: float) -> float:
    """Share of a ball that caps over holes of these areas have."""
    # A plane that cuts a disc with a share s of the area of a ball is cos(t) radii from its middle, s = sin(t)^2 / 4.
    cosine = np.sqrt(np.maximum(1 - 4 * np.array(hole_areas) / area, 0))
    return float(((2 + cosine) * (1 - cosine) ** 2 / 4).sum())


def _mesh(vertices: np.ndarray, faces: np.ndarray) -> trimesh.Trimesh:
    """A mesh without the vertices that no face has."""
    used, number = np.unique(faces, return_inverse=True)
    return trimesh.Trimesh(vertices[used], number.reshape(-1, 3), process=False)
