"""`somatic.results.nuclei`: the nuclei of a version, kept and read back."""

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stores import RESOLUTION_NM, made_nuclei

from somatic.errors import StoreError
from somatic.results.nuclei import load_nuclei, put_nuclei
from somatic.storage.parquet import parquet_bytes
from somatic.storage.store import ResultStore

NAMES = ["nucleus_id", "root_id", "x_vx", "y_vx", "z_vx"]


def test_they_come_back(store_url: str) -> None:
    """Ids to the last digit, no root as 0, no position as null; with the types that they had."""
    store, nuclei = ResultStore(store_url), made_nuclei(5, rootless=[1], placeless=[2])
    put_nuclei(store, nuclei)
    found = load_nuclei(store, RESOLUTION_NM)
    pd.testing.assert_frame_equal(found.frame, nuclei.frame)
    assert found.resolution_nm == RESOLUTION_NM


def test_the_file(store_url: str) -> None:
    """Five columns of int64, also where a column is null altogether, and nothing of pandas."""
    store = ResultStore(store_url)
    put_nuclei(store, made_nuclei(2, placeless=[0, 1]))
    schema = pq.read_schema(pa.BufferReader(store.get("nuclei.parquet")))
    assert schema.equals(pa.schema([(name, pa.int64()) for name in NAMES]))
    assert schema.metadata is None


def table(**columns: object) -> bytes:
    """A file of one nucleus, some of its columns given."""
    return parquet_bytes(pa.table({name: [1] for name in NAMES} | columns))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (table()[:-10], "is no whole Parquet file"),
        (b"", "is no whole Parquet file"),
        (parquet_bytes(pa.table({"nucleus_id": [1]})), "has no column root_id"),
        (table(nucleus_id=pa.array([None], pa.int64())), "is no table of nuclei"),
        (table(root_id=["abc"]), "is no table of nuclei"),
    ],
    ids=["cut", "empty", "a column less", "a null id", "text"],
)
def test_a_damaged_file(store_url: str, content: bytes, says: str) -> None:
    """One line names the file, and what to do."""
    store = ResultStore(store_url)
    store.put("nuclei.parquet", content)
    with pytest.raises(StoreError, match=f"nuclei.parquet {says}.*; .* again$") as caught:
        load_nuclei(store, RESOLUTION_NM)
    assert "\n" not in str(caught.value)
