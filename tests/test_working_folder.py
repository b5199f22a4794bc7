"""In a folder with packages named like ours, ours are imported: by the command, by its processes, by Prefect."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from namesakes import put_namesakes

from _somatic_features import PACKAGES

ROOT = Path(__file__).parent.parent
SOMATIC = Path(sys.executable).with_name("somatic")
SPAWN = """
import multiprocessing
from somatic.errors import one_line
if __name__ == "__main__":
    for method in ("spawn", "forkserver"):
        process = multiprocessing.get_context(method).Process(target=one_line, args=("",))
        process.start()
        process.join()
        assert process.exitcode == 0, method
    print("ended well")
"""
OURS = f"""
import {", ".join(sorted(PACKAGES))}
print({", ".join(f"{name}.__file__" for name in sorted(PACKAGES))})
"""
FLOWS = """
from prefect.flows import load_flow_from_entrypoint
for entrypoint in ("flows.extract.extract", "flows.shard.extract_shard", "flows.watch.watch"):
    print(load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False).name)
"""


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A folder that has a package or a module of each of our names."""
    folder = tmp_path / "lab"
    folder.mkdir()
    put_namesakes(folder)
    return folder


def run(folder: Path, *command: object, **environment: str) -> str:
    """What a command prints that ends well in a folder."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | environment
    ran = subprocess.run([*map(str, command)], cwd=folder, env=known, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_namesakes_are_in_the_way(lab: Path) -> None:
    """Without the finder of ours, a Python that starts in this folder imports its packages."""
    code = "import sys; sys.meta_path.pop(0); import flows"
    ran = subprocess.run([sys.executable, "-c", code], cwd=lab, capture_output=True, text=True, check=False)
    assert "flows of the working folder was imported" in ran.stderr


@pytest.mark.parametrize("program", [(SOMATIC,), (sys.executable, "-m", "cli")], ids=["somatic", "python -m cli"])
@pytest.mark.parametrize("path", ["", "."])
def test_the_command(lab: Path, program: tuple[object, ...], path: str) -> None:
    """The command runs by its script and as a module, also with the working folder on PYTHONPATH."""
    assert run(lab, *program, "datasets", PYTHONPATH=path).startswith("minnie65: ")


def test_child_processes(lab: Path, tmp_path: Path) -> None:
    """Processes that multiprocessing starts import ours, by a spawn and by a fork server."""
    (tmp_path / "program.py").write_text(SPAWN)
    assert run(lab, sys.executable, tmp_path / "program.py", PYTHONPATH=".") == "ended well\n"


def test_another_checkout(lab: Path, tmp_path: Path) -> None:
    """A checkout of ours that is the working folder, or on PYTHONPATH, is imported and not the installed one."""
    shutil.copytree(ROOT / "tasks", tmp_path / "checkout" / "tasks")
    shutil.copy(ROOT / "_somatic_features.py", tmp_path / "checkout")
    code = "import tasks, cli; print(tasks.__file__, cli.__file__)"
    expected = [str(tmp_path / "checkout" / "tasks" / "__init__.py"), str(ROOT / "cli" / "__init__.py")]
    assert run(tmp_path / "checkout", sys.executable, "-c", code).split() == expected
    assert run(lab, sys.executable, "-c", code, PYTHONPATH=str(tmp_path / "checkout")).split() == expected


def test_the_wheel(lab: Path, tmp_path: Path) -> None:
    """The wheel brings its datasets; the command runs from it in this folder, and Prefect loads the flows.

    Prefect puts the working folder first on sys.path.
    """
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path]
    run(ROOT, *build)
    run(tmp_path, sys.executable, "-m", "venv", "--without-pip", "env")
    python = tmp_path / "env" / "bin" / "python"
    packages = Path(run(lab, python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (wheel,) = tmp_path.glob("somatic_features-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    # Our dependencies, without what .pth files in their folder add: these would find the checkout.
    (packages / "dependencies.pth").write_text(f"{Path(pytest.__file__).parents[1]}\n")

    assert run(lab, python, "-m", "cli", "datasets").startswith("minnie65: ")
    assert {Path(file).parents[1] for file in run(lab, python, "-c", OURS).split()} == {packages}
    assert run(lab, python, "-c", FLOWS).split() == ["extract", "extract-shard", "watch"]
