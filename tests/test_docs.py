"""What the documentation says is what there is."""

import re
import shlex
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
from typer.main import get_command

from cli.main import app
from somatic.features import COLUMNS
from somatic.results.changes import DIFFERENCE_COLUMNS
from somatic.results.chunks import PROVENANCE_COLUMNS
from somatic.results.flags import FLAG_COLUMNS

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def _blocks(language: str) -> list[tuple[str, str]]:
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [(page.name, block) for page in PAGES for block in pattern.findall(page.read_text())]


def _somatic_lines() -> list[str]:
    lines = [line.partition("  #")[0].strip() for _, block in _blocks("bash") for line in block.splitlines()]
    return sorted({line for line in lines if line.startswith("somatic ")})


@pytest.mark.parametrize("line", _somatic_lines())
def test_commands_in_the_documentation_parse(line: str) -> None:
    """Every `somatic ...` of the documentation names a subcommand and options that exist."""
    name, *arguments = shlex.split(line)[1:]
    get_command(app).commands[name].make_context(name, arguments)


@pytest.mark.parametrize(("page", "block"), _blocks("python"))
def test_python_in_the_documentation_compiles(page: str, block: str) -> None:
    """Python code of the documentation has no syntax error, and what it imports of us exists."""
    compile(block, page, "exec")
    for line in block.splitlines():
        if line.startswith("from somatic"):
            exec(line, {})


def test_make_targets_of_the_readme_exist() -> None:
    """The README names only make targets that the Makefile has."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)\b", " ".join(b for _, b in _blocks("bash"))))
    assert named
    assert named <= targets


def test_every_column_is_documented() -> None:
    """docs/results.md lists each column with its type, unit and meaning, in the order of the file."""
    text = (ROOT / "docs" / "results.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \|$", text, re.MULTILINE)
    documented = (*COLUMNS, *PROVENANCE_COLUMNS, COLUMNS[0], *FLAG_COLUMNS, COLUMNS[0], *DIFFERENCE_COLUMNS)
    expected = [(c.name, str(c.type), "" if c.unit == "1" else c.unit, c.description) for c in documented]
    assert rows == expected


def test_citation_names_the_version_of_the_package() -> None:
    """CITATION.cff and pyproject.toml agree on the version."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text()


def test_no_dependency_is_under_the_gpl() -> None:
    """What the lock installs may be used under a permissive licence or the LGPL."""
    locked = set(re.findall(r"^([a-z0-9_.-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    checked = set()
    for package in distributions():
        name = re.sub(r"[-_.]+", "-", package.metadata["Name"]).lower()
        if name not in {re.sub(r"[-_.]+", "-", n) for n in locked}:
            continue
        checked.add(name)
        classifiers = [c for c in package.metadata.get_all("Classifier") or [] if c.startswith("License")]
        words = " ".join([package.metadata.get("License-Expression") or "", *classifiers])
        copyleft = re.search(r"(?<!L)A?GPL|(?<!Lesser )General Public License|Affero", words)
        # text-unidecode may be used under the Artistic License instead.
        assert not copyleft or name == "text-unidecode", f"{name}: {words}"
    assert len(checked) > 100
