"""The bases of an extraction: which result sets they are, and what is read of them."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from s3_proxy import S3Proxy
from stores import FIRST_ID, RADIUS_NM, made_nuclei, run

from somatic.errors import PermanentError, StoreError, StoreUnavailable
from somatic.planning.plan import make_plan
from somatic.results.base import Base, Since, choose_bases
from somatic.results.collect import gather
from somatic.results.manifest import put_manifest
from somatic.results.sets import ResultSet
from somatic.results.table import put_tables
from somatic.storage.parquet import parquet_bytes, table_from_parquet
from somatic.storage.places import config_hash
from somatic.storage.store import ResultStore

SETTINGS = {
    "definitions": "published",
    "mip": 3,
    "cutout_radius_um": 15.0,
    "segmentation_kind": "flat",
    "soma_features_version": 3,
    "nucleus_features_version": 4,
    "synapse_features_version": 3,
}
CONFIG = config_hash(SETTINGS)


def result_set(version: int, config: str = CONFIG, *, complete: bool = True, **other: object) -> ResultSet:
    """Results of a version, of the same settings but for some."""
    return ResultSet(version, config, complete, SETTINGS | other)


def no_warning(line: str) -> None:
    """Nobody expects one."""
    raise AssertionError(line)


OLD = {"nucleus_features_version": 3}
"""Settings of a table with the same somata."""
OTHER_SOMATA = {"soma_features_version": 2}


@pytest.mark.parametrize(
    ("sets", "chosen"),
    [
        ([result_set(943), result_set(1300)], ["v1300"]),
        ([result_set(943), result_set(1822)], ["v1822"]),
        # The same version has all somata, another one all nuclei.
        ([result_set(1300), result_set(1507, "a" * 8, **OLD), result_set(1822)], ["v1507", "v1822"]),
        ([result_set(1507, "a" * 8, **OLD)], ["v1507"]),
        # Of another version the one that has the nuclei too is the better one, though older.
        ([result_set(1300), result_set(1621, "a" * 8, **OLD)], ["v1300"]),
        ([result_set(1300, "a" * 8, **OLD), result_set(1621, "a" * 8, **OLD)], ["v1621"]),
        ([result_set(1507, "a" * 8, **OTHER_SOMATA), result_set(1300, "b" * 8, **OTHER_SOMATA)], ["v1507"]),
        ([result_set(1507, "a" * 8, mip=2), result_set(1300, "b" * 8, **OLD)], ["v1300", "v1507"]),
        # The number of synapses is counted again, so their version makes no difference.
        ([result_set(1507, "a" * 8, synapse_features_version=2)], ["v1507"]),
        ([result_set(1507, "a" * 8, definitions="corrected")], []),
        ([result_set(1507, "a" * 8, **OLD, **OTHER_SOMATA)], []),
        ([result_set(1300, complete=False)], []),
        ([result_set(1507)], []),
        ([ResultSet(1300, "a" * 8, complete=True)], []),
        ([], []),
    ],
)
def test_what_saves_most(sets: list[ResultSet], chosen: list[str]) -> None:
    """All somata of the same version, else the most of a complete table; nuclei from another table where need be."""
    names = choose_bases(sets, 1507, SETTINGS, "auto", no_warning)
    assert [name.partition("/")[0] for name in names] == chosen


def test_another_layer_needs_no_other_table() -> None:
    """A table that is older by the version of its nuclei alone, at each of two versions, as flat copies have it."""
    sets = [result_set(1300, "a" * 8, **OLD), result_set(1507, "a" * 8, **OLD), result_set(1300)]
    assert choose_bases(sets, 1507, SETTINGS, "auto", no_warning) == ("v1507/aaaaaaaa", f"v1300/{CONFIG}")
    assert choose_bases(sets, 1300, SETTINGS, "auto", no_warning) == ("v1300/aaaaaaaa",)


def test_a_version_that_is_named() -> None:
    """It need not be complete; one that is not there is an error, and without any nothing is reused."""
    sets = [result_set(943), result_set(1300), result_set(1621, complete=False)]
    assert choose_bases(sets, 1822, SETTINGS, 943, no_warning) == (f"v943/{CONFIG}",)
    assert choose_bases(sets, 1822, SETTINGS, 1621, no_warning) == (f"v1621/{CONFIG}",)
    assert choose_bases(sets, 1822, SETTINGS, None, no_warning) == ()
    with pytest.raises(PermanentError, match="^no results of version 7 to reuse; there are .*: 943, 1300, 1621$"):
        choose_bases(sets, 1822, SETTINGS, 7, no_warning)
    with pytest.raises(PermanentError, match="^no results of version 943 to reuse; there are .*: none$"):
        choose_bases(sets[:1], 943, SETTINGS, 943, no_warning)


def test_a_named_version_of_other_settings() -> None:
    """Nothing of it holds, which is said."""
    lines: list[str] = []
    other = result_set(1300, "a" * 8, definitions="corrected")
    assert choose_bases([other], 1507, SETTINGS, 1300, lines.append) == ()
    assert lines == ["nothing of version 1300 is reused: its results have other settings, or no table yet"]


@pytest.mark.parametrize("since", ["auto", 1300])
def test_results_that_cannot_be_read(since: Since) -> None:
    """One line names them and why; what can be read is reused."""
    lines: list[str] = []
    broken = ResultSet(1300, "bbbbbbbb", complete=False, fault=StoreError("cannot read manifest.json: no permission"))
    found = choose_bases([broken, result_set(1300)], 1507, SETTINGS, since, lines.append)
    assert found == (f"v1300/{CONFIG}",)
    [line] = lines
    assert line.startswith("v1300/bbbbbbbb is not reused")
    assert line.endswith("cannot read manifest.json: no permission")


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
    rows = base.load().rows([FIRST_ID + 4, FIRST_ID, FIRST_ID + 77, 1, FIRST_ID + 1])
    assert sorted(rows) == [FIRST_ID, FIRST_ID + 1, FIRST_ID + 4]
    assert rows[FIRST_ID + 4]["soma_volume_um"] == 4.0
    assert (rows[FIRST_ID]["status"], rows[FIRST_ID + 1]["status"]) == ("ok", "skipped")
    assert rows[FIRST_ID]["soma_fingerprint"] is None
    assert base.version == 1300
    assert base.rows([]) == {}
    few = base.rows([FIRST_ID], ("nucleus_id", "has_soma", "has_nucleus"))
    assert few == {FIRST_ID: {"nucleus_id": FIRST_ID, "has_soma": False, "has_nucleus": False}}


def test_a_table_that_is_not_that_of_its_manifest(base: Base) -> None:
    """One that was changed by hand, or is being written, is not reused."""
    name = "features.parquet"
    table = table_from_parquet(base.store.get(name), name)
    at = table.schema.get_field_index("soma_volume_um")
    base.store.put(name, parquet_bytes(table.set_column(at, table.schema[at], pa.nulls(6, pa.float64()))))
    with pytest.raises(StoreError, match=r"features\.parquet is not the table of its manifest; run .* 1300"):
        base.load()


def test_a_provenance_of_other_nuclei(base: Base) -> None:
    """Two files that do not belong together are noticed."""
    table = table_from_parquet(base.store.get("features.parquet"), "features").slice(1)
    data = parquet_bytes(table)
    base.store.put("features.parquet", data)
    put_manifest(base.store, {"sha256": {"features.parquet": hashlib.sha256(data).hexdigest()}})
    with pytest.raises(StoreError, match=r"provenance\.parquet has other nuclei than"):
        base.load()


@pytest.mark.parametrize("content", [b"", b'{"sha256": {"features.parq', b"[]", b"{}", b'{"sha256": null}'])
def test_a_damaged_manifest(base: Base, content: bytes) -> None:
    """The line names the file and says what to do."""
    base.store.put("manifest.json", content)
    with pytest.raises(StoreError, match=r"v1300/aaaaaaaa/manifest\.json is no manifest of somatic; delete it, and "):
        base.load()


@pytest.mark.parametrize("store_url", ["file"], indirect=True)
@pytest.mark.parametrize("name", ["features.parquet", "provenance.parquet", "manifest.json"])
@pytest.mark.parametrize("how", ["cut", "noise", "gone"])
def test_damaged_files(base: Base, name: str, how: str) -> None:
    """Whatever is wrong with its bytes, the line names the file."""
    data = base.store.get(name)
    noise = np.random.default_rng(0).integers(0, 256, len(data), np.uint8).tobytes()
    if how == "gone":
        Path(base.store.url_of(name)).unlink()
    else:
        base.store.put(name, data[: len(data) // 2] if how == "cut" else data[:8] + noise[8:-8] + data[-8:])
    with pytest.raises(StoreError, match=name.replace(".", r"\.")):
        base.load()


@pytest.mark.parametrize("store_url", ["file"], indirect=True)
def test_columns_of_other_types(base: Base) -> None:
    """A table that looks like provenance and is none."""
    table = table_from_parquet(base.store.get("provenance.parquet"), "provenance.parquet")
    at = table.schema.get_field_index("soma_version")
    base.store.put("provenance.parquet", parquet_bytes(table.set_column(at, "soma_version", pa.array(["?"] * 6))))
    with pytest.raises(StoreError, match=r"provenance\.parquet: the column soma_version holds string, not int64"):
        base.load()


@pytest.fixture
def proxy(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Proxy]:
    """Before the S3 server, which its clients try once."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with S3Proxy(s3_endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


