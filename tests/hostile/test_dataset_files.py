"""Dataset files of strangers: a valid dataset or one line, whatever they hold."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from cage import Cage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from somatic.dataset import load_dataset

FILES = """
name = "mine"
mip = 1
segmentation = "seg"
results = "s3://bucket/somatic"
[segmentations]
3 = "gs://bucket/seg"
[files]
nuclei = "nuclei.csv"
resolution_nm = [8, 8, 33]
[pia]
point_nm = [1, 2, 3]
down = [0, 1, 0]
"""
CAVE = """
name = "mine"
mip = 1
segmentation = "graphene://https://cave.example.org/segmentation/table/mine"
[cave]
server = "https://cave.example.org"
datastack = "mine"
nuclei = {table = "nuclei"}
"""
SEED = {
    "dataset": "mine",
    "materialization_version": 3,
    "nucleus_table": "nuclei",
    "nuc_seg_source": "precomputed://gs://bucket/nuclei",
    "mip_level": 3,
    "cutout_radius": 15,
    "output_filepath": "../data",
    "token_file": "",
}
ABSURD = (
    st.integers(-(10**400), 10**400)
    | st.floats()
    | st.booleans()
    | st.text()
    | st.sampled_from(["\x1b[2J", "../..", "a" * 10_000, "s3://", "::", "file://file://", "http://[", 0.0, -1, [], {}])
    | st.lists(st.floats() | st.integers(), max_size=4)
)
one_folder = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def load(path: str, content: bytes) -> str:
    """The dataset of a file, as it is noted in a manifest."""
    Path(path).write_bytes(content)
    dataset = load_dataset(path)
    return json.dumps(dataset.model_dump(mode="json"), allow_nan=False)


def cut_and_swapped(text: str) -> st.SearchStrategy[bytes]:
    """A text with a part left out, a part twice, or noise in between."""
    whole = text.encode()
    places = st.tuples(st.integers(0, len(whole)), st.integers(0, len(whole)))
    noise = st.binary(max_size=20) | st.sampled_from(
        [b"\x00", b"\xff", b"\x1b", b"[" * 2000, b"9" * 5000, b"a." * 5000]
    )
    return st.builds(lambda ends, between: whole[: ends[0]] + between + whole[ends[1] :], places, noise)


@one_folder
@given(content=cut_and_swapped(FILES) | cut_and_swapped(CAVE) | st.binary())
def test_toml_that_is_cut_and_swapped(cage: Cage, tmp_path: Path, content: bytes) -> None:
    """Whatever the bytes are."""
    cage.read(load, str(tmp_path / "mine.toml"), content)


@one_folder
@given(key=st.sampled_from(sorted(SEED)) | st.text(), value=ABSURD)
def test_values_of_an_old_input(cage: Cage, tmp_path: Path, key: str, value: Any) -> None:
    """Any value under any key of the JSON input of the scripts before."""
    cage.read(load, str(tmp_path / "mine.json"), json.dumps(SEED | {key: value}).encode())


@one_folder
@given(line=st.sampled_from(range(len(FILES.splitlines()))), value=ABSURD)
def test_values_of_a_dataset_file(cage: Cage, tmp_path: Path, line: int, value: Any) -> None:
    """Any value under any key of a dataset file."""
    lines = FILES.splitlines()
    # Of these values JSON is TOML too.
    lines[line] = (
        f"{lines[line].partition('=')[0]}= {json.dumps(value).replace('NaN', 'nan').replace('Infinity', 'inf')}"
    )
    cage.read(load, str(tmp_path / "mine.toml"), "\n".join(lines).encode())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.toml", "a = " + "[" * 30_000),
        ("a.toml", "a = " + "{a=" * 10_000),
        ("a.toml", "a." * 30_000 + "b = 1"),
        ("a.toml", "[" + "a." * 30_000 + "b]"),
        ("a.toml", "\n".join(f"k{number} = 1" for number in range(10**6))),
        ("a.toml", "\n".join(f'{number} = "a"' for number in range(10**5))),
        ("a.toml", "mip = " + "9" * 5000),
        ("a.toml", "mip = 0x" + "f" * 50_000),
        ("a.json", "[" * 30_000),
        ("a.json", '{"a":' * 10_000),
        ("a.json", '{"mip_level": ' + "9" * 5000 + "}"),
    ],
    ids=lambda text: text[:20].split("\n")[0],
)
def test_files_that_are_large_or_deep(cage: Cage, tmp_path: Path, name: str, content: str) -> None:
    """Nesting, numbers and keys without end are refused, at once."""
    refused = cage.read(load, str(tmp_path / name), content.encode())
    assert refused.error == "DatasetError"
    assert str(tmp_path / name) in refused.text


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file(cage: Cage, tmp_path: Path, kind: str) -> None:
    """A named pipe has no end to wait for, and neither has /dev/zero."""
    path = tmp_path / "mine.toml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    assert "neither a file" in cage.read(load_dataset, str(path)).text


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('nuclei = "nuclei.csv"', 'nuclei = "simplecache::https://host/n.csv"', "chain"),
        ('nuclei = "nuclei.csv"', 'nuclei = "zip://n.csv::https://host/n.zip"', "zip://"),
        ('nuclei = "nuclei.csv"', 'nuclei = "ssh://host/n.csv"', "ssh://"),
        ('nuclei = "nuclei.csv"', 'nuclei = "ftp://host/n.csv"', "ftp://"),
        ('nuclei = "nuclei.csv"', 'nuclei = "hdfs://host/n.csv"', "hdfs://"),
        ('nuclei = "nuclei.csv"', 'nuclei = "github://org:repo@/n.csv"', "github://"),
        ('nuclei = "nuclei.csv"', 'nuclei = "memory://n.csv"', "memory://"),
        ('nuclei = "nuclei.csv"', 'nuclei = "https://user:secret@host/n.csv"', "credentials"),
        ('results = "s3://bucket/somatic"', 'results = "ssh://host/somatic"', "ssh://"),
        ('results = "s3://bucket/somatic"', 'results = "s3://key:secret@bucket"', "credentials"),
        ('segmentation = "seg"', 'segmentation = "middleauth+https://host/seg"', "expected a folder or a URL"),
        ('segmentation = "seg"', 'segmentation = "precomputed://mem://seg"', "cannot be read"),
        ('segmentation = "seg"', 'segmentation = "https://user:secret@host/seg"', "credentials"),
        (
            'segmentation = "seg"',
            'segmentation = "graphene://https://a:secret@host/segmentation/table/x"',
            "credentials",
        ),
        ('segmentation = "seg"', 'segmentation = "gs://bucket/\\u001b[2J"', "control characters"),
        ('name = "mine"', 'name = "../mine"', "name"),
        ('name = "mine"', 'name = ".."', "name"),
        ('name = "mine"', 'name = "a/b"', "name"),
        ('name = "mine"', f'name = "{"a" * 300}"', "name"),
        ("mip = 1", "mip = 99999999999999999999", "mip"),
        ("mip = 1", "mip = 1\ncutout_radius_um = 1e300", "cutout_radius_um"),
        ("[8, 8, 33]", "[1e-300, 8, 33]", "resolution_nm"),
        ("[8, 8, 33]", "[1e300, 8, 33]", "resolution_nm"),
        ("[0, 1, 0]", "[0, 1e-320, 0]", "no direction"),
        ("[1, 2, 3]", "[1e308, 2, 3]", "point_nm"),
        ("3 = ", "99999999999999999999 = ", "99999999999999999999"),
    ],
)
def test_what_a_dataset_cannot_name(cage: Cage, tmp_path: Path, old: str, new: str, said: str) -> None:
    """Each is refused with the key, before anything is read, and without repeating a password."""
    refused = cage.read(load, str(tmp_path / "mine.toml"), FILES.replace(old, new, 1).encode())
    assert refused.error == "DatasetError"
    assert said in refused.text
    assert "secret" not in refused.text


def test_keys_cannot_colour_a_terminal(cage: Cage, tmp_path: Path) -> None:
    """A key that is noted or refused is written out."""
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(SEED | {"google\x1b[2J": 1}))
    notes = load_dataset(path).notes
    assert "google\\x1b[2J has no effect" in notes[0]
    refused = cage.read(load, str(tmp_path / "mine.toml"), b'"mi\\u001b[31mp" = 1\n')
    assert "'mi\\x1b[31mp'" in refused.text
