"""Dataset files: what they mean, and what is said when they are wrong."""

import re
from pathlib import Path

import numpy as np
import pytest
from dataset_files import load, refusal, served
from hypothesis import given
from hypothesis import strategies as st

from somatic.dataset import (
    CaveSource,
    Dataset,
    FileSource,
    Pia,
    TableName,
    dataset_names,
    load_dataset,
    segmentation_kind,
)
from somatic.errors import DatasetError
from somatic.report.depth import depth_um
from somatic.source import open_segmentation_url, open_source
from somatic.validation import validated
from somatic.volume.access import ANONYMOUS, Access

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = (REPOSITORY / "docs" / "datasets.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(toml|json)\n(.*?)```", DOCS, re.DOTALL)

CAVE = """
name = "volume"
mip = 3
segmentation = "precomputed://gs://bucket/seg"
[cave]
datastack = "stack"
nuclei = {table = "nuclei_v1"}
"""
FILES = """
name = "volume"
mip = 0
segmentation = "seg"
[files]
nuclei = "nuclei.csv"
resolution_nm = [4, 4, 40]
"""


def test_minnie65_is_what_the_public_release_says() -> None:
    """The bundled dataset names the public places of minnie65, as its documentation lists them."""
    dataset = load_dataset("minnie65")
    public = "precomputed://gs://iarpa_microns/minnie/minnie65"
    assert dataset.flat_versions == [117, 343, 943, 1300]
    assert dataset.segmentation_for(117) == f"{public}/seg"
    assert dataset.segmentation_for(343) == f"{public}/seg_m343"
    assert dataset.segmentation_for(943) == f"{public}/seg_m943"
    assert dataset.segmentation_for(1300) == f"{public}/seg_m1300"
    assert (dataset.name, dataset.mip, dataset.cutout_radius_um) == ("minnie65", 3, 15.0)
    assert dataset.definitions == "published"
    assert dataset.default_version == "latest"
    assert dataset.cave == CaveSource(
        server="https://global.daf-apis.com",
        datastack="minnie65_public",
        nuclei=TableName(view="nucleus_detection_lookup_v1", position="pt_position_lookup"),
        nucleus_segmentation=(
            "precomputed://https://bossdb-open-data.s3.amazonaws.com/iarpa_microns/minnie/minnie65/nuclei"
        ),
        synapses="synapses_pni_2",
    )


def test_a_version_without_a_flat_copy_is_read_through_the_graph() -> None:
    """A flat copy is preferred; every other version has the graph."""
    graph = "graphene://https://minnie.microns-daf.com/segmentation/table/minnie65_public"
    assert load_dataset("minnie65").segmentation_for(1507) == graph


def test_names() -> None:
    """Datasets by name are the TOML files that come with the package."""
    assert dataset_names() == sorted(path.stem for path in (REPOSITORY / "deployments/datasets").glob("*.toml"))
    assert "minnie65" in dataset_names()


@pytest.mark.parametrize("name", ["mini65", "minnie65.toml", "no/such/file.toml"])
def test_an_unknown_dataset_lists_the_known_ones(name: str) -> None:
    """A dataset that is not there is named together with those that are."""
    with pytest.raises(DatasetError) as caught:
        load_dataset(name)
    assert repr(name) in str(caught.value)
    assert "minnie65" in str(caught.value).removeprefix(f"no dataset {name!r}")


def test_the_shortest_file_has_the_published_defaults(tmp_path: Path) -> None:
    """What is left out is what the published features were measured with."""
    dataset = load(tmp_path, CAVE)
    assert dataset.cutout_radius_um == 15.0
    assert dataset.definitions == "published"
    assert dataset.cave is not None
    assert dataset.cave.server == "https://global.daf-apis.com"
    assert dataset.cave.nuclei == TableName(table="nuclei_v1", position="pt_position")
    assert dataset.cave.nuclei.name == "nuclei_v1"
    assert dataset.cave.synapses is None
    assert dataset.notes == []


