"""`somatic.extracting.versions`: which materialization versions want an extraction."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from somatic.cave.datastack import Version
from somatic.dataset import load_dataset
from somatic.errors import DatasetError
from somatic.extracting.versions import known_versions, newest_complete, standings
from somatic.results.runs import Run
from somatic.results.sets import ResultSet
from somatic.storage.places import config_hashes

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def known(*numbers: int) -> list[Version]:
    """Versions that can be queried."""
    return [Version(number, MOMENT, None) for number in numbers]


def table(version: int, *, complete: bool = True, config: str = "0a1b2c3d") -> ResultSet:
    """What lies at the place of a version."""
    return ResultSet(version, config, complete)


def begun(version: int, *, whole: bool = True, run: str = "run") -> Run:
    """An extraction of a version that has planned."""
    return Run(run, version, "0a1b2c3d", "0123456789abcdef", 20, MOMENT, whole=whole)


def states(*arguments: list) -> dict[int, str]:
    """The state of each version, in the order in which they come."""
    return {one.version.number: one.state for one in standings(*arguments)}


def test_what_is_newer_than_the_newest_table() -> None:
    """The newest comes first; a version of former years that nobody extracted is passed over."""
    found = standings(known(117, 1300, 943, 1718, 1621), [table(943), table(1300)], [])
    assert [(one.version.number, one.state, one.wanted) for one in found] == [
        (1718, "new", True),
        (1621, "new", True),
        (1300, "complete", False),
        (943, "complete", False),
        (117, "passed over", False),
    ]


def test_a_table_that_is_not_complete_is_none() -> None:
    """An extraction that failed for now is taken up again, whether newer tables are complete or not."""
    sets = [table(943), table(1300, complete=False), table(1621, complete=False), table(1507)]
    assert states(known(943, 1300, 1507, 1621), sets, [begun(1621), begun(1300)]) == {
        1621: "begun",
        1507: "complete",
        1300: "begun",
        943: "complete",
    }


def test_a_sample_of_an_old_version_is_no_beginning() -> None:
    """Who looked at 20 cells of 943 did not ask for all of it; of a new version all is wanted anyway."""
    sets = [table(1300), table(943, complete=False), table(1507, complete=False)]
    assert states(known(943, 1300, 1507), sets, [begun(943, whole=False), begun(1507, whole=False)]) == {
        1507: "new",
        1300: "complete",
        943: "passed over",
    }


def test_the_table_of_an_expired_version_counts() -> None:
    """What is newer than it is new, though it cannot be asked any more."""
    assert states(known(943, 1507), [table(1412)], [begun(1412)]) == {1507: "new", 943: "passed over"}


def test_two_configurations_of_one_version() -> None:
    """Flat or through the graph: one complete table of a version is enough."""
    sets = [table(1300, config="00000000", complete=False), table(1300, config="0a1b2c3d")]
    assert states(known(1300), sets, [begun(1300)]) == {1300: "complete"}


def test_no_table_yet() -> None:
    """Then there is no newest, and nothing is old."""
    assert newest_complete([table(1300, complete=False)]) is None
    assert states(known(943, 1300), [table(1300, complete=False)], [begun(1300)]) == {1300: "begun", 943: "new"}


def test_the_runs_of_a_version() -> None:
    """They come as they were given, the latest first, and only those that wanted all."""
    runs = [begun(1507, run="third"), begun(1300), begun(1507, whole=False, run="second"), begun(1507, run="first")]
    [found] = standings(known(1507), [table(1300)], runs)
    assert found.runs == ("third", "first")


def test_tables_in_files_have_one_version(tmp_path: Path) -> None:
    """One line says that there is nothing to watch, and what to do instead."""
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\nmip = 0\nsegmentation = "/data/seg"\n'
        '[files]\nnuclei = "nuclei.csv"\nresolution_nm = [4, 4, 40]\nversion = 7\n'
    )
    with pytest.raises(DatasetError, match="^mine: its tables are files, which have one version, 7; there is nothing"):
        known_versions(load_dataset(path))


def test_configurations_of_a_dataset() -> None:
    """minnie65 has one flat and one through the graph; another mip has others."""
    minnie65 = load_dataset("minnie65")
    parts = '{"cutout_radius_um": 15.0, "definitions": "published", "mip": 3, "nucleus_features_version": 4, '
    more = '"soma_features_version": 3, "synapse_features_version": 3}'
    written = [f'{parts}"segmentation_kind": "{kind}", {more}' for kind in ("flat", "graph")]
    assert config_hashes(minnie65) == {hashlib.sha256(text.encode()).hexdigest()[:8] for text in written}
    assert config_hashes(minnie65).isdisjoint(config_hashes(minnie65.model_copy(update={"mip": 2})))
