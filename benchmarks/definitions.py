"""How far published and corrected definitions are from the truth, on bodies whose measures are known.

    .venv/bin/python -m benchmarks.definitions

It prints the table of docs/definitions.md in Markdown; it takes half a minute.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import trimesh

from sandbox.bodies import (
    Level,
    ball_on_rod,
    ball_on_rod_um,
    ellipsoid,
    ellipsoid_area_um2,
    ellipsoid_volume_um3,
    ellipsoid_voxels,
    groove_outline,
    infolding_of,
    revolved,
    turned,
    voxels,
)
from somatic.cutout import Cutout, cutout_box
from somatic.definitions import Definitions, definitions_called
from somatic.features import Row
from somatic.geometry.bitmask import BitMask
from somatic.geometry.marching_cubes import surface
from somatic.soma import Place
from somatic.tables import Synapses, synapses_from_raw

NAMES = ("published", "corrected")
RESOLUTION_NM, TABLE_NM = np.array([64.0, 64.0, 40.0]), np.array([4.0, 4.0, 40.0])
RADIUS_NM = 6000.0
_BALL_NM, _ROD_NM = 4000.0, 800.0
_ELLIPSOID_NM = (2500.0, 3500.0, 5000.0)
SHARE_MISSING = 0.15
_PLACES = 4
"""Each body is measured at so many places and in so many directions."""


def main() -> None:
    """Measure and print."""
    print(table())


def table() -> str:
    """The table in Markdown: the mean error over all places, and the worst."""
    errors: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name in NAMES:
        steps = definitions_called(name)
        for seed in range(_PLACES):
            for what, unit, error in (
                *soma_errors(steps, seed),
                *synapse_errors(steps, seed),
                *nucleus_errors(steps, seed),
                *fold_errors(steps, seed),
            ):
                errors[what, unit][name].append(error)
    lines = ["| what | unit | published | worst | corrected | worst |", "|---|---|---|---|---|---|"]
    for (what, unit), by_name in errors.items():
        shown = [f"{value:+.1f}" for found in by_name.values() for value in (np.mean(found), max(found, key=abs))]
        lines.append(f"| {what} | {unit} | {' | '.join(shown)} |")
    return "\n".join(lines)


def soma_errors(steps: Definitions, seed: int) -> Iterator[tuple[str, str, float]]:
    """Volume, area and place of somata: what, in which unit, the error."""
    body = ellipsoid(_ELLIPSOID_NM, turned(seed))
    volume, area = ellipsoid_volume_um3(_ELLIPSOID_NM), ellipsoid_area_um2(_ELLIPSOID_NM)
    cut = cut_out(body, seed)
    _, row = measured(steps, cut)
    yield "volume of an ellipsoid", "%", _percent(row["soma_volume_um"], volume)
    yield "area of an ellipsoid", "%", _percent(row["soma_area_um"], area)
    yield "centre of an ellipsoid, off by", "nm", _distance(row, "soma", cut.centre_nm)
    _, row = measured(steps, cut_out(body, seed, SHARE_MISSING))
    yield "volume, 15 % of the sections missing", "%", _percent(row["soma_volume_um"], volume)
    yield "area, 15 % of the sections missing", "%", _percent(row["soma_area_um"], area)
    cut = cut_out(ball_on_rod(_BALL_NM, _ROD_NM), seed)
    _, row = measured(steps, cut)
    half_nm = cut.place.box.shape[0] * RESOLUTION_NM[0] / 2
    volume, area, _ = ball_on_rod_um(_BALL_NM, _ROD_NM, half_nm)
    yield "volume of a ball with two dendrites", "%", _percent(row["soma_volume_um"], volume)
    yield "area of a ball with two dendrites, without the cut ends", "%", _percent(row["soma_area_um"], area)


def synapse_errors(steps: Definitions, seed: int) -> Iterator[tuple[str, str, float]]:
    """Synapses at a distance from a ball, of which all or none should count."""
    cut = cut_out(ellipsoid([_BALL_NM] * 3), seed)
    mesh, _ = measured(steps, cut)
    outwards = np.random.default_rng(seed).standard_normal((5000, 3))
    outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
    for distance_nm, should_count in ((0, True), (100, True), (140, True), (160, False), (200, False)):
        synapses = synapses_at(cut.centre_nm + (_BALL_NM + distance_nm) * outwards)
        share = 100 * float(steps.on_soma(synapses, mesh).mean())
        verb = "missed" if should_count else "counted"
        yield f"synapses {distance_nm} nm outside, {verb}", "%", 100 - share if should_count else share


def nucleus_errors(steps: Definitions, seed: int) -> Iterator[tuple[str, str, float]]:
    """Size and shape of a nucleus whose mesh was made of voxels, as layers have it."""
    mask, centre_nm = ellipsoid_voxels(_ELLIPSOID_NM, RESOLUTION_NM.tolist(), seed)
    vertices_vx, faces = surface(BitMask.of(mask))
    mesh = trimesh.Trimesh((vertices_vx + 0.5) * RESOLUTION_NM, faces, process=False)
    _, row = steps.measure_nucleus(mesh, RESOLUTION_NM)
    shortest, middle, longest = sorted(_ELLIPSOID_NM)
    yield "volume of a nucleus", "%", _percent(row["nucleus_volume_um"], ellipsoid_volume_um3(_ELLIPSOID_NM))
    yield "area of a nucleus", "%", _percent(row["nucleus_area_um"], ellipsoid_area_um2(_ELLIPSOID_NM))
    yield "centre of a nucleus, off by", "nm", _distance(row, "nucleus", centre_nm)
    yield (
        "longest over the mean of the other axes of a nucleus",
        "%",
        _percent(row["nucleus_aspect_ratio"], longest / ((shortest + middle) / 2)),
    )


@dataclass(frozen=True, eq=False)
class Cut:
    """A cutout with a cell in it, where it lies, and where the cell's own centre is, (3,) in nm."""

    cutout: Cutout
    place: Place
    centre_nm: np.ndarray


