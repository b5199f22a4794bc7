"""Fingerprints: what must change them, and what must not."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from somatic.cell import Cell
from somatic.errors import UnknownRoot
from somatic.extracting.fingerprints import nucleus_fingerprint, place_fingerprint, soma_fingerprint, synapse_hash
from somatic.tables import Synapses, synapses_from_raw

CELL = Cell(262144, 864691135012345678, (41889, -34746, 15466), (4.0, 4.0, 40.0), leaves=np.array([3, 1, 2], np.uint64))
HOW = {
    "layer_url": "precomputed://gs://a/ws",
    "mip": 3,
    "radius_nm": 15_000.0,
    "definitions": "published",
    "nuclei_url": None,
}


def test_order_of_leaves_and_root_id_make_no_difference() -> None:
    """On a graph the leaves count, each once and in any order, whatever root id holds them."""
    same = replace(CELL, root_id=864691135099999999, leaves=np.array([2, 2, 1, 3], np.uint64))
    assert soma_fingerprint(same, **HOW) == soma_fingerprint(CELL, **HOW)


@pytest.mark.parametrize(
    "other",
    [
        {"nucleus_id": 262145},
        {"centre_vx": (41889, -34746, 15467)},
        {"table_resolution_nm": (4.0, 4.0, 45.0)},
        {"leaves": np.array([1, 2], np.uint64)},
        {"leaves": np.array([1, 2, 3, 2**63 + 1], np.uint64)},
        {"leaves": np.array([], np.uint64)},
        {"leaves": None},
    ],
)
def test_another_cell(other: dict) -> None:
    """Another nucleus, point, size of voxels or set of leaves is another fingerprint."""
    assert soma_fingerprint(replace(CELL, **other), **HOW) != soma_fingerprint(CELL, **HOW)


@pytest.mark.parametrize(
    "other",
    [
        {"layer_url": "precomputed://gs://a/ws2"},
        {"mip": 2},
        {"radius_nm": 15_001.0},
        {"definitions": "corrected"},
        {"nuclei_url": "precomputed://gs://a/nuclei"},
    ],
)
def test_another_way_to_measure(other: dict) -> None:
    """Another layer, mip, radius or set of definitions is another place, and so another fingerprint."""
    place = place_fingerprint(CELL, **HOW)
    assert place_fingerprint(CELL, **HOW | other) != place
    assert soma_fingerprint(CELL, **HOW) != soma_fingerprint(CELL, **HOW | other)
    assert soma_fingerprint(CELL, **HOW).startswith(f"{place}-")


NUCLEI_URL = "precomputed://gs://a/nuclei"


@pytest.mark.parametrize("moved", ["SOMA_VERSION", "NUCLEUS_VERSION", "SYNAPSE_VERSION"])
def test_another_meaning_of_features(moved: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the version of a group moves its fingerprint is another one, and no other is."""
    how = {"layer_url": NUCLEI_URL, "definitions": "published"}
    soma, nucleus = soma_fingerprint(CELL, **HOW), nucleus_fingerprint(262144, **how)
    monkeypatch.setattr(f"somatic.features.{moved}", 1_000)
    assert (soma_fingerprint(CELL, **HOW) == soma) == (moved != "SOMA_VERSION")
    assert (nucleus_fingerprint(262144, **how) == nucleus) == (moved != "NUCLEUS_VERSION")


def test_fingerprints_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Written down from somatic 0.1.0 when all features had version 3: results of then are reused."""
    for name in ("SOMA_VERSION", "NUCLEUS_VERSION"):
        monkeypatch.setattr(f"somatic.features.{name}", 3)
    graph = replace(CELL, leaves=np.array([3, 1, 2, 2**63 + 1], np.uint64))
    flat = replace(CELL, leaves=None)
    corrected = HOW | {"definitions": "corrected", "nuclei_url": NUCLEI_URL}
    assert soma_fingerprint(flat, **HOW) == "f35394f4251225f3-cc5d2971eee72d32"
    assert soma_fingerprint(graph, **HOW) == "f35394f4251225f3-d42f871d67a6e9a7"
    assert soma_fingerprint(flat, **corrected) == "77b17820c3df3d61-cc5d2971eee72d32"
    assert soma_fingerprint(graph, **corrected) == "77b17820c3df3d61-d42f871d67a6e9a7"
    for definitions, known in (("published", "48bf1f82e6e3a555"), ("corrected", "a75b252fe61d875b")):
        assert nucleus_fingerprint(262144, layer_url=NUCLEI_URL, definitions=definitions) == known


def test_root_ids_of_a_flat_copy() -> None:
    """Where nobody asks for leaves the root id is the label, all its digits count, and it differs from such a leaf."""
    flat = replace(CELL, root_id=2**62 + 1, leaves=None)
    assert soma_fingerprint(flat, **HOW) != soma_fingerprint(replace(flat, root_id=2**62), **HOW)


def test_without_leaves_there_is_no_fingerprint() -> None:
    """A cell whose leaves could not be had is like no other."""
    assert soma_fingerprint(replace(CELL, leaves=UnknownRoot("no such root")), **HOW) is None


def synapses(ids: list[int], x: list[float], resolution: tuple = (4, 4, 40)) -> Synapses:
    """Synapses onto one root, at different x."""
    raw = pd.DataFrame(
        {"id": ids, "pre_pt_root_id": 7, "post_pt_root_id": 9, "ctr_pt_position": [[value, 5, 6] for value in x]}
    )
    return synapses_from_raw(raw, resolution_nm=resolution, where="synapses")


def test_synapses_by_id_and_position() -> None:
    """The order of the rows makes no difference; an id, a position or the size of a voxel does."""
    known = synapse_hash(synapses([1, 2**53 + 1], [10, 20]))
    assert synapse_hash(synapses([2**53 + 1, 1], [20, 10])) == known
    others = [
        synapses([1, 2**53], [10, 20]),
        synapses([1, 2**53 + 1], [10, 21]),
        synapses([1, 2**53 + 1], [20, 10]),
        synapses([1], [10]),
        synapses([], []),
        synapses([1, 2**53 + 1], [10, 20], (4, 4, 45)),
    ]
    hashes = {synapse_hash(other) for other in others}
    assert len(hashes) == len(others)
    assert known not in hashes