def test_every_version_has_its_own_segmentation_or_the_common_one(tmp_path: Path) -> None:
    """A version's own entry wins over the common segmentation."""
    dataset = load(tmp_path, CAVE.replace("[cave]", '[segmentations]\n943 = "gs://bucket/seg_m943"\n[cave]'))
    assert dataset.segmentation_for(943) == "precomputed://gs://bucket/seg_m943"
    assert dataset.segmentation_for(944) == "precomputed://gs://bucket/seg"


def test_a_version_without_any_segmentation(tmp_path: Path) -> None:
    """Where nothing is named for a version, the line names the versions with a flat copy."""
    text = CAVE.replace('segmentation = "precomputed://gs://bucket/seg"', "[segmentations]\n7 = '/a'\n5 = '/b'")
    with pytest.raises(DatasetError, match=r"no segmentation for version 6.*5, 7"):
        load(tmp_path, text).segmentation_for(6)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("seg", "precomputed://file://{folder}/seg"),
        ("./seg/", "precomputed://file://{folder}/seg"),
        ("precomputed://file://./seg", "precomputed://file://{folder}/seg"),
        ("precomputed://file://../seg", "precomputed://file://{parent}/seg"),
        ("file://seg", "precomputed://file://{folder}/seg"),
        ("/data/seg", "precomputed://file:///data/seg"),
        ("precomputed://file:///data/seg", "precomputed://file:///data/seg"),
        ("precomputed:///data/seg", "precomputed://file:///data/seg"),
        ("s3://bucket/seg", "precomputed://s3://bucket/seg"),
        ("precomputed://https://host/seg", "precomputed://https://host/seg"),
    ],
)
def test_segmentations_become_urls(tmp_path: Path, written: str, meant: str) -> None:
    """Folders count from the dataset file, wherever the command runs; URLs stay."""
    meant = meant.format(folder=tmp_path, parent=tmp_path.parent)
    more = f'nucleus_segmentation = "{written}"\n'
    for text in (CAVE, FILES):
        dataset = load(tmp_path, re.sub('segmentation = ".*"', f'segmentation = "{written}"', text) + more)
        source = dataset.cave or dataset.files
        assert dataset.segmentation_for(0) == meant
        assert source is not None
        assert source.nucleus_segmentation
        assert source.nucleus_segmentation.url == meant
        assert dataset.access_to(meant) == ANONYMOUS


PRIVATE = '{url = "s3://bucket/seg", credentials = true}'
PAID = '{url = "gs://bucket/nuclei", credentials = true, requester_pays = true}'


def test_layers_that_need_credentials(tmp_path: Path) -> None:
    """A layer may be a table with its URL, and only what is named like that is read with credentials."""
    text = f"""
name = "volume"
mip = 0
segmentation = {PRIVATE}
[segmentations]
5 = "s3://bucket/seg_5"
6 = {PRIVATE.replace("seg", "seg_6")}
[files]
nuclei = "nuclei.csv"
resolution_nm = [4, 4, 40]
nucleus_segmentation = {PAID}
"""
    dataset = load(tmp_path, text)
    assert dataset.segmentation_for(0) == "precomputed://s3://bucket/seg"
    assert dataset.access_to("precomputed://s3://bucket/seg") == Access(credentials=True)
    assert dataset.access_to(dataset.segmentation_for(5)) == ANONYMOUS
    assert dataset.access_to(dataset.segmentation_for(6)) == Access(credentials=True)
    nuclei = open_source(dataset).nucleus_segmentation
    assert nuclei == "precomputed://gs://bucket/nuclei"
    assert dataset.access_to(nuclei) == Access(credentials=True, requester_pays=True)
    assert dataset.access_to("precomputed://s3://bucket/another") == ANONYMOUS
    assert dataset.access_to(None) == ANONYMOUS
    assert dataset.flat_versions == [5, 6]
    assert Dataset.model_validate_json(dataset.model_dump_json()) == dataset
    dumped = dataset.model_dump(mode="json")
    assert dumped["segmentation"] == {
        "url": "precomputed://s3://bucket/seg",
        "credentials": True,
        "requester_pays": False,
    }
    assert dumped["segmentations"]["5"] == "precomputed://s3://bucket/seg_5"


