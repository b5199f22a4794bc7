"""Every snippet of README and docs that needs no network, run in the order of its page on the volume of the demo."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from command_line import Run, at_a_laptop
from snippets import OUTPUT, PAGES, Snippet, snippets_of

from somatic.dataset import load_dataset

pytestmark = pytest.mark.timeout(900)  # pages with whole extractions, on a machine that may be busy

ELSEWHERE = {"cluster.md"}
"""Run by tests/deployments/test_command.py, on a Prefect server with the deployments."""
NOWHERE = dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")


@pytest.fixture(scope="module")
def folder(phantom: Any, run_flow: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder after the demo; its volume is that of all tests."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "somatic-demo").mkdir()
    (folder / "somatic-demo" / "volume").symlink_to(phantom.scene.folder)
    with at_a_laptop(folder):
        demo = run_flow("demo")
    assert demo.status == 0, demo.err
    (folder / "demo.txt").write_text(demo.out)
    return folder


@pytest.fixture
def reader(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody in that folder, at a wide terminal, whose machine reaches nothing but itself."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "110")
    for name, proxy in NOWHERE.items():
        monkeypatch.setenv(name, proxy)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")


def output_of(snippet: Snippet, run_flow: Run, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a snippet of bash, in which variables are set and our command is run; give what it prints."""
    said = ""
    for program, *arguments in snippet.commands:
        if program == "export":
            name, _, value = arguments[0].partition("=")
            # The Prefect server of the tests is elsewhere, and known.
            if name != "PREFECT_API_URL":
                monkeypatch.setenv(name, value)
            continue
        assert program == "somatic", f"{snippet}: {program} is not run here; say above the snippet what it needs"
        ran = run_flow(*arguments)
        assert ran.status == 0, f"{snippet}: {ran.err}"
        said += ran.out
    return said


def is_shown(line: str, output: str) -> bool:
    """Whether a line of a page, in which `...` stands for anything, is a line of what was printed."""
    pattern = re.escape(line.rstrip()).replace(re.escape("..."), ".*")
    return re.search(f"^{pattern} *$", output, re.M) is not None


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in ELSEWHERE], ids=lambda page: page.name)
def test_snippets(page: Path, run_flow: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snippets run one after the other, as a reader types them; where a page shows what is printed, that is printed."""
    known: dict[str, Any] = {}
    printed = ""
    for snippet in snippets_of(page):
        if snippet.language == OUTPUT:
            assert [line for line in snippet.code.splitlines() if printed and not is_shown(line, printed)] == []
        printed = ""
        if snippet.needs or snippet.language == OUTPUT:
            continue
        if snippet.language == "bash":
            printed = output_of(snippet, run_flow, monkeypatch)
        elif snippet.language == "python":
            exec(compile(snippet.code, str(snippet), "exec"), known)
        elif snippet.language == "toml":
            (folder / "snippet.toml").write_text(snippet.code)
            load_dataset(folder / "snippet.toml")
        else:
            json.loads(snippet.code)
    if page.name == "README.md":
        # A cell measured in a notebook is as the table has it.
        in_table = known["features"].set_index("nucleus_id").loc[292369]
        assert known["measured"].row["soma_volume_um"] == pytest.approx(in_table["soma_volume_um"], rel=1e-9)
        assert known["measured"].row["soma_id"] == 864691135527544668


def test_the_folder_of_the_demo(folder: Path) -> None:
    """Pages name the folder of the demo's results by its configuration, which moves with FEATURES_VERSION."""
    [there] = folder.glob("somatic-demo/results/phantom/v1/*")
    named = {name for page in PAGES for name in re.findall(r"phantom/v[12]/([0-9a-f]{8})\b", page.read_text())}
    assert named == {there.name}, f"write {there.name} in README and docs"


def test_what_the_demo_prints(folder: Path) -> None:
    """The README shows what the demo ends with, but for the time that it took."""
    shown = [snippet.code for snippet in snippets_of(PAGES[0]) if snippet.language == OUTPUT][0]
    assert PAGES[0].name == "README.md"
    assert shown.startswith("phantom v1: 15 nuclei in ")
    printed = re.sub(r"nuclei in \d+ s", "nuclei in 24 s", (folder / "demo.txt").read_text())
    assert [line for line in shown.splitlines() if not is_shown(line, printed)] == []