def fold_errors(steps: Definitions, seed: int) -> Iterator[tuple[str, str, float]]:
    """Area and depth of a groove around a nucleus, turned, and meshed with few and with many vertices."""
    outline = groove_outline(1200.0, 350.0)
    truth = infolding_of(outline)
    for number, (n_along, n_round) in {"12,000": (135, 90), "120,000": (430, 280)}.items():
        mesh = revolved(outline, n_along, n_round)
        row = steps.fold_columns(trimesh.Trimesh(mesh.vertices @ turned(seed).T, mesh.faces, process=False))
        yield f"area of a groove, {number} vertices", "%", _percent(row["nuclear_folding_area_um"], truth.area_um2)
        yield f"mean depth of a groove, {number} vertices", "%", _percent(row["avg_fold_depth_nm"], truth.mean_depth_nm)


def cut_out(body: Level, seed: int, share_missing: float = 0.0) -> Cut:
    """A cell in a cutout full of neighbours, of which some sections may have no labels."""
    rng = np.random.default_rng(seed)
    centre_vx = np.array([41_889, 34_746, 15_466]) + rng.integers(-100, 100, 3)
    box = cutout_box(centre_vx, TABLE_NM, RADIUS_NM, RESOLUTION_NM)
    centre_nm = centre_vx * TABLE_NM + rng.uniform(-100, 100, 3)
    lower_nm = box.lower_vx * RESOLUTION_NM
    mask = voxels(body, box.shape, RESOLUTION_NM.tolist(), (centre_nm - lower_nm).tolist())
    missing = rng.random(mask.shape[2]) < share_missing
    mask[:, :, missing] = False
    unlabelled = BitMask.of(np.broadcast_to(missing, mask.shape))
    cutout = Cutout(BitMask.of(mask), box.moved(-box.lower_vx), unlabelled.count(), unlabelled)
    return Cut(cutout, Place(box, RESOLUTION_NM, centre_vx * TABLE_NM, RADIUS_NM), centre_nm)


def measured(steps: Definitions, cut: Cut) -> tuple[trimesh.Trimesh, Row]:
    """Mesh and columns of a cell."""
    return steps.soma_surface(steps.repair(cut.cutout, cut.place, None), cut.place)


def synapses_at(points_nm: np.ndarray) -> Synapses:
    """Synapses with their ctr_pt at some points, (n, 3)."""
    raw = pd.DataFrame({"id": np.arange(len(points_nm)) + 1, "pre_pt_root_id": 2, "post_pt_root_id": 3})
    for axis, name in enumerate("xyz"):
        raw[f"ctr_pt_position_{name}"] = points_nm[:, axis]
    return synapses_from_raw(raw, resolution_nm=(1, 1, 1), where="synapses")


def _percent(found: float, truth: float) -> float:
    return 100 * (found / truth - 1)


def _distance(row: Row, what: str, centre_nm: np.ndarray) -> float:
    return float(np.linalg.norm([row[f"{what}_center_{axis}_nm"] for axis in "xyz"] - centre_nm))


if __name__ == "__main__":
    main()
