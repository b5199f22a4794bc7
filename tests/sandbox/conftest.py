"""A datastack of the shape of the recorded one, with rows of its own."""

from datetime import datetime

import numpy as np
import pandas as pd
import pytest
from cave_asking import POOR_TOKEN, RUDE_TOKEN, TOKEN, client_of

from sandbox.cave.server import CaveServer, CaveTable, CaveView, Datastack, MaterializedVersion

VX_NM = (4.0, 4.0, 40.0)
ROOT = 864_691_130_000_000_000
"""Root id of nucleus i is ROOT + i: above 2^53, so that a float would lose it."""
BOX = [[162229, 129378, 26244], [169729, 136878, 26994]]
"""The recorded box round nucleus 4, in voxels."""
IN_BOX, OUTSIDE_BOX = 19, 10
"""Synapses onto nucleus 4, as many as were recorded; one lies on each of two corners of the box."""


def _points(name, xyz):
    return {f"{name}_{axis}": pd.array(xyz[:, k], dtype="Int32") for k, axis in enumerate("xyz")}


def _ids(values):
    return pd.array(values, dtype="Int64")


def _nuclei(roots):
    rng = np.random.default_rng(1)
    xyz = rng.integers([30_000, 30_000, 14_000], [260_000, 180_000, 27_000], (300, 3))
    corner = pd.DataFrame(_points("bb_start_position", xyz - 500) | _points("bb_end_position", xyz + 500))
    corner[np.arange(300) % 2 == 1] = pd.NA
    supervoxels = _ids(90_000_000_000_000_000 + np.arange(300))
    supervoxels[pd.isna(roots)] = pd.NA
    return pd.DataFrame(
        {
            "id": _ids(200_000 + np.arange(300)),
            "volume": rng.uniform(50, 400, 300),
            **_points("pt_position", xyz),
            "pt_supervoxel_id": supervoxels,
            "pt_root_id": roots,
            **{column: corner[column] for column in corner},
        }
    )


def _synapses():
    rng = np.random.default_rng(2)
    post = rng.integers([30_000, 30_000, 14_000], [160_000, 120_000, 26_000], (6000, 3))
    post_roots = ROOT + rng.integers(10, 300, 6000)
    onto_4 = np.arange(0, 6000, 190)[: IN_BOX + OUTSIDE_BOX]
    post_roots[onto_4] = ROOT + 4
    inside = onto_4[:IN_BOX]
    post[inside] = rng.integers(BOX[0], BOX[1], (IN_BOX, 3))
    post[inside[:2]] = BOX
    post[onto_4[IN_BOX:]] = np.array(BOX[1]) + [1, 0, 0]
    pre_roots = ROOT + rng.integers(300, 600, 6000)
    pre_roots[onto_4[5]] = ROOT + 4  # an autapse
    return pd.DataFrame(
        {
            "id": _ids(1 + np.arange(6000)),
            **_points("pre_pt_position", post - 3),
            "pre_pt_supervoxel_id": _ids(1000 + np.arange(6000)),
            "pre_pt_root_id": _ids(pre_roots),
            **_points("post_pt_position", post),
            "post_pt_supervoxel_id": _ids(2000 + np.arange(6000)),
            "post_pt_root_id": _ids(post_roots),
            **_points("ctr_pt_position", post - 1),
            "size": rng.integers(100, 9000, 6000).astype(float),
        }
    )


def _version(number, time_stamp, is_merged, roots, expires_on=None):
    nuclei = _nuclei(roots)
    lookup = nuclei.filter(like="pt_position").add_prefix("lookup ")
    lookup.columns = [f"pt_position_lookup_{axis}" for axis in "xyz"]
    view = pd.concat([nuclei, lookup], axis="columns").assign(orig_root_id=nuclei.pt_root_id)
    neurons = np.arange(0, 300, 4)
    cell_types = pd.DataFrame(
        {
            "id": _ids(neurons + 1),
            "target_id": _ids(200_000 + neurons),
            "classification_system": "is_neuron",
            "cell_type": "neuron",
        }
    )
    return MaterializedVersion(
        number,
        time_stamp,
        expires_on,
        is_merged,
        tables={
            "nucleus_detection_v0": CaveTable(
                nuclei,
                VX_NM,
                "nucleus_detection",
                flat_segmentation_source="precomputed://https://example.org/nuclei",
                notice_text="Mind the gap",
                description="nuclei",
            ),
            "synapses_pni_2": CaveTable(_synapses(), VX_NM, "synapse"),
            "nucleus_ref_neuron_svm": CaveTable(
                cell_types, VX_NM, "cell_type_reference", reference_table="nucleus_detection_v0"
            ),
        },
        views={
            "nucleus_detection_lookup_v1": CaveView(
                view[
                    [
                        "id",
                        "volume",
                        *(f"pt_position_{axis}" for axis in "xyz"),
                        "pt_root_id",
                        "orig_root_id",
                        "pt_supervoxel_id",
                        *(f"pt_position_lookup_{axis}" for axis in "xyz"),
                    ]
                ],
                VX_NM,
                description="lookup",
            )
        },
    )


@pytest.fixture(scope="session")
def datastack():
    """Versions as recorded: 661 with merged tables, 943 with split ones, 1000 expired. One root of 943 is NA."""
    roots = _ids(np.where(np.arange(300) % 50 == 0, 0, ROOT + np.arange(300)))
    roots_943 = roots.copy()
    roots_943[7] = pd.NA
    when = datetime(2023, 4, 6, 20, 17, 9, 199182)
    return Datastack(
        "minnie65_public",
        "minnie65_phase3",
        "graphene://{server}/segmentation/table/minnie65_public",
        [
            _version(661, when, True, roots, expires_on=datetime(2121, 11, 10, 7, 10, 0, 1)),
            _version(943, datetime(2024, 1, 21), False, roots_943),
            MaterializedVersion(1000, datetime(2024, 3, 1), datetime(2024, 6, 1), valid=False),
        ],
        synapse_table="synapses_pni_2",
        soma_table="nucleus_detection_v0",
        parent="minnie65_phase3_v1",
    )


@pytest.fixture
def no_home(tmp_path, monkeypatch):
    """No token of this machine's user is found, and nothing is written into their home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def running_server(datastack):
    """A server with tokens and a small row cap."""
    with CaveServer(
        datastack,
        token=TOKEN,
        row_cap=500,
        unprivileged_tokens=[POOR_TOKEN],
        tokens_without_terms=[RUDE_TOKEN],
    ) as running:
        yield running


@pytest.fixture
def server(running_server):
    """Return the server, in good health."""
    running_server.clear_faults()
    running_server.rate_limit(None)
    return running_server


@pytest.fixture
def client(server):
    """Return a client of version 943."""
    return client_of(server, version=943)


@pytest.fixture
def tables(datastack):
    """Return the frames that version 943 was made of."""
    version = datastack.version(943)
    return {name: table.frame for name, table in version.tables.items()}
