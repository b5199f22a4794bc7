"""`somatic.storage.places`: names of result sets, and the configurations they are of."""

from pathlib import Path

import pytest

from somatic.dataset import load_dataset
from somatic.errors import PermanentError
from somatic.features import features_versions
from somatic.storage.places import config_hash, configuration, open_results, parse_set_name, set_name, set_names
from somatic.storage.store import ResultStore

BASE = {
    "definitions": "published",
    "mip": 3,
    "cutout_radius_um": 15.0,
    "soma_features_version": 1,
    "nucleus_features_version": 2,
    "synapse_features_version": 3,
    "segmentation_kind": "flat",
}


@pytest.mark.parametrize(
    "other",
    [
        {"definitions": "corrected"},
        {"mip": 2},
        {"cutout_radius_um": 15.5},
        {"soma_features_version": 4},
        {"nucleus_features_version": 4},
        {"synapse_features_version": 4},
        {"segmentation_kind": "graph"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_config_hash_moves_with_each_part(other: dict[str, str | int | float]) -> None:
    """Anything that changes numbers makes another folder; in which order it is said does not."""
    assert config_hash(BASE | other) != config_hash(BASE)
    assert config_hash(dict(reversed(BASE.items()))) == config_hash(BASE)


def test_config_hash_stays() -> None:
    """Written down, since another value would hide all results that exist."""
    assert config_hash(BASE) == "f2cc7d68"


@pytest.mark.parametrize("radius", ["15", "15.0"])
def test_how_a_number_is_written_makes_no_configuration(tmp_path: Path, radius: str) -> None:
    """A radius without a point in the dataset file is the same radius."""
    path = tmp_path / "mine.toml"
    path.write_text(
        f'name = "mine"\nmip = 3\ncutout_radius_um = {radius}\nsegmentation = "/data/seg"\n'
        '[files]\nnuclei = "nuclei.csv"\nresolution_nm = [4, 4, 40]\n'
    )
    versions = {name: BASE[name] for name in features_versions()}
    assert config_hash(configuration(load_dataset(path), "flat") | versions) == "f2cc7d68"


def test_where_a_result_set_lies(store_url: str) -> None:
    """Below its dataset, under its version and its configuration."""
    results = open_results(load_dataset("minnie65"), f"{store_url}/")
    assert results.below(set_name(1300, "0123abcd")).url == f"{store_url}/minnie65/v1300/0123abcd"


def test_names_are_read_back(store_url: str) -> None:
    """Version and configuration as they were; what else lies there is no result set."""
    results = ResultStore(store_url)
    names = [set_name(1300, "0123abcd"), set_name(943, "00000000")]
    for folder in (*names, "v1300/0123abcde", "v1300/notes", "vessels/0123abcd", "runs"):
        results.put(f"{folder}/manifest.json", b"{}")
    assert sorted(set_names(results)) == sorted(names)
    assert [parse_set_name(name) for name in names] == [(1300, "0123abcd"), (943, "00000000")]


@pytest.mark.parametrize("name", ["", "v1300", "1300/0123abcd", "v1300/0123abcd/", "v1300/0123ABCD", "../v1/0123abcd"])
def test_other_names(name: str) -> None:
    """They are refused, and named."""
    with pytest.raises(PermanentError, match=f"^'{name}' is no name of a result set; expected v<version>/"):
        parse_set_name(name)
