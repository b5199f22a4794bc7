"""A third version of the phantom on its graph, with edits whose consequences can be told by hand."""

from dataclasses import dataclass, replace
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sandbox.cave.server import Datastack, MaterializedVersion
from sandbox.graph.chunked_graph import State
from sandbox.graph.ids import chunks_of
from sandbox.graph.watershed import CHUNK, write_watershed
from sandbox.lab import NUCLEI_TABLE, NUCLEI_VIEW, SYNAPSES, datastack, write_cave_dataset
from sandbox.phantom.layout import Role
from sandbox.phantom.scene import Scene

RADIUS_UM = 5.0
"""Half the side of cutouts that hold a soma, and little of its dendrites."""
_NEW_ROOTS = 864691139000000000
_LATER = timedelta(days=60)


@dataclass(frozen=True)
class Proofread:
    """A datastack with a version 3, and the nuclei by what happened to them since version 2.

    Attributes
    ----------
    trimmed : a piece inside its cutout has another root id, and so has the cell
    far : the same of a piece outside of its cutout
    merged : two neighbours that have one root id
    new : in the table of version 3 only
    moved : its point lies elsewhere
    emptied : the same root, but all synapses onto it are gone
    untouched : all others with a root id that the graph knows
    unknown : with a root id that the graph does not know, in both versions
    """

    stack: Datastack
    trimmed: int
    far: int
    merged: tuple[int, int]
    new: int
    moved: int
    emptied: int
    untouched: set[int]
    unknown: set[int]


def proofread(scene: Scene) -> Proofread:
    """Edit version 2 of the whole phantom."""
    stack = datastack(scene, graph=True)
    second = next(version for version in stack.versions if version.number == 2)
    trimmed, far, emptied = _by_role(scene, "ordinary")[:3]
    [moved], [new] = _by_role(scene, "moved"), _by_role(scene, "new")
    one, other = _by_role(scene, "merged")
    view = second.views[NUCLEI_VIEW].frame
    roots_of = dict(zip(view["id"].astype(int), view["pt_root_id"].fillna(0).astype(int), strict=True))
    centres_nm = _centres_nm(view, scene)

    watershed = write_watershed(scene)
    ids = watershed.supervoxels["supervoxel_id"].to_numpy(np.uint64)
    before = watershed.supervoxels["root_2"].to_numpy(np.uint64)
    after, chunks = before.copy(), chunks_of(ids)
    pieces = {
        nucleus_id: _piece(chunks[before == np.uint64(roots_of[nucleus_id])], centres_nm[nucleus_id], scene, inside)
        for nucleus_id, inside in ((trimmed, True), (far, False))
    }
    renamed: dict[int, int] = {}
    for number, (nucleus_id, piece) in enumerate(pieces.items()):
        root, torn_off = _NEW_ROOTS + 2 * number, _NEW_ROOTS + 2 * number + 1
        of_cell = before == np.uint64(roots_of[nucleus_id])
        after[of_cell] = root
        after[of_cell & (chunks == piece).all(axis=1)] = torn_off
        renamed[roots_of[nucleus_id]] = root
    for nucleus_id in (one, other):
        after[before == np.uint64(roots_of[nucleus_id])] = _NEW_ROOTS + 10
        renamed[roots_of[nucleus_id]] = _NEW_ROOTS + 10

    def synapse_roots(frame: pd.DataFrame) -> pd.DataFrame:
        """The synapses with their roots of version 3."""
        at = frame[[f"post_pt_position_{axis}" for axis in "xyz"]].to_numpy(float) * scene.table_resolution_nm
        chunk = (at // scene.voxel_size_nm - scene.voxel_offset) // CHUNK
        post = frame["post_pt_root_id"].replace(renamed)
        for nucleus_id, piece in pieces.items():
            torn_off = (frame["post_pt_root_id"] == roots_of[nucleus_id]) & (chunk == piece).all(axis=1)
            post = post.mask(torn_off, renamed[roots_of[nucleus_id]] + 1)
        edited = frame.assign(post_pt_root_id=post, pre_pt_root_id=frame["pre_pt_root_id"].replace(renamed))
        return edited[edited["post_pt_root_id"] != roots_of[emptied]]

    def nuclei(frame: pd.DataFrame) -> pd.DataFrame:
        edited = frame.assign(pt_root_id=frame["pt_root_id"].replace(renamed))
        for name in ("pt_position_x", "pt_position_lookup_x"):
            if name in edited:
                edited.loc[edited["id"] == moved, name] += 100
        return edited

    third = replace(
        _changed(second, {NUCLEI_TABLE: nuclei, SYNAPSES: synapse_roots, NUCLEI_VIEW: nuclei}),
        number=3,
        time_stamp=second.time_stamp + 2 * _LATER,
    )
    without_new = _changed(second, dict.fromkeys((NUCLEI_TABLE, NUCLEI_VIEW), lambda frame: frame[frame["id"] != new]))
    assert stack.graph is not None
    state = State((second.time_stamp + _LATER).replace(tzinfo=UTC), after, stack.graph.states[-1].level2)
    versions = [version for version in stack.versions if version.number != 2]
    known = {nucleus_id for nucleus_id, root in roots_of.items() if np.isin(np.uint64(root), before)}
    touched = {trimmed, far, one, other, new, moved, emptied}
    return Proofread(
        replace(stack, versions=[*versions, without_new, third], graph=stack.graph.then(state)),
        trimmed,
        far,
        (one, other),
        new,
        moved,
        emptied,
        known - touched,
        {nucleus_id for nucleus_id, root in roots_of.items() if root > 1} - known,
    )


def graph_dataset(scene: Scene, server: str, path: Path) -> Path:
    """Write the dataset file of the phantom on its graph, with cutouts that hold a soma and little more."""
    text = write_cave_dataset(scene, server, path, graph=True).read_text()
    path.write_text(text.replace("mip = 0\n", f"mip = 0\ncutout_radius_um = {RADIUS_UM}\n"))
    return path


def _by_role(scene: Scene, role: Role) -> list[int]:
    return sorted(truth.nucleus_id for truth in scene.with_role(role))


def _centres_nm(view: pd.DataFrame, scene: Scene) -> dict[int, np.ndarray]:
    at = view[[f"pt_position_lookup_{axis}" for axis in "xyz"]].to_numpy(float) * scene.table_resolution_nm
    return dict(zip(view["id"].astype(int), at, strict=True))


def _piece(chunks: np.ndarray, centre_nm: np.ndarray, scene: Scene, inside: bool) -> np.ndarray:
    """A chunk of the graph with a part of a cell: the farthest that its cutout touches, or the farthest of all."""
    corners_nm = (chunks * CHUNK + scene.voxel_offset) * np.array(scene.voxel_size_nm)
    upper_nm = corners_nm + np.array(CHUNK) * scene.voxel_size_nm
    reach_nm = RADIUS_UM * 1000
    touched = ((upper_nm > centre_nm - reach_nm) & (corners_nm < centre_nm + reach_nm)).all(axis=1)
    distance_nm = np.linalg.norm((corners_nm + upper_nm) / 2 - centre_nm, axis=1)
    return chunks[np.argmax(np.where(touched == inside, distance_nm, -1))]


def _changed(version: MaterializedVersion, changes: dict[str, Any]) -> MaterializedVersion:
    def edited(tables: dict[str, Any]) -> dict[str, Any]:
        return {
            name: replace(table, frame=changes[name](table.frame)) if name in changes else table
            for name, table in tables.items()
        }

    return replace(version, tables=edited(version.tables), views=edited(version.views))
