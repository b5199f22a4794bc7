"""`somatic status`."""

from pathlib import Path

import pytest
from command_line import Run, at_a_laptop
from prefect.settings import PREFECT_API_URL, temporary_settings


def said(out: str) -> dict[str, str]:
    """The lines of a status by their names, the title under its own."""
    title, *lines = out.splitlines()
    return {"title": title} | {line[:14].strip(): line[14:].strip() for line in lines}


@pytest.fixture(scope="module")
def results(run_flow: Run, files_toml: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where an extraction of two nuclei has put its results."""
    folder = tmp_path_factory.mktemp("status")
    with at_a_laptop(folder):
        assert run_flow("extract", files_toml, "--limit", 2, "--to", "results").status == 0
    return folder / "results"


def test_after_a_run(run: Run, files_toml: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same counts that the run ended with, and where its results are; without a server nothing of Prefect."""
    monkeypatch.chdir(results.parent)
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        ran = run("status", files_toml, "--to", "results")
    assert (ran.status, ran.err) == (0, "")
    shown = said(ran.out)
    assert shown["title"] == "tables v1"
    assert shown["nuclei"] == "2: 1 ok, 0 failed, 1 skipped"
    assert shown["run"].startswith("planned ")
    assert shown["results"].startswith(f"{results}/tables/v1/")
    assert {"shards", "rate"}.isdisjoint(shown)


def test_nothing_there(run: Run, files_toml: Path, tmp_path: Path) -> None:
    """Where nothing was extracted, one line says so, and nothing is made."""
    ran = run("status", files_toml, "--to", "elsewhere")
    assert ran.status == 1
    assert ran.error.startswith(f"no extraction has begun at {tmp_path}/elsewhere/tables; say with --to")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there(run: Run, files_toml: Path, results: Path) -> None:
    """What is stored is shown all the same, and why Prefect's part is missing."""
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        ran = run("status", files_toml, "--to", results)
    assert ran.status == 0
    assert "2: 1 ok, 0 failed, 1 skipped" in ran.out
    assert ran.err.startswith("somatic: the state of the run is not shown: the Prefect server at 127.0.0.1:9 does not")
    assert ran.err.count("\n") == 1


def test_latest_is_no_version_of_a_status(run: Run, files_toml: Path) -> None:
    """It is said what to do in place of it."""
    ran = run("status", files_toml, "--version", "latest")
    assert ran.status == 2
    assert "give a number; without it the latest run is shown" in ran.error
