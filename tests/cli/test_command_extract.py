"""`somatic extract`."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from command_line import Ran, Run, changed, start

from sandbox.cave.server import CaveServer
from sandbox.phantom.scene import Scene


@dataclass(frozen=True)
class Extracted:
    """A run that went well, and where it was."""

    ran: Ran
    folder: Path
    options: list[object]
    requests: int

    @property
    def table(self) -> Path:
        """The table, as the last line says."""
        return Path(self.ran.out.splitlines()[-1])


@pytest.fixture(scope="module")
def extracted(
    cave_toml: Path, cave: CaveServer, prefect_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Extracted:
    """All cells of the scene behind CAVE, in a process of its own that brings its own Prefect, in a terminal."""
    folder = tmp_path_factory.mktemp("extracted")
    (folder / "prefect-home").mkdir()
    shutil.copyfile(prefect_database, folder / "prefect-home" / "prefect.db")
    options = [cave_toml, "--version", 1, "--to", folder / "results", "--workers", 1]
    requests = len(cave.requests)
    ran = start("extract", *options, folder=folder, terminal=True).ended(within_s=240)
    return Extracted(ran, folder, options, len(cave.requests) - requests)


def chunk_files(table: Path) -> list[str]:
    """Names of the files that hold what was measured."""
    return sorted(path.name for path in (table.parent / "chunks").iterdir())


def test_the_end_says_how_many_of_what_and_where(extracted: Extracted, scene: Scene) -> None:
    """On stdout how many nuclei came out how, what that cost, and on the last line the path of a table for pandas."""
    assert extracted.ran.status == 0
    said, cost, path = extracted.ran.out.splitlines()
    assert re.fullmatch(r"phantom v1: 3 nuclei in \d+ s: 2 ok, 0 failed, 1 skipped", said)
    size = r"[\d.]+ [kM]?B"
    assert re.fullmatch(
        rf"cost: at least {extracted.requests} requests to CAVE, ({size}) of segmentation, 2 cells measured; "
        rf"a full run: about \d+ requests, \1, 2 cells",
        cost,
    )
    table = pd.read_parquet(path)
    assert table["nucleus_id"].tolist() == sorted(scene.truth)
    assert table["status"].value_counts().to_dict() == {"ok": 2, "skipped": 1}
    assert sorted(table["soma_id"]) == sorted(truth.roots[1] for truth in scene.truth.values())
    assert (extracted.table.parent / "meshes" / "info").exists()


def test_a_terminal_sees_how_far_it_is(extracted: Extracted) -> None:
    """On stderr what it will take, then steps, and cells with their rate and the time left."""
    err = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", extracted.ran.err)
    assert "to measure    2 cells in 1 chunk (1 shard)" in err
    for step in ("starting Prefect", "connecting", "measuring", "1 of 2 cells, ", "collecting the table"):
        assert step in err
    assert re.search(r"1 of 2 cells, \d[\d.]* a minute, about \d+ s left", err)
    assert "━" in err
    assert "Traceback" not in err


def test_as_many_requests_as_announced(extracted: Extracted) -> None:
    """CAVE is asked about as often as was said before."""
    [announced] = re.findall(r"about (\d+) requests", extracted.ran.err)
    assert abs(int(announced) - extracted.requests) <= 3


def test_more_workers_than_memory(
    run_flow: Run, files_toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many there will be is said before they begin; asked for more than memory allows, there is a warning."""
    # This process and its children have about one of these.
    monkeypatch.setenv("SOMATIC_MEMORY_BYTES", str(3 * 2**30))
    ran = run_flow("extract", files_toml, "--to", tmp_path / "results", "--workers", 64)
    assert ran.status == 0
    before = ran.err[: ran.err.index("measuring\n")]
    [fitting] = re.findall(r"workers +64 as requested: memory for (\d+) \([\d.]+ [MG]B free\), \d+ cores?\n", before)
    assert 0 < int(fitting) < 10
    assert re.search(rf"warning: 64 workers may need [\d.]+ GB of memory .*use --workers {fitting}", before)
    assert "2 ok" in ran.out


def test_again_does_nothing(run_flow: Run, extracted: Extracted) -> None:
    """The same command again finds all of it done and says the same; without a terminal in few and plain lines."""
    before = chunk_files(extracted.table)
    ran = run_flow("extract", *extracted.options)
    assert ran.status == 0
    assert "to measure    nothing" in ran.err
    assert "done already  2 cells" in ran.err
    assert len(ran.err.splitlines()) <= 16
    assert "\x1b" not in ran.err + ran.out
    said, cost, path = ran.out.splitlines()
    assert said.startswith("phantom v1: 3 nuclei in ")
    assert " requests to CAVE, 0 B of segmentation, 0 cells measured; a full run: about " in cost
    assert path == str(extracted.table)
    assert chunk_files(extracted.table) == before


def test_retry_measures_the_named_again(run_flow: Run, extracted: Extracted, cell_id: int) -> None:
    """`--retry ID` measures that cell once more and no other; `--retry failed` finds none that failed."""
    features = extracted.table.read_bytes()
    ran = run_flow("extract", *extracted.options, "--retry", cell_id)
    assert ran.status == 0
    assert "to measure    1 cell in 1 chunk (1 shard)" in ran.err
    assert "1 of 1 cells, " in ran.err
    provenance = pd.read_parquet(extracted.table.parent / "provenance.parquet").set_index("nucleus_id")
    assert provenance["attempt"].drop(cell_id).eq(1).all()
    assert provenance["attempt"][cell_id] == 2
    assert extracted.table.read_bytes() == features

    ran = run_flow("extract", *extracted.options, "--retry", "failed")
    assert ran.status == 0
    assert "to measure    nothing" in ran.err


