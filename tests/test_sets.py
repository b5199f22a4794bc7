"""`somatic.results.sets`: which results of a dataset lie at a place, and which are complete."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from somatic.errors import StoreError
from somatic.features import features_versions
from somatic.results.manifest import make_manifest, put_manifest
from somatic.results.sets import ResultSet, result_sets
from somatic.storage.store import ResultStore

WHOLE = {"queried": 15, "nuclei": 15, "ok": 11, "failed": 1, "failed_transient": 0, "skipped": 3, "planned": 15}


def collected(
    results: ResultStore, version: int, config: str, counts: dict[str, int], settings: dict[str, object] | None = None
) -> None:
    """Have a manifest stand where an extraction puts it."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    manifest = make_manifest(
        dataset={"name": "phantom"},
        materialization_version=version,
        materialization_timestamp=moment,
        config=settings or {},
        config_hash=config,
        layers={},
        plan_hash="0123456789abcdef",
        counts=counts,
        files={},
        started=moment,
        finished=moment,
        cost={},
    )
    put_manifest(ResultStore(results.url_of(f"v{version}/{config}")), manifest)


def test_all_versions_and_configurations(store_url: str) -> None:
    """They come by number of the version, 1300 after 943; files beside them, and other folders, are none."""
    results = ResultStore(store_url)
    settings = {"mip": 3, **features_versions()}
    for version, config in ((1300, "0a1b2c3d"), (943, "aaaaaaaa"), (1300, "00000000")):
        collected(results, version, config, WHOLE, settings)
    results.put("runs/0a1b2c3d.json", b"{}")
    results.put("v1300/notes.txt", b"by hand")
    results.put("vessels/0a1b2c3d/manifest.json", b"{}")
    assert result_sets(results) == [
        ResultSet(943, "aaaaaaaa", complete=True, settings=settings),
        ResultSet(1300, "00000000", complete=True, settings=settings),
        ResultSet(1300, "0a1b2c3d", complete=True, settings=settings),
    ]


def test_settings_from_before_the_groups_had_versions(tmp_path: Path) -> None:
    """The one version that a table had was that of its somata, nuclei and synapses."""
    results = ResultStore(str(tmp_path))
    collected(results, 1300, "0a1b2c3d", WHOLE, {"mip": 3, "features_version": 3})
    [found] = result_sets(results)
    versions = dict.fromkeys(("soma_features_version", "nucleus_features_version", "synapse_features_version"), 3)
    assert found.settings == {"mip": 3, "features_version": 3, **versions}


def test_nothing_yet(store_url: str) -> None:
    """Where nobody has extracted anything there is nothing."""
    assert result_sets(ResultStore(store_url)) == []


@pytest.mark.parametrize(
    "differs",
    [
        {"nuclei": 5, "planned": 5},
        {"nuclei": 5, "planned": 5, "queried": None},
        {"failed": 2, "failed_transient": 1},
        {"nuclei": 14},
    ],
    ids=["--limit", "not said how many there are", "failed for now", "a nucleus without a row"],
)
def test_what_is_not_complete(differs: dict[str, int | None], store_url: str) -> None:
    """A table that lacks nuclei, or may lack some, or has rows that the next run would measure again."""
    results = ResultStore(store_url)
    counts = {name: number for name, number in (WHOLE | differs).items() if number is not None}
    collected(results, 1300, "0a1b2c3d", counts)
    [found] = result_sets(results)
    assert not found.complete


def test_an_extraction_that_has_not_ended(store_url: str) -> None:
    """Without a manifest it is there, and not complete."""
    results = ResultStore(store_url)
    results.put("v1300/0a1b2c3d/chunks/0123456789abcdef.parquet", b"")
    assert [(one.version, one.complete) for one in result_sets(results)] == [(1300, False)]


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"{}", b'{"counts": 3}', b'{"counts": {"ok": 3}}'])
def test_a_broken_manifest(content: bytes, tmp_path: Path) -> None:
    """It costs its own set alone, whose fault names the file and says what to do."""
    results = ResultStore(str(tmp_path))
    results.put("v1300/0a1b2c3d/manifest.json", content)
    collected(results, 1507, "0a1b2c3d", WHOLE)
    broken, whole = result_sets(results)
    assert (broken.complete, whole.complete) == (False, True)
    assert isinstance(broken.fault, StoreError)
    assert "v1300/0a1b2c3d/manifest.json is no manifest of somatic; delete it, and " in str(broken.fault)
    assert whole.fault is None
