"""The name under which this project is installed, since `somatic` on PyPI belongs to another one, and its locks."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS, GROUPS = PROJECT["optional-dependencies"], PYPROJECT["dependency-groups"]
LOCKS = {
    "requirements.lock": PROJECT["dependencies"],
    "requirements-worker.lock": [*PROJECT["dependencies"], *EXTRAS["worker"], *EXTRAS["gcs"]],
    "requirements-dev.lock": [*PROJECT["dependencies"], *GROUPS["dev"]],
    "requirements-build.lock": GROUPS["build"],
}
"""What each lock is made of."""
TEXTS = sorted(
    path
    for pattern in ("*.md", "*.toml", "*.cff", "Makefile", "Dockerfile", ".ci/*", "*.lock")
    for path in ROOT.glob(pattern)
) + sorted(
    path
    for folder in ("benchmarks", "cli", "deployments", "docs", "flows", "sandbox", "somatic", "tasks", "tests")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".jinja", ".js", ".json", ".md", ".py", ".toml", ".txt", ".yaml") and path != Path(__file__)
)
FOREIGN = re.compile(
    r"""
    \bsomatic\[\s*[a-z]                                          # an extra of it: somatic[h5ad]
    | \b(?:pip3?|pipx|uv|uvx|conda|mamba|poetry|pdm)\b[^\n`;&|]*[ '"=]somatic(?![-\w/:]|\.\w)
    | ^somatic\s*[=<>~!]=                                        # a requirement
    | \b(?:version|distribution|metadata|requires|files)\(\s*["']somatic["']
    """,
    re.VERBOSE | re.MULTILINE,
)


def test_the_name() -> None:
    """The distribution is somatic-features, installed at the version of pyproject.toml; the command is somatic."""
    assert PROJECT["name"] == "somatic-features"
    assert version("somatic-features") == PROJECT["version"]
    assert set(PROJECT["scripts"]) == {"somatic"}


def test_nothing_names_the_other_project() -> None:
    """No file tells anybody to install somatic of PyPI, requires it, or reads the metadata of it."""
    assert len(TEXTS) > 300
    found = {str(path.relative_to(ROOT)): FOREIGN.search(path.read_text()) for path in TEXTS}
    assert {name: match.group() for name, match in found.items() if match} == {}


@pytest.mark.parametrize(
    "text",
    [
        "pip install anndata, or somatic[h5ad]",
        "`pip install somatic`",
        "Do: pip install somatic.",
        "python -m pip install --upgrade 'somatic'",
        "uv add somatic",
        "uvx somatic demo",
        "RUN pip install --no-deps somatic==0.1.0",
        "numpy==2\nsomatic==0.1.0 \\\n",
        'importlib.metadata.version("somatic")',
    ],
)
def test_it_would_be_seen(text: str) -> None:
    """Each way in which the other project could be named is found."""
    assert FOREIGN.search(text)


@pytest.mark.parametrize(
    "text",
    [
        "pip install 'somatic-features[h5ad]'",
        "pip install '.[gcs]'",
        "pip install --editable . && somatic demo",
        "uv pip compile pyproject.toml; somatic plan",
        "pip install /src/somatic/",
        'version("somatic-features")',
        "docker run somatic somatic demo",
    ],
)
def test_ours_is_let_through(text: str) -> None:
    """Our own name, our command and our folders are no mistakes."""
    assert not FOREIGN.search(text)


@pytest.mark.parametrize("name", LOCKS)
def test_locks(name: str) -> None:
    """A lock has every dependency at a version that pyproject.toml allows, and no address of an index."""
    text = (ROOT / name).read_text()
    assert not re.search(r"://|^-|\bindex\b", text, re.MULTILINE)
    locked = {
        canonicalize_name(found[1]): found[2] for found in re.finditer(r"^([\w.-]+)==([^ ;]+)", text, re.MULTILINE)
    }
    # A group may include another one, which is a table and not a requirement.
    wanted = [Requirement(line) for line in LOCKS[name] if isinstance(line, str)]
    found = {str(one): locked.get(canonicalize_name(one.name)) for one in wanted}
    wrong = [one for one in wanted if (have := found[str(one)]) is None or not one.specifier.contains(have)]
    assert wrong == [], found
