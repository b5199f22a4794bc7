"""The synapses of the phantom as CAVE would hold them.

Synapses are proposed first, then kept or dropped by what the voxels at their two ends are.
"""

from collections.abc import Iterator
from itertools import chain

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sandbox.phantom.cells import Cell
from sandbox.phantom.ids import supervoxel_ids, table_roots
from sandbox.phantom.layout import CELLS, TABLE_RESOLUTION_NM, VOXEL_OFFSET, VOXEL_SIZE_NM, to_table_voxels
from sandbox.phantom.objects import FIRST_CELL, FIRST_NEURITE, UNLABELLED, Phantom
from sandbox.phantom.shapes import Blob, Floats, random_directions

FOREIGN_PER_UM3 = 0.035
CLEFT_TO_PARTNER_UM = 0.25
UNKNOWN_PRE = 0.02
"""Share of the synapses whose presynaptic side the tables do not know: root 0."""
Ends = tuple[Floats, Floats, Floats]
"""Positions of pre, ctr and post, (n, 3) um each."""

ENDS = ("pre", "ctr", "post")
KINDS = ("soma", "dendrite", "inside", "outside", "autapse", "partner", "foreign")
"""What a synapse is.

soma : onto the surface of a soma, its cleft within 0.1 um of the membrane
dendrite : onto a dendrite
inside, outside : onto a cell by its root id, but 0.7 um or more from the cell's surface
autapse : of a cell onto its own soma
partner : of one merged cell onto the other's soma: an autapse in version 1 only
foreign : of one neurite onto another
"""


def propose_synapses(seed: int, phantom: Phantom) -> pd.DataFrame:
    """Draw synapses round every cell and between neurites, more than are wanted.

    Parameters
    ----------
    seed : int
    phantom : Phantom

    Returns
    -------
    DataFrame
        kind, cell (index into `CELLS`, -1 for foreign), and for pre, ctr and post `<end>_x`, `_y`, `_z`: int64
        voxels of the tables.
    """
    proposed = []
    for i, cell in phantom.cells.items():
        if cell.soma is None or cell.plan.role == "no root":
            continue
        rng = np.random.default_rng([seed, 6, i])
        for kind, ends_um in chain(_on_soma(rng, cell, cell.soma), _on_dendrites(rng, cell, cell.soma)):
            proposed.append(_frame(kind, i, ends_um))
    rng = np.random.default_rng([seed, 7])
    extent_um = phantom.shape * phantom.voxel_um
    pre_um = rng.random((3 * int(FOREIGN_PER_UM3 * extent_um.prod()), 3)) * extent_um
    post_um = pre_um + random_directions(rng, len(pre_um)) * 2 * CLEFT_TO_PARTNER_UM
    proposed.append(_frame("foreign", -1, (pre_um, (pre_um + post_um) / 2, post_um)))
    return pd.concat(proposed, ignore_index=True)