def test_a_graph_with_a_private_watershed(tmp_path: Path) -> None:
    """The table is about the bucket that the graph names."""
    graph = '{url = "graphene://https://host/segmentation/table/a", credentials = true, requester_pays = true}'
    dataset = load(tmp_path, CAVE.replace('"precomputed://gs://bucket/seg"', graph))
    assert dataset.access_to(dataset.segmentation_for(1)) == Access(credentials=True, requester_pays=True)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ('{url = "seg", credentials = true}', ["segmentation: credentials are for layers on gs://, s3:// or https://"]),
        ('{url = "s3://b/s", requester_pays = true}', ["segmentation: requester_pays is for", "credentials = true"]),
        (
            '{url = "https://h/s", credentials = true, requester_pays = true}',
            ["requester_pays is for", "gs:// or s3://"],
        ),
        ('{url = "s3://https://h/b/s", credentials = true}', ["expected s3://BUCKET/...", "AWS_ENDPOINT_URL"]),
        ('{url = "s3://b/s", credentials = "yes"}', ["segmentation.credentials: found 'yes'", "anonymously"]),
        ('{url = "s3://b/s", credential = true}', ["segmentation.credential: unknown key, did you mean credentials?"]),
        ("{credentials = true}", ["segmentation.url: missing", "s3://bucket/segmentation"]),
        ('{url = "zarr://s3://b/s"}', ["segmentation.url: found 'zarr://s3://b/s'"]),
        ('"https://me:word@h/s"', ["segmentation: holds a user or password"]),
        (
            '"precomputed://middleauth+https://h/s"',
            ["a store that cannot be read", "one of gs://, s3://"],
        ),
        ('"precomputed://mem://h/s"', ["a store that cannot be read"]),
    ],
)
def test_layers_that_cannot_be_read_like_that(tmp_path: Path, layer: str, said: list[str]) -> None:
    """One line with the key, and what is expected there."""
    text = refusal(tmp_path, CAVE.replace('"precomputed://gs://bucket/seg"', layer))
    assert all(part in text for part in said), text
    assert "word@" not in text


