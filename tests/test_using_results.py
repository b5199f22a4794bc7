"""Every piece of Python of docs/using-results.md, run against a bucket and a CAVE server of this machine."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import caveclient
import duckdb
import pandas as pd
import pyarrow as pa
import pytest
from snippets import snippets_of

from sandbox.cave.server import CaveServer
from sandbox.cave.tables import CaveTable
from sandbox.lab import NUCLEI_TABLE, datastack
from sandbox.phantom.scene import Scene
from somatic.features import COLUMNS, feature_table
from somatic.results.flags import put_flags
from somatic.storage.parquet import parquet_bytes
from somatic.storage.store import ResultStore

PAGE = Path(__file__).parent.parent / "docs" / "using-results.md"
BLOCKS = [snippet.code for snippet in snippets_of(PAGE) if snippet.language == "python"]
TYPES = "aibs_metamodel_celltypes_v661"


@pytest.fixture(scope="module")
def table(small_scene: Scene) -> pa.Table:
    """A table of its nuclei: one that is ok, one that has no soma, one that was skipped."""
    nuclei = small_scene.nuclei(1)
    common = {"materialization_version": 1, "definitions": "published", "n_nuclei_in_segment": 1}
    made = [
        {"status": "ok", "soma_volume_um": 1234.5, "soma_synapse_number": 40, "nucleus_is_clipped": False},
        {"status": "failed", "reason": "root id 864691135078164148 has no voxel in the cutout"},
        {"status": "skipped", "reason": "no root id at this version"},
    ]
    roots = (2**63 - 1, 2**53 + 1, 0)
    ids = sorted(nuclei["id"].tolist())
    return feature_table(
        {**common, **row, "nucleus_id": nucleus, "soma_id": root}
        for nucleus, root, row in zip(ids, roots, made, strict=True)
    )


@pytest.fixture(scope="module")
def cave(small_scene: Scene, table: pa.Table) -> Iterator[CaveServer]:
    """The scene behind CAVE, with a table of cell types that refers to that of the nuclei."""
    stack = datastack(small_scene)
    ids = table["nucleus_id"].to_pylist()
    frame = pd.DataFrame({"id": range(1, 3), "target_id": ids[:2], "cell_type": ["23P", "BC"]})
    types = CaveTable(frame, (4, 4, 40), "cell_type_reference", reference_table=NUCLEI_TABLE)
    versions = [replace(one, tables={**one.tables, TYPES: types}) if one.tables else one for one in stack.versions]
    with CaveServer(replace(stack, versions=versions)) as server:
        yield server


@pytest.fixture
def results(s3_url: str, table: pa.Table, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder of results in a bucket."""
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")  # for polars, since this S3 has no certificate
    store = ResultStore(f"{s3_url}/using")
    store.put("features.parquet", parquet_bytes(table))
    put_flags(store, table)
    return store.url


def test_every_piece_runs(
    results: str, table: pa.Table, cave: CaveServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In their order, as a reader types them; each finds what was put into the bucket."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    client = partial(caveclient.CAVEclient, server_address=cave.url, auth_token="any", write_server_cache=False)
    monkeypatch.setattr(caveclient, "CAVEclient", lambda _name, version: client("phantom", version=1))  # noqa: ARG005
    said: dict[str, Any] = {}
    first, *others = BLOCKS
    exec(first, said)
    assert said["folder"].startswith("somatic-demo/")
    said["folder"] = results
    for block in others:
        exec(compile(block, "using-results.md", "exec"), said)

    ids = table["nucleus_id"].to_pylist()
    assert said["features"]["soma_id"].tolist() == table["soma_id"].to_pylist()
    assert said["good"]["nucleus_id"].tolist() == ids[:1]
    assert said["soma"].rows() == [(ids[0], 2**63 - 1, 1234.5, 40)]
    reasons = said["reasons"].astype(object).where(said["reasons"].notna(), None)
    assert sorted(reasons.itertuples(index=False, name=None), key=str) == sorted(
        [
            ("ok", None, 1),
            ("failed", "root id ... has no voxel in the cutout", 1),
            ("skipped", "no root id at this version", 1),
        ],
        key=str,
    )
    assert dict(zip(said["typed"]["nucleus_id"], said["typed"]["cell_type"], strict=True)) == {
        ids[0]: "23P",
        ids[1]: "BC",
    }
    assert said["units"] == {column.name: column.unit for column in COLUMNS}


def test_ids_in_duckdb(results: str) -> None:
    """The largest id there is comes back whole."""
    import fsspec

    with duckdb.connect() as connection:
        connection.register_filesystem(fsspec.filesystem("s3"))
        [(largest,)] = connection.sql(f"SELECT max(soma_id) FROM '{results}/features.parquet'").fetchall()
    assert largest == 2**63 - 1