def end_voxels(proposed: pd.DataFrame, end: str) -> NDArray[np.int64]:
    """Voxels of the volume that one end, pre or post, of synapses lies in.

    Parameters
    ----------
    proposed : DataFrame
        From `propose_synapses`.
    end : str

    Returns
    -------
    (n, 3) int64
        Counted from the lower corner of the volume; some lie outside.
    """
    position_nm = proposed[[f"{end}_{axis}" for axis in "xyz"]].to_numpy(np.int64) * TABLE_RESOLUTION_NM
    return (position_nm // VOXEL_SIZE_NM - VOXEL_OFFSET).astype(np.int64)


def choose_synapses(
    seed: int,
    proposed: pd.DataFrame,
    pre: NDArray[np.uint32],
    post: NDArray[np.uint32],
    n_foreign: int,
) -> pd.DataFrame:
    """Keep the synapses whose ends lie where they must.

    Parameters
    ----------
    seed : int
    proposed : DataFrame
        From `propose_synapses`.
    pre, post : (n,) uint32
        Objects that the ends lie in.
    n_foreign : int
        How many synapses between neurites to keep at most.

    Returns
    -------
    DataFrame
        The chosen ones, with columns pre_object and post_object, in chance order.
    """
    rng = np.random.default_rng([seed, 8])
    frame = proposed.assign(pre_object=pre.astype(np.int64), post_object=post.astype(np.int64))
    own = FIRST_CELL + frame["cell"].to_numpy()
    kind = frame["kind"].to_numpy()
    onto_neurite = (post >= FIRST_NEURITE) & (pre != post)
    fits = (pre >= FIRST_NEURITE) & np.select(
        [kind == "foreign", kind == "outside"], [onto_neurite, post != own], default=post == own
    )
    frame = frame.assign(own=own)[fits]
    wanted = [_wanted(np.random.default_rng([seed, 9, i])) for i in range(len(CELLS))]
    limit = [
        n_foreign if kind == "foreign" else wanted[i][kind]
        for kind, i in zip(frame["kind"], frame["cell"], strict=True)
    ]
    frame = frame[frame.groupby(["cell", "kind"]).cumcount() < limit]
    first, second = (i for i, cell in enumerate(CELLS) if cell.role == "merged")
    frame = frame[(frame["kind"] != "partner") | (frame["cell"] == second)]
    post_object = frame["post_object"].mask(frame["kind"] == "outside", frame["own"])
    pre_object = frame["pre_object"].mask(rng.random(len(frame)) < UNKNOWN_PRE, UNLABELLED)
    pre_object = pre_object.mask(frame["kind"] == "autapse", frame["own"])
    pre_object = pre_object.mask(frame["kind"] == "partner", FIRST_CELL + first)
    frame = frame.assign(pre_object=pre_object, post_object=post_object)
    return frame.iloc[rng.permutation(len(frame))].reset_index(drop=True)


def synapse_table(seed: int, chosen: pd.DataFrame, version: int) -> pd.DataFrame:
    """Synapses as CAVE would hold them in one version.

    Parameters
    ----------
    seed : int
    chosen : DataFrame
        From `choose_synapses`.
    version : int

    Returns
    -------
    DataFrame
        id, valid, pre_pt_position_x, _y, _z, pre_pt_supervoxel_id, pre_pt_root_id, the same for post_pt,
        ctr_pt_position_x, _y, _z, size; positions int32 in voxels of `TABLE_RESOLUTION_NM`, ids Int64.
    """
    rng = np.random.default_rng([seed, 10])
    n = len(chosen)
    roots = table_roots(seed, version)
    table = {
        "id": pd.array(3_000_000 + np.cumsum(rng.integers(1, 9, n)), dtype="Int64"),
        "valid": np.ones(n, bool),
    }
    for end in ENDS:
        for axis in "xyz":
            table[f"{end}_pt_position_{axis}"] = chosen[f"{end}_{axis}"].to_numpy(np.int32)
        if end != "ctr":
            root = roots[chosen[f"{end}_object"]].astype(np.int64)
            table[f"{end}_pt_supervoxel_id"] = pd.array(supervoxel_ids(rng, root), dtype="Int64")
            table[f"{end}_pt_root_id"] = pd.array(root, dtype="Int64")
    table["size"] = np.round(rng.lognormal(7.5, 0.8, n)).astype(np.float32)
    return pd.DataFrame(table)


def _wanted(rng: np.random.Generator) -> dict[str, int]:
    """How many synapses of each kind a cell has."""
    return {
        "soma": int(rng.integers(60, 151)),
        "dendrite": int(rng.integers(60, 121)),
        "inside": 6,
        "outside": 6,
        "autapse": 4,
        "partner": 6,
    }


def _on_soma(rng: np.random.Generator, cell: Cell, soma: Blob) -> Iterator[tuple[str, Ends]]:
    """Kind and ends of the synapses proposed on and round the soma of one cell."""
    for kind, n in (("soma", 400), ("inside", 30), ("outside", 60), ("autapse", 20), ("partner", 30)):
        surface_um = soma.surface(random_directions(rng, n))
        normal = soma.normal(surface_um)
        off_um = np.zeros(n)
        if kind == "inside":
            off_um = -rng.uniform(0.8, 0.2 * soma.radius_um + 0.7, n)
        elif kind == "outside":
            off_um = rng.uniform(1.0, 2.5, n)
        ctr_um = surface_um + normal * (off_um + rng.uniform(-0.06, 0.06, n))[:, None]
        post_um = surface_um + normal * (off_um - CLEFT_TO_PARTNER_UM)[:, None]
        pre_um = surface_um + normal * (np.maximum(off_um, 0) + CLEFT_TO_PARTNER_UM)[:, None]
        clear = _clear_of_dendrites(cell, ctr_um) if kind == "outside" else slice(None)
        yield kind, (pre_um[clear], ctr_um[clear], post_um[clear])


def _on_dendrites(rng: np.random.Generator, cell: Cell, soma: Blob) -> Iterator[tuple[str, Ends]]:
    """Kind and ends of the synapses proposed on the dendrites of one cell."""
    # From its sixth point on a dendrite is out of its soma; beyond 14 um it may be out of the cell's box.
    points_um = np.concatenate([dendrite.points_um[6:-1] for dendrite in cell.dendrites])
    ahead_um = np.concatenate([dendrite.points_um[7:] for dendrite in cell.dendrites])
    radii_um = np.concatenate([dendrite.radii_um[6:-1] for dendrite in cell.dendrites])
    near = np.abs(points_um - soma.centre_um).max(axis=1) < 14
    pick = rng.choice(np.flatnonzero(near), 300)
    across = np.cross(ahead_um[pick] - points_um[pick], random_directions(rng, len(pick)))
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    ctr_um = points_um[pick] + across * radii_um[pick, None]
    yield "dendrite", (ctr_um + across * CLEFT_TO_PARTNER_UM, ctr_um, ctr_um - across * CLEFT_TO_PARTNER_UM)


def _clear_of_dendrites(cell: Cell, point_um: Floats) -> NDArray[np.bool_]:
    clear = np.ones(len(point_um), bool)
    for dendrite in cell.dendrites:
        for centre_um, radius_um in zip(dendrite.points_um, dendrite.radii_um, strict=True):
            clear &= np.linalg.norm(point_um - centre_um, axis=1) > radius_um + 0.9
    return clear


def _frame(kind: str, cell: int, ends_um: Ends) -> pd.DataFrame:
    columns: dict[str, object] = {}
    for end, position_um in zip(ENDS, ends_um, strict=True):
        voxels = to_table_voxels(position_um)
        columns |= {f"{end}_{axis}": voxels[:, k] for k, axis in enumerate("xyz")}
    return pd.DataFrame(columns).assign(kind=kind, cell=cell)
