"""The JSON that the old code was started with: what it means now, and what is said when it is wrong."""

import json
from pathlib import Path

import pytest
from dataset_files import ROOT, load, refusal, served

from somatic.dataset import CaveSource, TableName, load_dataset
from somatic.source import open_segmentation_url, open_source

SEED = {
    "dataset": "minnie65_public",
    "materialization_version": 661,
    "voxel_resolution": [4, 4, 40],
    "nuc_seg_source": "precomputed://https://example.org/nuclei",
    "nucleus_table": "nucleus_detection_lookup_v1",
    "output_filepath": "../data",
    "google_bucket": "a-bucket",
    "google_secret": "geheim",
    "token_file": "~/geheim.json",
    "gcsfs_project": "",
    "disk_cache_path": "minnie_meshes_661",
    "mip_level": 3,
    "chunk": 10,
    "cutout_radius": 15,
    "pool_size": 2,
}


def test_the_old_input(tmp_path: Path) -> None:
    """The JSON of Extract_Somatic_Features means the same as before."""
    dataset = load(tmp_path, json.dumps(SEED), "old.json")
    assert (dataset.name, dataset.mip, dataset.cutout_radius_um) == ("minnie65_public", 3, 15.0)
    assert dataset.default_version == 661
    assert dataset.results == str(tmp_path.parent / "data")
    assert dataset.segmentation is None
    assert dataset.cave == CaveSource(
        server="https://global.daf-apis.com",
        datastack="minnie65_public",
        nuclei=TableName(view="nucleus_detection_lookup_v1", position="pt_position_lookup"),
        nucleus_segmentation="precomputed://https://example.org/nuclei",
        synapses="datastack",
    )


def test_what_of_the_old_input_has_no_effect_is_said(tmp_path: Path) -> None:
    """A note for each key that is filled in and does nothing any more, without its value; equality ignores notes."""
    dataset = load(tmp_path, json.dumps(SEED), "old.json")
    keys = [note.removeprefix(f"{tmp_path / 'old.json'}: ").split()[0] for note in dataset.notes]
    idle = ["voxel_resolution", "google_bucket", "google_secret", "token_file", "disk_cache_path"]
    assert keys == [*idle, "chunk", "pool_size"]
    assert "geheim" not in " ".join(dataset.notes) + repr(dataset) + dataset.model_dump_json()
    lean = {key: SEED[key] for key in SEED if key not in keys}
    assert load(tmp_path, json.dumps(lean), "lean.json") == dataset
    assert load_dataset(tmp_path / "lean.json").notes == []


def test_the_old_input_at_a_cave_server(tmp_path: Path) -> None:
    """An old input opens its own version, its view at pt_position_lookup, and the datastack's synapse table."""
    with served(load(tmp_path, json.dumps(SEED), "old.json"), "precomputed://gs://bucket/own") as dataset:
        source = open_source(dataset)
        synapses = source.synapses([ROOT], [0, 0, 0], [1e6, 1e6, 1e6])
        assert source.version == 661
        assert source.nuclei().frame.to_numpy().tolist() == [[5, ROOT, 11, 22, 33]]
        assert source.nucleus_segmentation == "precomputed://https://example.org/nuclei"
        assert synapses is not None
        assert synapses.frame["synapse_id"].tolist() == [1]
        assert open_segmentation_url(dataset, source) == "precomputed://gs://bucket/own"


def test_the_old_input_on_a_graph(tmp_path: Path) -> None:
    """The datastack's own segmentation is a graph on minnie65, as the old scripts read it."""
    old = load(tmp_path, json.dumps(SEED), "old.json")
    with served(old, "graphene://{server}/segmentation/table/minnie65_public") as dataset:
        url = open_segmentation_url(dataset, open_source(dataset))
        assert url == f"graphene://{dataset.cave.server if dataset.cave else ''}/segmentation/table/minnie65_public"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mip_level": "3"}, ["mip_level: found '3'"]),
        ({"dataset": None}, ["dataset: found None", "datastack"]),
        ({"nucleus_table": ""}, ["nucleus_table: found ''"]),
        ({"cutout_radius": 0}, ["cutout_radius: found 0"]),
        ({"materialization_version": "661"}, ["materialization_version: found '661'"]),
        ({"cutout_radus": 15}, ["cutout_radus: unknown key, did you mean cutout_radius?"]),
    ],
)
def test_wrong_old_inputs_are_refused(tmp_path: Path, changes: dict[str, object], said: list[str]) -> None:
    """A wrong old input is refused with its own keys."""
    message = refusal(tmp_path, json.dumps({**SEED, **changes}), "old.json")
    assert [part for part in said if part not in message] == []
    assert "geheim" not in message