def test_other_paths_count_from_the_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables and results lie where the file says, also when the file is named by a relative path."""
    (tmp_path / "volume.toml").write_text(
        FILES.replace("mip = 0", 'mip = 0\nresults = "../results"').replace('"nuclei.csv"', '"tables/nuclei.csv"')
        + 'synapses = "s3://bucket/synapses.parquet"\n'
    )
    monkeypatch.chdir(tmp_path.parent)
    dataset = load_dataset(f"{tmp_path.name}/volume.toml")
    assert dataset.files is not None
    assert dataset.files.nuclei == f"{tmp_path}/tables/nuclei.csv"
    assert dataset.files.synapses == "s3://bucket/synapses.parquet"
    assert dataset.results == f"{tmp_path.parent}/results"


def test_a_dataset_survives_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset goes into a manifest or to another machine as JSON and comes back equal."""
    for text in (CAVE, FILES):
        dataset = load(tmp_path, text)
        monkeypatch.chdir("/")
        again = Dataset.model_validate_json(dataset.model_dump_json())
        assert again == dataset
        assert hash(again) == hash(dataset)
    assert load(tmp_path, CAVE) != load(tmp_path, FILES)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("mip = 3", "mip 3", ["not valid TOML", "line 3", "column"]),
        ("mip = 3", "", ["mip: missing", "whole number"]),
        ("mip = 3", 'mip = "three"', ["mip: found 'three'", "expected the mip level"]),
        ("mip = 3", "mip = true", ["mip: found True"]),
        ("mip = 3", "mip = -1", ["mip: found -1"]),
        ("mip = 3", "mip = 3\ncutout_radius_um = 0", ["cutout_radius_um: found 0", "from 0.001"]),
        ("mip = 3", 'mip = 3\ndefinitions = "new"', ["definitions: found 'new', expected \"published\""]),
        ("mip = 3", "mip = 3\ncutout_radius = 9", ["cutout_radius: unknown key, did you mean cutout_radius_um?"]),
        ("mip = 3", "mip = 3\nxyzzy = 9", ["xyzzy: unknown key, expected one of name, mip"]),
        ("mip = 3", 'mip = 3\ndatastack = "s"', ["datastack: belongs under [cave]"]),
        ('name = "volume"', 'name = "a/b"', ["name: found 'a/b'", "letters"]),
        ("precomputed://gs", "zarr://gs", ["segmentation: found 'zarr://gs://bucket/seg'", "precomputed://"]),
        ("precomputed://gs://bucket/seg", "  ", ["segmentation: is empty"]),
        ("precomputed://gs://bucket/seg", "precomputed://", ["segmentation: is empty"]),
        ("[cave]", "[segmentations]\nv943 = '/a'\n[cave]", ["segmentations.v943", "materialization version"]),
        ("[cave]", "[segmentations]\n943 = 5\n[cave]", ["segmentations.943: found 5", "precomputed"]),
        ("[cave]", "[cave]\nmip = 2", ["cave.mip: belongs to the top"]),
        ("datastack", "datastak", ["cave.datastack: missing", "cave.datastak: unknown key, did you mean datastack?"]),
        ('"stack"', "5", ["cave.datastack: found 5"]),
        ("[cave]", '[cave]\nserver = "global.daf-apis.com"', ["cave.server: found 'global.daf-apis.com'", "https://"]),
        ('{table = "nuclei_v1"}', '"nuclei_v1"', ["cave.nuclei: found 'nuclei_v1'", "{table = "]),
        ('{table = "nuclei_v1"}', "{}", ["cave.nuclei: expected either table or view"]),
        ('{table = "nuclei_v1"}', '{table = "a", view = "b"}', ["cave.nuclei: expected either table or view"]),
        ('{table = "nuclei_v1"}', '{tabel = "a"}', ["cave.nuclei.tabel: unknown key, did you mean table?"]),
        ("[cave]", '[files]\nnuclei = "a.csv"\nresolution_nm = [1, 1, 1]\n[cave]', ["[cave] or [files]", "not both"]),
        ("[cave]", "[cav]", ["cav: unknown key, did you mean cave?"]),
        ("precomputed://gs://", "gs:/", ["segmentation: found 'gs:/bucket/seg': not a valid URL; did you mean gs://"]),
        (
            "precomputed://gs://",
            "precomputed:/gs://",
            ["segmentation: found", "did you mean precomputed://gs://bucket"],
        ),
        ("precomputed://gs://", "precomputed://gs:/", ["segmentation: found 'gs:/bucket/seg'", "did you mean gs://"]),
        ("precomputed://gs://", "graphene://https:/", ["segmentation: found 'https:/", "did you mean https://bucket"]),
        ("precomputed://gs://", "GS://", ["segmentation: found 'GS://bucket/seg'", "did you mean gs://bucket/seg?"]),
        (
            "mip = 3",
            'mip = 3\nresults = "s3:/b/x"',
            ["results: found 's3:/b/x': not a valid URL; did you mean s3://b/x?"],
        ),
        ("mip = 3", 'mip = 3\nresults = "s3//b/x"', ["results: found 's3//b/x'", "did you mean s3://b/x?"]),
        ("mip = 3", 'mip = 3\nresults = "S3://b/x"', ["results: found 'S3://b/x'", "did you mean s3://b/x?"]),
        ("mip = 3", 'mip = 3\nresults = "file:/b/x"', ["results: found 'file:/b/x'", "did you mean file:///b/x?"]),
        (
            "mip = 3",
            'mip = 3\nresults = "memory://x"',
            ["results: found 'memory://x'", "nothing at memory:// outlives"],
        ),
        ("mip = 3", 'mip = 3\nresults = "~nobody-at-all/x"', ["results: found", "~nobody-at-all has no home folder"]),
        ("mip = 3", 'mip = 3\nresults = "s3:/k:pw@b"', ["results: found '...b'", "did you mean s3://...?"]),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, old: str, new: str, said: list[str]) -> None:
    """A wrong file is refused in one line: file, key, what was found, what was expected."""
    assert old in CAVE
    message = refusal(tmp_path, CAVE.replace(old, new, 1))
    assert [part for part in said if part not in message] == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[4, 4, 40]", "[4, 4]", ["files.resolution_nm", "three lengths in nm"]),
        ("[4, 4, 40]", "[4, 4, 0]", ["files.resolution_nm.2: found 0", "three lengths in nm"]),
        ("[4, 4, 40]", '"4x4x40"', ["files.resolution_nm: found '4x4x40'"]),
        ('segmentation = "seg"', "", ["segmentation: missing"]),
        ('segmentation = "seg"', "[segmentations]\n5 = 'seg'", ["segmentation: missing"]),
        ("mip = 0", "mip = 0\nversion = 5", ["version: ", "under [files]"]),
        ("[files]", "[files]\nversion = 'a'", ["files.version: found 'a'"]),
        ('nuclei = "nuclei.csv"', "", ["files.nuclei: missing", "nuclei.parquet"]),
        (
            "nuclei.csv",
            "https:/host/nuclei.csv",
            ["files.nuclei: found 'https:/host", "did you mean https://host/nuclei"],
        ),
        ("nuclei.csv", "~nobody-at-all/n.csv", ["files.nuclei: found", "~nobody-at-all has no home folder"]),
        (
            "[files]",
            '[files]\nnucleus_segmentation = "gs:/b"',
            ["files.nucleus_segmentation: found 'gs:/b'", "gs://b?"],
        ),
    ],
)
def test_wrong_datasets_of_files_are_refused(tmp_path: Path, old: str, new: str, said: list[str]) -> None:
    """The same for [files]."""
    assert old in FILES
    message = refusal(tmp_path, FILES.replace(old, new, 1))
    assert [part for part in said if part not in message] == []


