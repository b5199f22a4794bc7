"""A chunked graph in memory: which supervoxels a root has, and which root a supervoxel had at a time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from sandbox.graph.ids import BITS_OF_LAYER, N_LAYERS, Ids, bits_per_axis, chunks_of, layer_of

Bounds = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class State:
    """What belongs together from one moment on, until the next state.

    Parameters
    ----------
    since : datetime
        UTC, with its zone.
    roots : (n,) uint64
        Root of each supervoxel of the graph.
    level2 : (n,) uint64
        Node of layer 2 of each supervoxel.
    """

    since: datetime
    roots: Ids
    level2: Ids


class ChunkedGraph:
    """Supervoxels, and what edits made of them.

    Parameters
    ----------
    watershed : dict
        Precomputed info of the layer of supervoxels.
    data_dir : str
        Where that layer is.
    chunk_size : tuple of 3 int
        Voxels of a chunk, counted from the lower corner of the volume.
    supervoxels : (n,) uint64
        Sorted; the bits of an id hold its chunk.
    states : sequence of State
        In the order of their times.

    Raises
    ------
    ValueError
        Supervoxels are not sorted, states are not in order, or an id of a root means different supervoxels in two
        states: the ids of roots never change meaning.
    """

    def __init__(
        self,
        watershed: dict,
        data_dir: str,
        chunk_size: tuple[int, int, int],
        supervoxels: Ids,
        states: Sequence[State],
    ):
        if (supervoxels[1:] <= supervoxels[:-1]).any():
            raise ValueError("the supervoxels of a graph must be sorted, each of them once")
        if any(one.since >= other.since for one, other in itertools.pairwise(states)):
            raise ValueError("the states of a graph must be in the order of their times")
        self.states = tuple(states)
        self._watershed = watershed
        self._data_dir = data_dir
        self._chunk_size = np.array(chunk_size)
        self._supervoxels = supervoxels
        self._chunks = chunks_of(supervoxels)
        scale = watershed["scales"][0]
        self._lower = np.array(scale["voxel_offset"])
        self._upper = self._lower + scale["size"]
        # Supervoxels by node: of each state, those of one node lie side by side in an order.
        self._orders = [
            {layer: np.argsort(nodes, kind="stable") for layer, nodes in ((2, state.level2), (N_LAYERS, state.roots))}
            for state in self.states
        ]
        self._check_roots()

    def then(self, state: State) -> ChunkedGraph:
        """Return the graph with the edits of one state more."""
        x, y, z = self._chunk_size.tolist()
        return ChunkedGraph(self._watershed, self._data_dir, (x, y, z), self._supervoxels, [*self.states, state])

    def info(self) -> dict:
        """What a graph says of itself: its watershed, and how its ids and chunks are made."""
        masks = {str(layer): bits_per_axis(layer) for layer in range(1, N_LAYERS + 1)}
        return {
            **self._watershed,
            "data_dir": self._data_dir,
            "graph": {
                "chunk_size": self._chunk_size.tolist(),
                "bounding_box": (self._upper - self._lower).tolist(),
                "cv_mip": 0,
                "n_bits_for_layer_id": BITS_OF_LAYER,
                "n_layers": N_LAYERS,
                "spatial_bit_masks": masks,
            },
            "chunks_start_at_voxel_offset": True,
            "app": {"supported_api_versions": [0, 1]},
            "sharded_mesh": True,
            "verify_mesh": False,
        }

    def leaves(self, node: int, bounds: Bounds | None = None, stop_layer: int = 1) -> Ids:
        """Supervoxels, or nodes of layer 2, of a root or of a node of layer 2, whether it is current or old.

        Parameters
        ----------
        node : int
        bounds : (2, 3) int, optional
            Voxels; all chunks that they touch count, whole.
        stop_layer : int
            1 or 2.

        Returns
        -------
        (n,) uint64
            In no order; empty for a node that never was, too.
        """
        found = self._find(node)
        if found is None:
            return np.empty(0, np.uint64)
        state, members = found
        if bounds is not None:
            first = (bounds[0] - self._lower) // self._chunk_size
            last = -((self._lower - bounds[1]) // self._chunk_size)
            chunks = self._chunks[members]
            members = members[((chunks >= first) & (chunks < last)).all(axis=1)]
        leaves = self._supervoxels[members] if stop_layer == 1 else np.unique(state.level2[members])
        # As from a database: whoever compares two answers must sort them.
        return leaves[np.argsort(leaves * np.uint64(0x9E3779B97F4A7C15))]

    def roots(self, nodes: Ids, at: datetime, stop_layer: int = N_LAYERS) -> Ids:
        """Roots at a time (or nodes of layer 2) of supervoxels or of nodes of layer 2; 0 where there is none.

        A root is its own root, at any time. Where not one of the nodes has a parent they come back as they are: the
        real service then finds no rows to replace them from.
        """
        state = self._at(_next_ms(at))
        layers = layer_of(nodes)
        found = np.where(layers == N_LAYERS, nodes, np.uint64(0))
        place = np.searchsorted(self._supervoxels, nodes).clip(max=len(self._supervoxels) - 1)
        known = self._supervoxels[place] == nodes
        for i in np.flatnonzero(layers == 2):
            members = self._members(state, 2, int(nodes[i]))
            if len(members):
                place[i], known[i] = members[0], True
        if not known.any():
            return nodes.copy()
        upper = state.level2 if stop_layer == 2 else state.roots
        return np.where(known, upper[place], found)

    def is_latest(self, roots: Ids, at: datetime) -> NDArray[np.bool_]:
        """Tell which ids are those of roots at a time; those of the moment before when it is that of an edit."""
        return np.isin(roots, self._at(_this_ms(at)).roots)

    def root_spans(self, roots: Ids) -> list[tuple[datetime, datetime | None]]:
        """Since when, and until when, each root was one; None: it still is. Empty where not one of them ever was.

        Raises
        ------
        KeyError
            An id is that of no root, beside others that are.
        """
        presence = [
            [i for i, state in enumerate(self.states) if len(self._members(state, N_LAYERS, int(root)))]
            for root in roots
        ]
        if not any(presence):
            return []
        spans = []
        for root, present in zip(roots.tolist(), presence, strict=True):
            if not present:
                raise KeyError(root)
            until = present[-1] + 1
            ended = self.states[until].since if until < len(self.states) else None
            spans.append((self.states[present[0]].since, ended))
        return spans

    def bounds_of_volume(self) -> Bounds:
        """Lower and upper corner of the volume, voxels."""
        return np.array([self._lower, self._upper])

    def _at(self, before: datetime) -> State:
        """What held just before a moment; times of edits are kept in whole milliseconds."""
        return next((state for state in reversed(self.states) if _this_ms(state.since) < before), self.states[0])

    def _find(self, node: int) -> tuple[State, NDArray[np.int64]] | None:
        layer = int(layer_of(np.array(node, np.uint64)))
        for state in self.states if layer in (2, N_LAYERS) else ():
            members = self._members(state, layer, node)
            if len(members):
                return state, members
        return None

    def _members(self, state: State, layer: int, node: int) -> NDArray[np.int64]:
        """Supervoxels of a node in one state, as positions."""
        order = self._orders[self.states.index(state)][layer]
        nodes = state.level2 if layer == 2 else state.roots
        wanted = np.uint64(node)
        first = np.searchsorted(nodes, wanted, "left", sorter=order)
        last = np.searchsorted(nodes, wanted, "right", sorter=order)
        return order[first:last]

    def _check_roots(self) -> None:
        for one, other in itertools.pairwise(self.states):
            changed = one.roots != other.roots
            in_both = np.intersect1d(one.roots[changed], other.roots)
            in_both = np.union1d(in_both, np.intersect1d(other.roots[changed], one.roots))
            if len(in_both):
                raise ValueError(f"root {in_both[0]} means different supervoxels before and after {other.since}")


def _this_ms(at: datetime) -> datetime:
    """The beginning of a moment's millisecond."""
    return at - timedelta(microseconds=at.microsecond % 1000)


def _next_ms(at: datetime) -> datetime:
    """The end of a moment's millisecond; a moment between two stays."""
    return at + timedelta(microseconds=-at.microsecond % 1000)
