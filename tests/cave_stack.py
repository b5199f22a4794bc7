"""A small datastack of CAVE, and its tables as `somatic.cave.tables` opens them."""

from dataclasses import replace
from datetime import datetime

import numpy as np
import pandas as pd

from sandbox.cave.server import CaveServer, CaveTable, CaveView, Datastack, MaterializedVersion
from somatic.cave.calls import Patience, RateLimiter
from somatic.cave.tables import CaveTables
from somatic.dataset import CaveSource, TableName

TOKEN = "7b0c2f6e1d5a4938a1f0e2d3c4b5a697"
HURRY = Patience(connect_s=2, answer_s=5, query_s=5, tries=3, wait_s=0.01, longest_wait_s=0.02, busy_pause_s=0.3)
BIG = 864691135000000000
"""A root id as minnie65 has them; float64 has steps of 128 there."""

NUCLEUS_NM = (4.0, 4.0, 40.0)
SYNAPSE_NM = (9.7, 9.7, 45.0)
N_NUCLEI = 60
N_SYNAPSES = 900


def nucleus_frame() -> pd.DataFrame:
    """Nuclei with ids from 3 to 2^63-1, four of them without a root: NA, 0, 1, NA."""
    rng = np.random.default_rng(1)
    ids = np.concatenate([np.arange(3, 40), 10**9 + 7 * np.arange(20), 2**53 + np.arange(1, 3), [2**63 - 1]])
    roots = pd.array(BIG + 3 * np.arange(N_NUCLEI), dtype="Int64")
    roots[[5, 30]] = pd.NA
    roots[6], roots[7] = 0, 1
    frame = pd.DataFrame({"id": ids, "volume": rng.uniform(200, 400, N_NUCLEI)})
    for axis, high in zip("xyz", (300000, 200000, 20000), strict=True):
        frame[f"pt_position_{axis}"] = rng.integers(0, high, N_NUCLEI)
    frame["pt_supervoxel_id"] = 9 * 10**16 + np.arange(N_NUCLEI)
    frame["pt_root_id"] = roots
    return frame.sample(frac=1, random_state=2)


def lookup_frame() -> pd.DataFrame:
    """The same nuclei as a view has them, with a second position."""
    frame = nucleus_frame()
    for axis, shift in zip("xyz", (10, -20, 30), strict=True):
        frame[f"pt_position_lookup_{axis}"] = frame[f"pt_position_{axis}"] + shift
    return frame


def synapse_frame() -> pd.DataFrame:
    """Synapses onto 5 roots between points a few voxels apart; every ninth joins a root to itself."""
    rng = np.random.default_rng(3)
    post = BIG + 3 * rng.integers(0, 5, N_SYNAPSES)
    pre = np.where(np.arange(N_SYNAPSES) % 9 == 0, post, BIG + 3 * rng.integers(10, 50, N_SYNAPSES))
    frame = pd.DataFrame({"id": 2**60 + 5 * np.arange(N_SYNAPSES), "pre_pt_root_id": pre, "post_pt_root_id": post})
    centre = rng.integers(0, 400, (N_SYNAPSES, 3))
    for name, points in (("ctr_pt", centre), ("post_pt", centre + rng.integers(-3, 4, (N_SYNAPSES, 3)))):
        for axis, values in zip("xyz", points.T, strict=True):
            frame[f"{name}_position_{axis}"] = values
    frame["size"] = rng.uniform(100, 1000, N_SYNAPSES)
    return frame


def a_version(number: int, **changes: object) -> MaterializedVersion:
    """A version with the tables that the tests ask for."""
    nuclei = CaveTable(
        nucleus_frame(), NUCLEUS_NM, "nucleus_detection", "precomputed://file:///nuclei", notice_text="Mind the gap"
    )
    reference = pd.DataFrame({"id": [71, 72, 73], "target_id": [5, 3, 4], "cell_type": ["a", "b", "c"]})
    synapses = synapse_frame()
    centre_only = synapses[[c for c in synapses if not c.startswith("post_pt_position")]]
    post_only = synapses[[c for c in synapses if not c.startswith("ctr_pt_position")]]
    tables = {
        "nucleus_detection_v0": nuclei,
        "nucleus_ref": CaveTable(
            reference, (1.0, 1.0, 1.0), "cell_type_reference", reference_table="nucleus_detection_v0"
        ),
        "nucleus_empty": replace(nuclei, frame=nucleus_frame().iloc[:0]),
        "nucleus_no_root": replace(nuclei, frame=nucleus_frame().drop(columns="pt_root_id")),
        "synapses": CaveTable(synapses, SYNAPSE_NM, "synapse"),
        "synapses_centre_only": CaveTable(centre_only, SYNAPSE_NM, "synapse"),
        "synapses_post_only": CaveTable(post_only, SYNAPSE_NM, "fly_synapse"),
    }
    version = MaterializedVersion(
        number,
        datetime(2024, 1, 21, 20, 17, 9, 199182),
        tables=tables,
        views={"nucleus_lookup": CaveView(lookup_frame(), NUCLEUS_NM)},
    )
    return replace(version, **changes)


def a_datastack(*its_versions: MaterializedVersion) -> Datastack:
    """A datastack of these versions."""
    return Datastack(
        "tiny_public",
        "tiny",
        "graphene://{server}/segmentation/table/tiny",
        list(its_versions),
        synapse_table="synapses",
    )


DATASTACK = a_datastack(
    a_version(1300),
    a_version(1000, valid=False),
    a_version(943, is_merged=True, expires_on=datetime(2121, 11, 10, 7, 10, 0, 1)),
    a_version(1500, valid=False, status="RUNNING"),
    a_version(1600, valid="f", status="FAILED"),
)


def with_tables(**tables: CaveTable) -> Datastack:
    """The datastack with one version, whose tables are these beside, or in place of, those of others."""
    version = a_version(1300)
    return a_datastack(replace(version, tables=version.tables | tables))


def source(
    server: CaveServer,
    table: str | None = None,
    view: str | None = None,
    position: str = "pt_position",
    **others: str,
) -> CaveSource:
    """Source of a server's nuclei; of its view where nothing is named."""
    view = view if view or table else "nucleus_lookup"
    nuclei = TableName(table=table, view=view, position=position)
    return CaveSource(server=server.url, datastack="tiny_public", nuclei=nuclei, **others)


def opened(server: CaveServer, version: int = 1300, **names: str) -> CaveTables:
    """Tables of a server, at no rate limit."""
    return CaveTables(source(server, **names), version, HURRY, RateLimiter(100_000))


def n_queries(server: CaveServer) -> int:
    """How many queries of rows a server answered so far."""
    return sum(request.method == "POST" for request in server.requests)


def synapses_by_hand(roots: list[int], lower_nm: np.ndarray, upper_nm: np.ndarray, point: str) -> pd.DataFrame:
    """Synapses of the table onto these roots in a box, without autapses."""
    frame = synapse_frame()
    at_nm = frame[[f"{point}_position_{axis}" for axis in "xyz"]].to_numpy() * SYNAPSE_NM
    chosen = (
        frame["post_pt_root_id"].isin(roots)
        & (frame["post_pt_root_id"] != frame["pre_pt_root_id"])
        & ((at_nm >= lower_nm) & (at_nm <= upper_nm)).all(axis=1)
    )
    return frame[chosen]
