"""Nodes of layer 2 of each version, and where the edits between them were made."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sandbox.graph.ids import Ids, chunks_of, make_ids


def level2_nodes(supervoxels: pd.DataFrame, versions: tuple[int, int]) -> tuple[Ids, Ids]:
    """Node of layer 2 of every supervoxel before and after the edits between two versions.

    What has one root in a chunk is one node, except for parts that an edit tears apart or joins: they are nodes of
    their own wherever it did not touch them. An edit gives new ids to the nodes of one chunk, which holds its ends:
    where it joins or tears apart, that in which the most of its parts meet; else (what it did lies outside of the
    volume) that farthest from the middle of the root.

    Parameters
    ----------
    supervoxels : DataFrame
        supervoxel_id, n_voxels, root_<version> of both versions.
    versions : tuple of 2 int

    Returns
    -------
    (n,) uint64, twice
        Before and after.
    """
    before, after = (supervoxels[f"root_{version}"].to_numpy(np.uint64) for version in versions)
    chunk = chunks_of(supervoxels["supervoxel_id"].to_numpy(np.uint64))
    place = (chunk * [2**20, 2**10, 1]).sum(axis=1)
    # A part has one root before and one after.
    frame = pd.DataFrame({"place": place, "before": before, "after": after})
    part = frame.groupby(["before", "after"], sort=True).ngroup().to_numpy()
    number = frame.assign(part=part).groupby("place")["part"].rank(method="dense").to_numpy(np.int64)
    n_in_chunk = frame.assign(number=number).groupby("place")["number"].transform("max").to_numpy()
    first, second = number.copy(), number.copy()
    voxels = supervoxels["n_voxels"].to_numpy(np.int64)
    for edited in _edits(before, after):
        here = edited & (place == _place_of_edit(edited, part, place, chunk, voxels))
        for nodes, roots in ((first, before), (second, after)):
            for root in np.unique(roots[here]):
                together = here & (roots == root)
                nodes[together] = number[together].min()
        # Numbers above those of all parts were never used before the edit.
        second[here] += n_in_chunk[here]
    return make_ids(2, chunk, first), make_ids(2, chunk, second)


def _edits(before: Ids, after: Ids) -> list[NDArray[np.bool_]]:
    """Supervoxels of each edit: of roots that it changed, with all that they share a root with."""
    changed = before != after
    edits = []
    while changed.any():
        edited = before == before[changed][0]
        while True:
            wider = np.isin(before, before[edited]) | np.isin(after, after[edited])
            if (wider == edited).all():
                break
            edited = wider
        edits.append(edited)
        changed &= ~edited
    return edits


def _place_of_edit(
    edited: NDArray[np.bool_],
    part: NDArray[np.integer],
    place: NDArray[np.int64],
    chunk: NDArray[np.int64],
    voxels: NDArray[np.int64],
) -> int:
    n_parts = pd.Series(part[edited]).groupby(place[edited]).nunique()
    if n_parts.max() > 1:
        return int(n_parts.index[int(n_parts.argmax())])
    middle = np.average(chunk[edited], axis=0, weights=voxels[edited])
    farthest = np.argmax(np.linalg.norm(chunk[edited] - middle, axis=1))
    return int(place[edited][farthest])
