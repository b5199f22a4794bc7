"""What the documentation says is what there is."""

import re
import shlex
import tomllib
from importlib.metadata import distributions

import pytest
from snippets import PAGES, ROOT, Snippet, faults_of, snippets_of
from typer.main import get_command

from cli.main import app
from somatic.features import COLUMNS
from somatic.results.changes import DIFFERENCE_COLUMNS
from somatic.results.chunks import PROVENANCE_COLUMNS
from somatic.results.flags import FLAG_COLUMNS

SNIPPETS = [snippet for page in PAGES for snippet in snippets_of(page)]


def _blocks(language: str) -> list[tuple[str, str]]:
    return [(snippet.page.name, snippet.code) for snippet in SNIPPETS if snippet.language == language]


def _command(text: str) -> str:
    """A line of a shell without what stands before the command: variables, or the container that runs it."""
    return re.sub(r"^(\w+=\S*\s+)+|^docker run .* somatic (?=somatic )", "", " ".join(text.split()))


def _somatic_lines() -> list[str]:
    text = "\n".join(block.replace("\\\n", "") for _, block in _blocks("bash"))
    lines = [_command(line.partition("  #")[0]) for line in text.splitlines()]
    return sorted({line for line in lines if line.startswith("somatic ")})


def _somatic_words() -> list[str]:
    texts = [re.sub(r"^```.*$", "", page.read_text(), flags=re.MULTILINE) for page in PAGES]
    spans = [_command(span) for text in texts for span in re.findall(r"`([^`]+)`", text)]
    return sorted({span for span in spans if span.startswith("somatic ")})


@pytest.mark.parametrize("line", _somatic_lines())
def test_commands_in_the_documentation_parse(line: str) -> None:
    """Every line with `somatic ...` of a block names a subcommand and options that exist, with values they take."""
    name, *arguments = shlex.split(line)[1:]
    get_command(app).commands[name].make_context(name, arguments)


@pytest.mark.parametrize("words", _somatic_words())
def test_commands_within_a_sentence_exist(words: str) -> None:
    """Every `somatic ...` of a sentence or a table names a subcommand and options that exist; values may be missing."""
    command = get_command(app)
    _, *rest = words.split()
    if not rest[0].startswith("-"):
        command = command.commands[rest.pop(0)]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word.partition("=")[0] for word in rest if word.startswith("-")} <= {*known, "--help"}


def test_commands_are_found_wherever_they_stand() -> None:
    """In blocks and in sentences, behind variables, and in a container."""
    assert _command("A=1 B=https://x.org/y somatic deploy --to z") == "somatic deploy --to z"
    assert _command("docker run --rm -e CAVE_TOKEN somatic somatic cell a 5") == "somatic cell a 5"
    assert "somatic demo" in _somatic_lines()
    assert "somatic datasets" in _somatic_words()


@pytest.mark.parametrize("snippet", SNIPPETS, ids=str)
def test_every_snippet_is_run_or_says_what_it_needs(snippet: Snippet) -> None:
    """Above one that cannot be run as it is stands what it needs, and it does need that; the others are run.

    tests/cli/test_snippets.py and tests/deployments/test_command.py run them.
    """
    assert faults_of(snippet) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("```bash\nsomatic demo\n```\n", ""),
        ("*Requires the network.*\n\n```bash\nsomatic plan minnie65\n```\n", ""),
        ("*Runs until Ctrl-C.*\n```bash\nprefect server start\n```\n", ""),
        ("*Requires the network.*\n\n```bash\nsomatic demo\n```\n", "nothing in it needs the network"),
        ("*Requires patience.*\n\n```bash\nsomatic demo\n```\n", "names nothing of"),
        ("```\nsomatic demo\n```\n", "a command in a block without a language"),
        ("```sh\nsomatic demo\n```\n", "the language sh"),
    ],
)
def test_a_wrong_snippet_is_seen(text: str, fault: str) -> None:
    """A snippet that says of itself what is not so, or that no test would run."""
    [snippet] = snippets_of(ROOT / "README.md", text)
    found = faults_of(snippet)
    assert len(found) == (fault != "")
    assert fault in "".join(found)


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


_PERMISSIVE = re.compile(r"\b(MIT|0?BSD|Apache|PSF|Python Software Foundation|MPL|Mozilla Public License|ISC|ZPL)\b")
_COPYLEFT = re.compile(r"GPL|General Public License|Affero", re.IGNORECASE)
_STRONG = re.compile(r"(?<!L)GPL|(?<!Lesser )General Public License|Affero", re.IGNORECASE)
_KNOWN = {
    "pysimdjson": "MIT",  # its metadata name none, its LICENSE is this one
    "text-unidecode": "Artistic License",  # of two to choose from
}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _licences() -> dict[str, str]:
    """What is installed of the locks of the command and of the image, and what each package says of its licence."""
    locks = "".join((ROOT / f"requirements{name}.lock").read_text() for name in ("", "-worker"))
    locked = set(map(_plain, re.findall(r"^([A-Za-z0-9_.-]+)==", locks, re.MULTILINE)))
    found = {}
    for package in distributions():
        name, metadata = _plain(package.metadata["Name"]), package.metadata
        if name in locked:
            # Some put the whole text there, which may name other licences; its first line is the title.
            title = (metadata.get("License") or "").strip().partition("\n")[0]
            classifiers = [c for c in metadata.get_all("Classifier") or [] if c.startswith("License")]
            said = "; ".join([metadata.get("License-Expression") or "", title, *classifiers])
            found[name] = _KNOWN.get(name, said)
    return found


def test_no_dependency_is_under_the_gpl() -> None:
    """What the locks install says its licence, and that is a permissive one or the LGPL."""
    licences = _licences()
    assert len(licences) > 100
    assert {name: said for name, said in licences.items() if _STRONG.search(said)} == {}
    known = re.compile(f"{_PERMISSIVE.pattern}|{_COPYLEFT.pattern}|Artistic")
    assert {name: said for name, said in licences.items() if not known.search(said)} == {}


def test_every_dependency_under_the_lgpl_is_documented() -> None:
    """The table of docs/licences.md has those that are installed, and no other."""
    named = re.findall(r"^\| (\S+) \| LGPL", (ROOT / "docs" / "licences.md").read_text(), re.MULTILINE)
    assert {name for name, said in _licences().items() if _COPYLEFT.search(said)} == set(named)
