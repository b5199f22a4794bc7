"""A wrong input gives one line that says what is wrong, where, and what to do."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from command_line import NO_PERMISSION, NO_TERMS, TOKEN, Run, changed

from sandbox.cave.server import CaveServer
from sandbox.phantom.scene import Scene


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["plna", "x.toml"], ["plna", "'plan'"]),
        (["plan"], None),
        (["plan", "x.toml", "--limmit", "3"], ["--limmit", "--limit"]),
        (["plan", "x.toml", "--limit", "0"], ["--limit", "greater than or equal to 1"]),
        (["plan", "x.toml", "--sample", "-1"], ["--sample", "greater than or equal to 1"]),
        (["plan", "x.toml", "--limit", "few"], ["--limit", "integer"]),
        (["plan", "x.toml", "--limit", "2", "--sample", "2"], ["--limit", "--sample", "choose one"]),
        (["plan", "x.toml", "--version", "new"], ["--version", "'new'", "latest"]),
        (["cell", "x.toml"], ["NUCLEUS_ID"]),
        (["cell", "x.toml", "soma"], ["NUCLEUS_ID", "integer"]),
        (["cell", "x.toml", "5", "--version", "1.5"], ["--version", "'1.5'"]),
        (["cell", "x.toml", "5", "--mesh", "soma.stl"], ["--mesh", "soma.stl", ".ply or .obj"]),
        (["extract", "x.toml", "--limit", "2", "--sample", "2"], ["--limit", "--sample", "choose one"]),
        (["extract", "x.toml", "--workers", "0"], ["--workers", "greater than or equal to 1"]),
        (["extract", "x.toml", "--retry", "broken"], ["--retry", "'broken'", "failed", "commas"]),
        (["extract", "x.toml", "--retry", "12,,13"], ["--retry", "'12,,13'"]),
        (["extract", "x.toml", "--retry", ""], ["--retry", "''"]),
        (["demo", "--version", "3"], ["--version", "2"]),
        (["compare", "x.parquet"], ["TABLE"]),
    ],
)
def test_usage_errors(run: Run, arguments: list[str], says: list[str] | None) -> None:
    """What is said wrongly is told in one line with the option and where the help is; status 2, and nothing begins."""
    ran = run(*arguments)
    assert ran.status == 2
    if says is None:  # without any argument the help itself is shown
        assert ran.err == ""
        assert ran.out.strip().startswith(f"Usage: somatic {arguments[0]}")
        return
    assert ran.out == ""
    assert "--help" in ran.error
    for part in says:
        assert part in ran.error


@pytest.mark.parametrize(
    ("to", "says"),
    [
        ("s3:/bucket/x", "not a valid URL; did you mean s3://bucket/x?"),
        ("s3//bucket/x", "not a valid URL; did you mean s3://bucket/x?"),
        ("S3://bucket/x", "not a valid URL; did you mean s3://bucket/x?"),
        ("file:/bucket/x", "not a valid URL; did you mean file:///bucket/x?"),
        ("memory://x", "nothing at memory:// outlives the process"),
        ("~nobody-at-all/x", "~nobody-at-all has no home folder"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "extract", "status", "watch"])
def test_results_in_a_place_that_is_not_meant(
    run: Run, command: str, to: str, says: str, files_toml: Path, cave_toml: Path, tmp_path: Path
) -> None:
    """A place that is misspelt, or keeps nothing, is refused in one line before anything is made."""
    ran = run(command, cave_toml if command == "watch" else files_toml, "--to", to)
    assert (ran.status, ran.out) == (1, "")
    assert ran.error.startswith(f"{to}: {says}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["plan"], ["cell"], ["extract"]])
@pytest.mark.parametrize(
    ("name", "says"),
    [("minie65", "did you mean minnie65?"), ("my.toml", "neither a file nor"), (".", "neither a file nor")],
)
def test_no_such_dataset(run: Run, command: list[str], name: str, says: str) -> None:
    """A dataset that is not there is told at once, with the names that there are."""
    ran = run(*command, name, *(["5"] if command == ["cell"] else []))
    assert ran.status == 1
    assert repr(name) in ran.error
    assert says in ran.error
    assert "minnie65" in ran.error


@pytest.mark.parametrize(
    ("token", "says"),
    [
        (None, ["no token", "CAVE_TOKEN", "/settings/tokens", "secret.json"]),
        ("0123456789", ["does not accept the token of CAVE_TOKEN", "401", "/settings/tokens"]),
        (NO_PERMISSION, ["403", "missing_permission", "phantom", "permission"]),
        (NO_TERMS, ["terms of service", "http://"]),
    ],
)
def test_tokens(
    run: Run, cave: CaveServer, cave_toml: Path, monkeypatch: pytest.MonkeyPatch, token: str | None, says: list[str]
) -> None:
    """No token, a wrong one, one without the permission or the terms: which it is and what to do, never the token."""
    monkeypatch.delenv("CAVE_TOKEN")
    if token:
        monkeypatch.setenv("CAVE_TOKEN", token)
    ran = run("plan", cave_toml)
    assert ran.status == 1
    assert cave.url in ran.error
    for part in says:
        assert part in ran.error
    assert not token or token not in ran.out + ran.err


@pytest.mark.parametrize(
    ("kind", "changes", "says"),
    [
        ("cave", [(r'server = ".*"', 'server = "https://evil.example"')], ["not sent to https://evil.example,"]),
        (
            "cave",
            [(r'server = ".*"', 'server = "http://cave.example"')],
            ["only sent over https", "http://cave.example"],
        ),
        (
            "cave",
            [(r'\n1 = ".*"', '\n1 = "graphene://https://evil.example/segmentation/table/t"')],
            ["to evil.example,"],
        ),
        ("files", [(r'segmentation = ".*seg.*"', 'segmentation = "graphene://https://evil.example/s/table/t"')], []),
    ],
)
def test_hosts_that_must_not_get_the_token(
    run: Run, cave_toml: Path, files_toml: Path, kind: str, changes: list[tuple[str, str]], says: list[str]
) -> None:
    """A dataset file that names such a server or graph is refused; the line says how to allow it, if it can be."""
    text = {"cave": cave_toml, "files": files_toml}[kind].read_text()
    for old, new in changes:
        text, times = re.subn(old, new, text, count=1)
        assert times == 1
    Path("evil.toml").write_text(text)
    for command in (["plan", "evil.toml"], ["cell", "evil.toml", "5"]):
        ran = run(*command, "--version", 1)
        assert ran.status == 1
        for part in says:
            assert part in ran.error
        assert "evil.example" not in ran.error or "CAVE_TOKEN_HOSTS" in ran.error
        assert "the token of CAVE goes to" not in ran.err
        assert TOKEN not in ran.out + ran.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--version", "99"], ["99 has expired", "1 (", "2 ("]),
        (["--version", "7"], ["no version 7", "1 (", "2 ("]),
    ],
)
def test_versions(run: Run, cave_toml: Path, arguments: list[str], says: list[str]) -> None:
    """A version that has expired or never was: those that there are."""
    ran = run("plan", cave_toml, *arguments)
    assert ran.status == 1
    for part in says:
        assert part in ran.error


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('datastack = "phantom"', 'datastack = "phantasm"'), ["no datastack phantasm", "there are: phantom"]),
        (("nucleus_detection_lookup_v1", "nucleus_lookup"), ["no view nucleus_lookup", "nucleus_detection_lookup_v1"]),
        (('view = "nucleus_detection_lookup_v1"', 'table = "nuclei"'), ["no table nuclei", "nucleus_detection_v0"]),
        (('view = "nucleus_detection_lookup_v1"', 'view = "nucleus_detection_v0"'), ["is a table", "write table"]),
        (("pt_position_lookup", "soma_position"), ["no column soma_position", "pt_position_x", "pt_root_id"]),
        (('"synapses_phantom"', '"synapses"'), ["no table synapses", "synapses_phantom"]),
        (('"synapses_phantom"', '"nucleus_detection_v0"'), ["no column pre_pt_root_id", "pt_root_id"]),
        (("mip = 0", "mip = 3"), ["mip 3 does not exist", "0 (128x128x80 nm)"]),
        (("/nuclei", "/nucleus_masks"), ["no Precomputed layer", "nucleus_masks"]),
    ],
)
def test_names_that_do_not_exist(
    run: Run, cave_toml: Path, tmp_path: Path, change: tuple[str, str], says: list[str]
) -> None:
    """A datastack, table, view, column, mip or layer that is not there: those that are."""
    ran = run("plan", changed(cave_toml, tmp_path, change))
    assert ran.status == 1
    for part in says:
        assert part in ran.error


def test_graph_segmentation(run: Run, cave: CaveServer, cave_toml: Path, scene: Scene, tmp_path: Path) -> None:
    """A graph that its server does not have: which one, and what the server says."""
    graph = f"graphene://{cave.url}/segmentation/table/elsewhere"
    ran = run("plan", changed(cave_toml, tmp_path, (scene.segmentation_url(2), graph)), "--version", "2")
    assert ran.status == 1
    assert "graph elsewhere" in ran.error
    assert "404" in ran.error


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("mip = 0", "mip = = 0"), ["not valid TOML", "line 2, column 7"]),
        (("mip = 0", "mpi = 0"), ["mpi: unknown key, did you mean mip?"]),
        (("synapses = ", "synapse = "), ["cave.synapse: unknown key, did you mean synapses?"]),
        (("mip = 0", 'mip = "three"'), ["mip: found 'three'", "whole number"]),
        (("cutout_radius_um = 5", "cutout_radius_um = -5"), ["cutout_radius_um: found -5", "from 0.001"]),
        (("[cave]", "[caves]"), ["caves: unknown key, did you mean cave?"]),
        (('server = "http://', 'server = "'), ["cave.server: found", "https://"]),
    ],
)
def test_dataset_files(run: Run, cave_toml: Path, tmp_path: Path, change: tuple[str, str], says: list[str]) -> None:
    """A dataset file that is not right: which file, which line or key, what was found and what was expected."""
    path = changed(cave_toml, tmp_path, change)
    ran = run("plan", path)
    assert ran.status == 1
    assert ran.error.startswith(f"{path}: ")
    for part in says:
        assert part in ran.error


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda nuclei: nuclei.drop(columns="pt_root_id"), ["no column pt_root_id", "pt_position_x"]),
        (lambda nuclei: nuclei.drop(columns=["pt_position_x"]), ["no column pt_position", "pt_root_id"]),
        (lambda nuclei: nuclei.iloc[:0], ["the table is empty", "a row for each nucleus"]),
        (lambda nuclei: nuclei.assign(pt_root_id=nuclei["pt_root_id"].astype(float)), ["floats", "Int64"]),
        (lambda nuclei: pd.concat([nuclei, nuclei]), ["stands in 2 rows"]),
    ],
)
def test_tables_of_nuclei(
    run: Run,
    files_toml: Path,
    scene: Scene,
    tmp_path: Path,
    change: Callable[[pd.DataFrame], pd.DataFrame],
    says: list[str],
) -> None:
    """A table that lacks a column, is empty, or has ids that cannot be right: which table, what it has, what to do."""
    change(scene.nuclei(1)).to_parquet(tmp_path / "nuclei.parquet")
    dataset = changed(files_toml, tmp_path, (str(scene.nuclei_path(1)), "nuclei.parquet"))
    ran = run("plan", dataset)
    assert ran.status == 1
    assert ran.error.startswith(str(tmp_path / "nuclei.parquet"))
    for part in says:
        assert part in ran.error


def test_version_of_files(run: Run, files_toml: Path) -> None:
    """Files hold one version, and another one is refused."""
    ran = run("plan", files_toml, "--version", "2")
    assert ran.status == 1
    assert re.search(r"no version 2; its files hold version 1", ran.error)


def test_segmentation_of_another_version(
    run: Run, files_toml: Path, scene: Scene, cell_id: int, tmp_path: Path
) -> None:
    """Labels at the centres that are not the root ids: both are named, and what to do, by `plan` and by `cell`."""
    nuclei = scene.nuclei(1)
    other = nuclei["pt_root_id"].mask(nuclei["pt_root_id"] > 1, nuclei["pt_root_id"] + 7)
    nuclei.assign(pt_root_id=other).to_parquet(tmp_path / "nuclei.parquet")
    dataset = changed(files_toml, tmp_path, (str(scene.nuclei_path(1)), "nuclei.parquet"))
    root_of = {truth.nucleus_id: truth.roots[1] for truth in scene.truth.values()}
    for command in (["plan", dataset], ["cell", dataset, cell_id]):
        ran = run(*command)
        assert ran.status == 1
        assert f"{scene.segmentation_url(1)} is not the segmentation of tables v1" in ran.error
        assert "[segmentations]" in ran.error
        named, label, root_id = re.findall(r"nucleus (\d+): label (\d+), root id (\d+)", ran.error)[0]
        assert root_of[int(named)] == int(label) == int(root_id) - 7


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", ["no nucleus ids", "one on each line"]),
        ("# all of them\n", ["no nucleus ids"]),
        ("{known}\nsoma 5\n", ["'soma' in line 2", "one on each line"]),
        ("{known}\n123\n", ["no such nucleus", "table of 3 nuclei", "123", "version"]),
    ],
)
def test_lists_of_nuclei(run: Run, files_toml: Path, tmp_path: Path, cell_id: int, text: str, says: list[str]) -> None:
    """A list without ids, with something else, or with ids that the table does not have: which, and where."""
    (tmp_path / "ids.txt").write_text(text.format(known=cell_id))
    ran = run("plan", files_toml, "--nuclei", "ids.txt")
    assert ran.status == 1
    for part in says:
        assert part in ran.error


def test_list_of_nuclei_that_is_not_there(run: Run, files_toml: Path) -> None:
    """A list that cannot be read: which and why, before anything else."""
    for command in ("plan", "extract"):
        ran = run(command, files_toml, "--nuclei", "ids.txt")
        assert ran.status == 1
        assert ran.error == "ids.txt: no such file"


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("wasabi://bucket/x", ["wasabi://bucket/x", "not known", "s3://"]),
        ("s3://me:hunter2@bucket/x", ["a password does not belong in a URL"]),
        ("{file}/results", ["Not a directory", "choose another place"]),
    ],
)
def test_places_for_results(run: Run, files_toml: Path, tmp_path: Path, place: str, says: list[str]) -> None:
    """A place that cannot hold results: why, and what can; no password is repeated."""
    (tmp_path / "file").touch()
    ran = run("plan", files_toml, "--to", place.format(file=tmp_path / "file"))
    assert ran.status == 1
    for part in says:
        assert part in ran.error
    assert "hunter2" not in ran.err


def test_traceback_with_debug(run: Run) -> None:
    """`somatic --debug` lets the traceback out, which every other run keeps in."""
    from somatic.errors import DatasetError

    assert "minnie65" in run("plan", "minie65").error
    with pytest.raises(DatasetError, match="did you mean minnie65"):
        run("--debug", "plan", "minie65")


def test_old_input_says_what_has_no_effect(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of the old JSON input that mean nothing any more are told, without their values, on stderr."""
    monkeypatch.delenv("CAVE_TOKEN")  # so that it ends before it asks any server
    old = {
        "dataset": "phantom",
        "nucleus_table": "nuclei",
        "mip_level": 0,
        "pool_size": 7351,
        "token_file": "t0psecret",
    }
    (tmp_path / "input.json").write_text(json.dumps(old))
    ran = run("plan", "input.json")
    notes = "".join(line for line in ran.err.splitlines(True) if line.startswith("somatic: note: "))
    assert notes.count("\n") == 2
    assert "pool_size" in notes
    assert "token_file" in notes
    assert "no token" in ran.err.splitlines()[-1]
    assert "t0psecret" not in ran.err
    assert "7351" not in ran.err