@pytest.mark.parametrize("store_url", ["s3"], indirect=True)
@pytest.mark.usefixtures("base")
def test_no_permission(store_url: str, proxy: S3Proxy) -> None:
    """It says so and names the file."""
    proxy.faulty = ("provenance.parquet", 403)
    with pytest.raises(
        StoreError, match=r"cannot read s3://.*provenance\.parquet.*(Access Denied|Forbidden|ermission)"
    ):
        Base(ResultStore(store_url), "v1300/aaaaaaaa").load()


@pytest.mark.parametrize("store_url", ["s3"], indirect=True)
@pytest.mark.usefixtures("base")
def test_a_busy_store(store_url: str, proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for, since what the table holds took longer to measure; not for ever."""
    proxy.busy, proxy.refuses = True, 2
    assert Base(ResultStore(store_url), "v1300/aaaaaaaa").load().rows([FIRST_ID])
    monkeypatch.setattr("somatic.results.base.PATIENCE_S", 0)
    proxy.busy, proxy.refuses = True, None
    with pytest.raises(StoreUnavailable, match="cannot read s3://"):
        Base(ResultStore(store_url), "v1300/aaaaaaaa").load()


def test_what_is_no_name_of_a_result_set(store_url: str) -> None:
    """A run file that was edited by hand may name anything."""
    with pytest.raises(PermanentError, match="'v1300' is no name of a result set; expected v<version>/<configuration>"):
        Base(ResultStore(store_url), "v1300")
