"""The base of an extraction: which result set it is, and what is read of it."""

import hashlib

import pyarrow as pa
import pytest
from stores import FIRST_ID, RADIUS_NM, made_nuclei, run

from somatic.errors import PermanentError, StoreError
from somatic.planning.plan import make_plan
from somatic.results.base import Base, choose_base
from somatic.results.collect import gather
from somatic.results.manifest import put_manifest
from somatic.results.sets import ResultSet
from somatic.results.table import put_tables
from somatic.storage.parquet import parquet_bytes, table_from_parquet
from somatic.storage.store import ResultStore

SETS = [
    ResultSet(943, "aaaaaaaa", complete=True),
    ResultSet(1300, "aaaaaaaa", complete=True),
    ResultSet(1300, "bbbbbbbb", complete=True),
    ResultSet(1507, "bbbbbbbb", complete=True),
    ResultSet(1621, "aaaaaaaa", complete=False),
]


@pytest.mark.parametrize(
    ("version", "config", "since", "chosen"),
    [
        (1822, "aaaaaaaa", "auto", "v1300/aaaaaaaa"),
        (1822, "bbbbbbbb", "auto", "v1507/bbbbbbbb"),
        (1822, "cccccccc", "auto", "v1507/bbbbbbbb"),
        (1300, "aaaaaaaa", "auto", "v943/aaaaaaaa"),
        (943, "aaaaaaaa", "auto", "v1300/aaaaaaaa"),
        (1822, "aaaaaaaa", 1621, "v1621/aaaaaaaa"),
        (1822, "bbbbbbbb", 1300, "v1300/bbbbbbbb"),
        (1822, "cccccccc", 943, "v943/aaaaaaaa"),
        (1822, "aaaaaaaa", None, None),
    ],
)
def test_which_result_set(version: int, config: str, since: int | str | None, chosen: str | None) -> None:
    """The newest complete one of the same configuration, else of any; the one that is named; never itself; or none."""
    assert choose_base(SETS, version, config, since) == chosen


def test_nothing_to_take_over_from() -> None:
    """Where there is nothing that is complete all is measured; a version that is named must be there."""
    assert choose_base(SETS[-1:], 1822, "aaaaaaaa", "auto") is None
    assert choose_base(SETS[:1], 943, "aaaaaaaa", "auto") is None
    with pytest.raises(PermanentError, match="no results of version 7 to .*; there are: 943, 1300, 1507, 1621"):
        choose_base(SETS, 1822, "aaaaaaaa", 7)


@pytest.fixture
def base(store_url: str) -> Base:
    """A collected result set of six nuclei, of which one has no root."""
    results = ResultStore(store_url)
    store = ResultStore(results.url_of("v1300/aaaaaaaa"))
    nuclei = made_nuclei(6, rootless=[1])
    plan = make_plan(nuclei, radius_nm=RADIUS_NM)
    run(store, plan)
    rows = gather(store, plan, nuclei, materialization_version=1300, definitions="published")
    collected = put_tables(store, plan, rows)
    put_manifest(store, {"sha256": {"features.parquet": collected.sha256}})
    return Base(results, "v1300/aaaaaaaa")


def test_rows_of_some_nuclei(base: Base) -> None:
    """Features and provenance of those that are there, exact to the last digit of their ids."""
    rows = base.rows([FIRST_ID + 4, FIRST_ID, FIRST_ID + 77, 1, FIRST_ID + 1])
    assert sorted(rows) == [FIRST_ID, FIRST_ID + 1, FIRST_ID + 4]
    assert rows[FIRST_ID + 4]["soma_volume_um"] == 4.0
    assert (rows[FIRST_ID]["status"], rows[FIRST_ID + 1]["status"]) == ("ok", "skipped")
    assert rows[FIRST_ID]["soma_fingerprint"] is None
    assert base.version == 1300
    assert base.rows([]) == {}


def test_a_table_that_is_not_that_of_its_manifest(base: Base) -> None:
    """One that was changed by hand, or is being written, is not taken over from."""
    name = "features.parquet"
    table = table_from_parquet(base.store.get(name), name)
    at = table.schema.get_field_index("soma_volume_um")
    base.store.put(name, parquet_bytes(table.set_column(at, table.schema[at], pa.nulls(6, pa.float64()))))
    with pytest.raises(StoreError, match=r"features\.parquet is not the table of its manifest; extract version 1300"):
        base.rows([FIRST_ID])


def test_a_provenance_of_other_nuclei(base: Base) -> None:
    """Two files that do not belong together are noticed."""
    table = table_from_parquet(base.store.get("features.parquet"), "features").slice(1)
    data = parquet_bytes(table)
    base.store.put("features.parquet", data)
    put_manifest(base.store, {"sha256": {"features.parquet": hashlib.sha256(data).hexdigest()}})
    with pytest.raises(StoreError, match=r"provenance\.parquet has other nuclei than"):
        base.rows([FIRST_ID])


@pytest.mark.parametrize("content", [b"", b'{"sha256": {"features.parq', b"[]", b"{}", b'{"sha256": null}'])
def test_a_damaged_manifest(base: Base, content: bytes) -> None:
    """The line names the file and says what to do."""
    base.store.put("manifest.json", content)
    with pytest.raises(StoreError, match=r"v1300/aaaaaaaa/manifest\.json is no manifest of somatic; delete it, and "):
        base.rows([FIRST_ID])


def test_what_is_no_name_of_a_result_set(store_url: str) -> None:
    """A run file that was edited by hand may name anything."""
    with pytest.raises(PermanentError, match="'v1300' is no name of a result set; expected v<version>/<configuration>"):
        _ = Base(ResultStore(store_url), "v1300").version