def test_options_do_what_they_say(run_flow: Run, files_toml: Path) -> None:
    """--chunk 1 stores a file a cell, --no-meshes no mesh, --limit 2 the first two by id; --force does it all again."""
    options = [files_toml, "--to", "results", "--chunk", 1, "--limit", 2, "--no-meshes", "--workers", 2]
    ran = run_flow("extract", *options)
    assert ran.status == 0
    said, cost, path = ran.out.splitlines()
    assert re.fullmatch(r"tables v1: 2 nuclei in \d+ s: 1 ok, 0 failed, 1 skipped", said)
    assert re.fullmatch(r"cost: at least [^,]+ of segmentation, 1 cell measured; .*", cost)
    assert not (Path(path).parent / "meshes").exists()
    first = chunk_files(Path(path))
    ran = run_flow("extract", *options, "--force")
    assert ran.status == 0
    assert "to measure    1 cell in 1 chunk (1 shard)" in ran.err
    assert len(chunk_files(Path(path))) > len(first)


def test_cells_that_failed_for_good(run_flow: Run, no_mesh_toml: Path, cell_id: int) -> None:
    """Cells that fail for good are counted with their reason, and the command has done what it can: status 0."""
    ran = run_flow("extract", no_mesh_toml, "--to", "results", "--no-meshes")
    assert ran.status == 0
    counts, reason, _cost, path = ran.out.splitlines()
    assert counts.endswith(": 1 ok, 1 failed, 1 skipped")
    assert reason == f"  1 failed: the nucleus segmentation has no mesh of nucleus {cell_id}"
    assert pd.read_parquet(path).set_index("nucleus_id")["status"][cell_id] == "failed"


def test_results_in_a_bucket(run_flow: Run, files_toml: Path, s3_url: str) -> None:
    """With `--to s3://...` the last line is the URL of the table, which pandas opens."""
    ran = run_flow("extract", files_toml, "--to", f"{s3_url}/cli", "--limit", 2, "--no-meshes")
    assert ran.status == 0
    url = ran.out.splitlines()[-1]
    assert re.fullmatch(rf"{s3_url}/cli/tables/v1/[0-9a-f]{{8}}/features.parquet", url)
    assert pd.read_parquet(url)["status"].tolist() == ["skipped", "ok"]


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("file/results", ["cannot write to", "file/results", "Not a directory", "choose another place"]),
        ("/proc/results", ["cannot write to /proc/results", "choose another place"]),
        ("s3://no-such-bucket/results", ["there is no bucket s3://no-such-bucket", "choose another place"]),
        ("wasabi://bucket/x", ["wasabi", "not known", "s3://"]),
    ],
)
@pytest.mark.usefixtures("s3_endpoint")
def test_places_that_cannot_be_written(run_flow: Run, files_toml: Path, place: str, says: list[str]) -> None:
    """A place that cannot be written is told before any work is done for it."""
    Path("file").touch()
    ran = run_flow("extract", files_toml, "--to", place)
    assert (ran.status, ran.out) == (1, "")
    assert "asking for the nuclei" not in ran.err
    for part in says:
        assert part in ran.error


def test_no_credentials(run_flow: Run, files_toml: Path, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket without credentials: which variables to set."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    ran = run_flow("extract", files_toml, "--to", f"{s3_url}/x")
    assert ran.status == 1
    assert f"no credentials for {s3_url}; set AWS_PROFILE" in ran.error


def test_segmentation_of_another_version(run_flow: Run, files_toml: Path, scene: Scene, tmp_path: Path) -> None:
    """Labels at the centres that are not the root ids stop the run before a plan is made; both are named."""
    nuclei = scene.nuclei(1)
    other = nuclei["pt_root_id"].mask(nuclei["pt_root_id"] > 1, nuclei["pt_root_id"] + 7)
    nuclei.assign(pt_root_id=other).to_parquet(tmp_path / "nuclei.parquet")
    dataset = changed(files_toml, tmp_path, (str(scene.nuclei_path(1)), "nuclei.parquet"))
    ran = run_flow("extract", dataset, "--to", "results")
    assert (ran.status, ran.out) == (1, "")
    assert "seg_v1 is not the segmentation of tables v1: at 2 of 2 nuclei" in ran.error
    assert not list(tmp_path.glob("results/**/plans"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--retry", "4"], ["no such nucleus", "table of 3 nuclei: 4"]),
        (["--nuclei", "ids.txt"], ["no such nucleus", "table of 3 nuclei: 7, 8"]),
        (["--version", "2"], ["no version 2; its files hold version 1"]),
    ],
)
def test_ids_and_versions_that_do_not_exist(
    run_flow: Run, files_toml: Path, options: list[str], says: list[str]
) -> None:
    """What is not in the table is named, and how large it is."""
    Path("ids.txt").write_text("8\n7\n")
    ran = run_flow("extract", files_toml, "--to", "results", *options)
    assert (ran.status, ran.out) == (1, "")
    for part in says:
        assert part in ran.error


def test_a_prefect_server_that_is_not_there(run_flow: Run, files_toml: Path) -> None:
    """A PREFECT_API_URL at which nothing answers: which, without the password in it, and what to do."""
    ran = run_flow("extract", files_toml, api_url="http://me:hunter2@127.0.0.1:9/api")
    assert (ran.status, ran.out) == (1, "")
    assert "Prefect server at 127.0.0.1:9 does not answer" in ran.error
    assert "PREFECT_API_URL" in ran.error
    assert "hunter2" not in ran.err