def test_many_faults_are_one_line(tmp_path: Path) -> None:
    """The first faults are told, the others counted."""
    message = refusal(tmp_path, "a = 1\nb = 2\nc = 3\nd = 4")
    assert message.count(";") == 2
    assert "more)" in message


def test_files_that_are_no_text(tmp_path: Path) -> None:
    """Bytes that are not UTF-8, and a list in place of an object, are refused."""
    (tmp_path / "volume.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(DatasetError, match="UTF-8"):
        load_dataset(tmp_path / "volume.toml")
    assert "found [1, 2]" in refusal(tmp_path, "[1, 2]", "old.json")
    assert "line 2, column 1" in refusal(tmp_path, '{"dataset": "a",\n}', "old.json")


def test_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    """Editors on Windows put three bytes before the text."""
    (tmp_path / "volume.toml").write_bytes(b"\xef\xbb\xbf" + CAVE.encode())
    assert load_dataset(tmp_path / "volume.toml").name == "volume"


@given(key=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1), value=st.text())
def test_a_value_under_a_wrong_key_is_not_repeated(key: str, value: str) -> None:
    """Somebody's token may stand under a wrong key; every error is one line."""
    raw = {
        "name": "volume",
        "mip": 3,
        f"x{key}": f"geheim{value}",
        "cave": {"datastack": "s", "nuclei": {"table": "t"}},
    }
    with pytest.raises(DatasetError) as caught:
        validated(Dataset, raw, "volume.toml")
    assert "geheim" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert len(str(caught.value).splitlines()) == 1


def test_versions_that_are_meant(tmp_path: Path) -> None:
    """The version of a command that names none: the newest, unless the file says another."""
    assert load(tmp_path, CAVE).default_version == "latest"
    assert load(tmp_path, CAVE.replace("mip = 3", "mip = 3\nversion = 943")).default_version == 943
    assert load(tmp_path, FILES).default_version == 0
    assert load(tmp_path, FILES + "version = 7\n").default_version == 7


def test_files_hold_one_version(tmp_path: Path) -> None:
    """A dataset of files opens at its own version or the latest, and no other."""
    dataset = load(tmp_path, FILES + "version = 7\n")
    assert [open_source(dataset, version).version for version in (7, "latest", None)] == [7, 7, 7]
    with pytest.raises(DatasetError, match="volume: no version 943; its files hold version 7 only"):
        open_source(dataset, 943)


