"""The house: folders are layers, and imports run downwards only."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "somatic": {"somatic"},
    "sandbox": {"sandbox", "somatic"},
    "tasks": {"tasks", "somatic"},
    "flows": {"flows", "tasks", "somatic"},
    "deployments": {"deployments", "tasks", "somatic"},
    "cli": {"cli", "flows", "tasks", "somatic", "sandbox", "deployments"},
}
"""Which of the project's own packages a layer may use: those below it. The sandbox stands beside the house, and
deployments name the flows as Prefect finds them, without an import."""
OURS = {*MAY_IMPORT, "tests"}
WITHOUT_PREFECT = {"somatic", "sandbox"}
FILES = sorted(path.relative_to(ROOT) for layer in MAY_IMPORT for path in (ROOT / layer).rglob("*.py"))


def imported(source: str) -> set[str]:
    """Top-level packages that a module names in an import, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            assert node.module
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("__import__", "import_module")):
            named = (str(argument.value) for argument in node.args if isinstance(argument, ast.Constant))
            found |= {name.partition(".")[0] for name in named}
    return found


def forbidden(layer: str, source: str) -> set[str]:
    """Packages that a module of a layer must not import, and does."""
    wrong = (imported(source) & OURS) - MAY_IMPORT[layer]
    if layer in WITHOUT_PREFECT:
        wrong |= {name for name in imported(source) if name.startswith("prefect")}
    return wrong


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_run_downwards(path: Path) -> None:
    """No module knows the floors above it, and the science knows nothing of Prefect."""
    assert forbidden(path.parts[0], (ROOT / path).read_text()) == set()


def rooms_used(source: str) -> set[str]:
    """Folders and single modules of the science that a module names in an import."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "somatic":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module.split(".")[1]} if node.module.startswith("somatic.") else set()
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("somatic.")}
    return found


def test_rooms_of_the_science_stand_above_each_other() -> None:
    """No folder of somatic/, and no module beside them, uses one that uses it."""
    uses: dict[str, set[str]] = {}
    for path in FILES:
        if path.parts[0] == "somatic" and path.name != "__init__.py":
            room = path.parts[1].removesuffix(".py")
            uses.setdefault(room, set()).update(rooms_used((ROOT / path).read_text()) - {room})
    assert uses["extracting"] >= {"workers", "results", "planning"}
    graphlib.TopologicalSorter(uses).prepare()  # raises with the circle that it finds


def test_every_layer_is_looked_at() -> None:
    """The list of files has every layer, and the modules that matter most."""
    assert {path.parts[0] for path in FILES} == set(MAY_IMPORT)
    assert {Path("somatic/cell.py"), Path("flows/extract.py"), Path("cli/main.py")} <= set(FILES)


@pytest.mark.parametrize(
    ("layer", "source", "wrong"),
    [
        ("somatic", "import prefect", {"prefect"}),
        ("somatic", "def f():\n    from flows.extract import extract", {"flows"}),
        ("tasks", "if True:\n    import cli.main as m, json", {"cli"}),
        ("sandbox", "from prefect_kubernetes import x", {"prefect_kubernetes"}),
        ("deployments", "from flows.extract import extract", {"flows"}),
        ("flows", "importlib.import_module('sandbox.lab')", {"sandbox"}),
        ("flows", "from somatic import cave\nimport prefect\nimport tasks.cave", set()),
    ],
)
def test_a_forbidden_import_is_seen(layer: str, source: str, wrong: set[str]) -> None:
    """In a function, under a condition, among several, or made by name."""
    assert forbidden(layer, source) == wrong
