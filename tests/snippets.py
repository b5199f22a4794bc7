"""The snippets of README and docs: what a page says above each that cannot be run as it is, and running the others."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
LANGUAGES = {"bash", "python", "toml", "json"}
OUTPUT = ""
"""The language of a block that shows what a command prints, or a folder."""

_FENCE = re.compile(
    r"(?:^\*(?P<needs>(?:Requires|Takes|Runs) [^\n]*)\*\n\n?)?^```(?P<language>\S*)\n(?P<code>.*?)^```", re.M | re.S
)
# What a snippet may need, as its page calls it, and how that shows in the snippet.
NEEDS = {
    "the network": r"minnie65|https?://(?!127\.)|gs://|s3://|CAVEclient|pip install|apt-get|docker|make |helm repo",
    "token": r"minnie65|CAVEclient|CAVE_TOKEN",
    "cluster": r"kubectl|helm|eksctl|gcloud|prefect deployment run|somatic deploy",
    "container engine": r"docker|make image",
    "root": r"apt-get",
    "minutes": r"benchmarks\.",
    "half an hour": r"benchmarks\.",
    "until Ctrl-C": r"(server|worker) start|port-forward",
}


@dataclass(frozen=True)
class Snippet:
    """A block of a page; `needs` is the line above it that says why it cannot be run as it is, empty if it can."""

    page: Path
    line: int
    language: str
    code: str
    needs: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of a bash snippet, without comments."""
        lines = self.code.replace("\\\n", "").splitlines()
        return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def snippets_of(page: Path, text: str | None = None) -> Iterator[Snippet]:
    """All blocks of a page, in their order; its text is read where none is given."""
    text = page.read_text() if text is None else text
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start("code"))
        yield Snippet(page, line, found["language"], found["code"], found["needs"] or "")


def faults_of(snippet: Snippet) -> list[str]:
    """What is wrong with how a page presents a snippet: a reader must know what it is, and why it would not run."""
    if snippet.language == OUTPUT:
        commands = re.findall(r"^\$? *(?:somatic|prefect|make|pip|python) .*", snippet.code, re.M)
        return [f"a command in a block without a language: {command}" for command in commands]
    if snippet.language not in LANGUAGES:
        return [f"the language {snippet.language} is none that a test runs"]
    if not snippet.needs:
        return []
    named = [need for need in NEEDS if need in snippet.needs]
    if not named:
        return [f"{snippet.needs!r} names nothing of {', '.join(NEEDS)}"]
    return [f"nothing in it needs {need}" for need in named if not re.search(NEEDS[need], snippet.code)]