def test_kinds_of_segmentations() -> None:
    """A graph is told from a flat segmentation by its URL."""
    assert segmentation_kind("graphene://https://host/segmentation/table/t") == "graph"
    assert segmentation_kind("precomputed://gs://bucket/seg") == "flat"


def test_the_segmentation_of_the_datastack(tmp_path: Path) -> None:
    """A dataset of CAVE that names no segmentation means the datastack's own; a version's own entry wins."""
    text = CAVE.replace('segmentation = "precomputed://gs://bucket/seg"', "[segmentations]\n661 = '/a'")
    dataset = load(tmp_path, text.replace('datastack = "stack"', 'datastack = "minnie65_public"'))
    with served(dataset, "precomputed://gs://bucket/own") as there:
        assert open_segmentation_url(there, open_source(there, 943)) == "precomputed://gs://bucket/own"
        assert open_segmentation_url(there, open_source(there, 661)) == "precomputed://file:///a"
    with served(dataset, "graphene://{server}/segmentation/table/t") as there:
        server = there.cave.server if there.cave else ""
        assert open_segmentation_url(there, open_source(there)) == f"graphene://{server}/segmentation/table/t"
        assert open_segmentation_url(there, open_source(there, 661)) == "precomputed://file:///a"
    with served(dataset, "") as there:
        source = open_source(there)
        with pytest.raises(DatasetError, match="add segmentation"):
            open_segmentation_url(there, source)


@pytest.mark.parametrize(
    ("pia", "said"),
    [
        ("down = [0, 1, 0]", ["pia.point_nm"]),
        ("point_nm = [1, 2]\ndown = [0, 1, 0]", ["pia.point_nm"]),
        ("point_nm = [1, 2, 3]\ndown = [0, 0, 0]", ["pia", "no direction"]),
        ("point_nm = [1, 2, nan]\ndown = [0, 1, 0]", ["pia.point_nm"]),
        ('axis = "y"', ["pia.axis"]),
    ],
)
def test_a_wrong_pia_is_refused(tmp_path: Path, pia: str, said: list[str]) -> None:
    """Two numbers for three, a direction without a length, what is no number or no key: the key is named."""
    message = refusal(tmp_path, f"{CAVE}\n[pia]\n{pia}\n")
    assert [part for part in said if part not in message] == []


def test_the_pia_of_minnie65() -> None:
    """Depth is that of standard_transform: y after a turn by 5 degrees about z, 0 at the height of its point."""
    pia = load_dataset("minnie65").pia
    assert pia is not None
    angle = np.deg2rad(5)
    points_nm = np.array([[183013 * 4, 83535 * 4, 0], [700_000, 900_000, 5], [1_200_000.0, 600_000, 900_000]])
    turned = points_nm @ [np.sin(angle), np.cos(angle), 0]
    assert depth_um(points_nm, pia.point_nm, pia.down) == pytest.approx((turned - turned[0]) / 1000, abs=1e-3)


@pytest.mark.parametrize(("kind", "text"), BLOCKS, ids=range(len(BLOCKS)))
def test_examples_of_the_docs(tmp_path: Path, kind: str, text: str) -> None:
    """Every example in docs/datasets.md is a dataset that loads."""
    dataset = load(tmp_path, text, f"volume.{kind}")
    assert dataset.name in ("minnie65", "minnie65_public", "my_volume")


def test_the_docs_have_every_key() -> None:
    """The table of keys lists what a file may hold, with the defaults that hold, and nothing else."""
    table = DOCS.split("## Every key")[1].split("\n\n")[1]
    documented = {key for row in table.splitlines()[2:] for key in re.findall(r"`([^`]+)`", row.split("|")[1])}
    keys = set(Dataset.model_fields) - {"cave", "files", "pia"}
    for prefix, model in (("cave", CaveSource), ("cave.nuclei", TableName), ("files", FileSource), ("pia", Pia)):
        keys |= {f"{prefix}.{key}" for key in model.model_fields}
    assert documented == keys
    assert {kind for kind, _ in BLOCKS} == {"toml", "json"}
    assert '| `cave.server` | `"https://global.daf-apis.com"` |' in table
