"""How far a closed mesh differs from the faces it was made of, by lines through both."""

from dataclasses import dataclass

import numpy as np

from somatic.repair.lines import crossings

_N_LINES = 150
"""Lines along each axis and across another one."""
_ASIDE = (0.382, 0.618)
"""Shares of the distance between lines by which they are moved, so that they miss the grid of voxels."""


@dataclass(frozen=True)
class Agreement:
    """What lines show.

    Attributes
    ----------
    volume, area : float
        Relative difference of volume, summed line by line, and of area.
    known : float
        Share of the lines that meet the faces and cross them in and out in turns. Others pass through a gap or a hole
        and say nothing.
    """

    volume: float
    area: float
    known: float


def compare(
    stored: tuple[np.ndarray, np.ndarray], closed: tuple[np.ndarray, np.ndarray]
) -> Agreement:
    """Compare a closed mesh with the faces it was made of.

    Of the faces as they are stored only the outermost count, where copies, overlaps and walls between closed pieces
    add nothing; of the closed mesh all do, as for its volume and area.

    Parameters
    ----------
    stored, closed : tuple of (n, 3) float and (m, 3) int
        Vertices and faces, which face outwards. The second must be closed.
    """
    lower, upper = closed[0][closed[1]].min(axis=(0, 1)), closed[0][closed[1]].max(axis=(0, 1))
    different = volume = stored_area = closed_area = 0.0
    n_known = n_lines = 0
    for axis in range(3):
        points, cell_area = _lines(lower, upper, axis)
        before = _along_lines(points, axis, *stored, only_outermost=True)
        after = _along_lines(points, axis, *closed, only_outermost=False)
        known = before.is_met & before.is_balanced & after.is_balanced
        n_lines += np.count_nonzero(before.is_met)
        n_known += np.count_nonzero(known)
        different += cell_area * np.abs(before.length - after.length)[known].sum()
        volume += cell_area * before.length[known].sum()
        stored_area += cell_area * before.area[known].sum()
        closed_area += cell_area * after.area[known].sum()
    if not (volume > 0 and stored_area > 0):
        return Agreement(np.inf, np.inf, 0.0)
    return Agreement(different / volume, abs(closed_area - stored_area) / stored_area, n_known / n_lines)


@dataclass(frozen=True)
class _AlongLines:
    """For each line: length inside, area that it stands for, whether it meets a face, and goes in and out in turns."""

    length: np.ndarray
    area: np.ndarray
    is_met: np.ndarray
    is_balanced: np.ndarray


def _lines(lower: np.ndarray, upper: np.ndarray, axis: int) -> tuple[np.ndarray, float]:
    """Points of lines in a square grid, and the area between four of them."""
    one, other = (axis + 1) % 3, (axis + 2) % 3
    steps = [lower[a] + (np.arange(_N_LINES) + aside) * (upper[a] - lower[a]) / _N_LINES
             for a, aside in zip((one, other), _ASIDE, strict=True)]
    points = np.zeros((_N_LINES**2, 3))
    points[:, one], points[:, other] = np.repeat(steps[0], _N_LINES), np.tile(steps[1], _N_LINES)
    return points, float((upper[one] - lower[one]) * (upper[other] - lower[other])) / _N_LINES**2


def _along_lines(
    points: np.ndarray, axis: int, vertices: np.ndarray, faces: np.ndarray, *, only_outermost: bool
) -> _AlongLines:
    line, face, place, sign = crossings(points, axis, vertices, faces)
    n = len(points)
    corners = vertices[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normal, axis=1)
    # A face is counted along the axis that it is nearest to being square to.
    weight = np.where(np.abs(normal).argmax(axis=1) == axis, length / np.maximum(np.abs(normal[:, axis]), 1e-30), 0)
    depth = -np.cumsum(sign)
    is_first = np.ones(len(line), dtype=bool)
    is_first[1:] = line[1:] != line[:-1]
    before_line = np.maximum.accumulate(np.where(is_first, np.arange(len(line)), 0))
    depth -= (depth + sign)[before_line]
    is_last = np.roll(is_first, -1)
    step = np.where(is_last, 0, np.roll(place, -1) - place)
    is_balanced = np.ones(n, dtype=bool)
    is_balanced[line[(is_last & (depth != 0)) | (depth < 0)]] = False
    counted = weight[face]
    if only_outermost:
        counted = np.where(np.minimum(depth, depth + sign) == 0, counted, 0)
        depth = np.minimum(depth, 1)
    return _AlongLines(
        length=np.bincount(line, depth * step, minlength=n),
        area=np.bincount(line, counted, minlength=n),
        is_met=np.bincount(line, minlength=n) > 0,
        is_balanced=is_balanced,
    )
