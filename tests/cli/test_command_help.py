"""`somatic --help` and what it says."""

import inspect
import resource
import shlex
import subprocess
import sys

import pytest
from command_line import SOMATIC, Run
from typer.main import get_command

from cli import extract
from cli.main import app
from flows.extract import extract as flow
from somatic.software import code_version

HEAVY = ("prefect", "cloudvolume", "trimesh", "pandas", "numpy", "pyarrow", "caveclient", "zmesh", "pydantic", "rich")
COMMANDS = get_command(app).commands
EXAMPLES = [
    line for command in COMMANDS.values() for line in getattr(sys.modules[command.callback.__module__], "EXAMPLES", ())
]


def test_help_comes_at_once() -> None:
    """The help takes less than 0.6 s of processor time, at best of three."""
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([SOMATIC, "--help"], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 0.6


def test_every_example_is_found() -> None:
    """The tests below look at the examples of all subcommands that take arguments."""
    assert {line.split()[1] for line in EXAMPLES} >= {"demo", "cell", "plan", "extract", "compare"}


def test_nothing_heavy_is_imported_before_a_command_runs() -> None:
    """Importing the command imports none of the libraries that take their time."""
    code = f"import sys, cli.main; print([name for name in {HEAVY!r} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.strip() == "[]"


def test_looking_at_a_cell_or_a_plan_needs_no_prefect() -> None:
    """What `somatic cell` and `somatic plan` import does not bring Prefect."""
    modules = "cli.showing, cli.steps, somatic.extracting.extraction, somatic.extracting.shards, somatic.cell"
    code = f"import sys, {modules}; print('prefect' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.strip() == "False"


@pytest.mark.parametrize("line", EXAMPLES)
def test_examples_are_true(line: str) -> None:
    """Each example names a subcommand and options that exist, and fits into a line of the help."""
    program, name, *arguments = shlex.split(line.partition("|")[0])
    assert program == "somatic"
    assert COMMANDS[name].make_context(name, arguments).params
    assert len(line) <= 78


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_subcommand_fits(run: Run, name: str) -> None:
    """The help of each subcommand fits into 80 columns, shows its examples, and leaves with status 0."""
    ran = run(name, "--help")
    assert ran.status == 0
    assert ran.err == ""
    assert max(map(len, ran.out.splitlines())) <= 80
    for line in EXAMPLES:
        if line.startswith(f"somatic {name} "):
            assert line in ran.out


def test_defaults_are_those_of_the_flow() -> None:
    """An option that is left out means what it means to the flow in a deployment."""
    shown = {name: parameter.default for name, parameter in inspect.signature(extract.extract).parameters.items()}
    meant = {name: parameter.default for name, parameter in inspect.signature(flow.fn).parameters.items()}
    assert shown.pop("no_meshes") is not meant["meshes"]
    assert shown.pop("cell_timeout") == meant["cell_timeout_s"]
    assert shown.pop("dataset") is meant["dataset"] is inspect.Parameter.empty
    assert shown == {name: meant[name] for name in shown}


def test_without_a_command_the_help_is_shown(run: Run) -> None:
    """Nothing said is a usage error, but one that shows what could be said."""
    ran = run()
    assert (ran.status, ran.err) == (2, "")
    assert "somatic demo" in ran.out


def test_version(run: Run) -> None:
    """`somatic --version` prints the version that a manifest would name."""
    ran = run("--version")
    assert (ran.status, ran.out, ran.err) == (0, f"somatic {code_version()}\n", "")


def test_datasets(run: Run) -> None:
    """`somatic datasets` names minnie65 with its datastack and the versions that have a flat copy."""
    ran = run("datasets")
    assert ran.status == 0
    [line] = [line for line in ran.out.splitlines() if line.startswith("minnie65:")]
    assert "minnie65_public" in line
    assert line.endswith("117, 343, 943, 1300")
