"""`somatic demo`."""

import os
import secrets
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.options import Workers

EXAMPLES = ("somatic demo", "somatic demo --folder phantom --version 2")


def demo(
    folder: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where the volume and the results go; run again, it goes on there.")
    ] = Path("somatic-demo"),
    version: Annotated[
        int, typer.Option(metavar="V", min=1, max=2, help="Materialization version, of the two there are.")
    ] = 1,
    workers: Workers = None,
) -> None:
    """Measure the cells of a made-up volume: the whole line on this machine.

    A small EM volume with its segmentation is written, a CAVE server starts on loopback, and `somatic extract` runs
    against it, with a Prefect of its own. Nothing leaves the machine and no account is needed.
    """
    from rich.console import Console
    from rich.progress import Progress

    from cli.extract import run_extract
    from cli.options import check_can_write
    from cli.prefect_settings import reach_loopback
    from somatic.errors import StoreError
    from somatic.workers.isolation import warm_up

    console = Console(stderr=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make the folder {folder}: {error.strerror}; choose another with --folder") from error
    check_can_write(folder / "phantom.toml")
    # The first run compiles loops, which takes a core longer than the volume takes to write.
    if not warm_up("published"):
        console.print("compiling the numerical loops beside this (about 10 s, once per installation)", soft_wrap=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task("writing a phantom volume", total=1.0)
        from sandbox.cave.server import CaveServer
        from sandbox.lab import datastack, write_cave_dataset, write_file_dataset
        from sandbox.phantom.scene import write_scene

        scene = write_scene(folder / "volume", progress=lambda share: bar.update(shown, completed=share))
    token = secrets.token_hex(16)
    os.environ["CAVE_TOKEN"] = token
    reach_loopback()
    with CaveServer(datastack(scene), token=token) as server:
        dataset = write_cave_dataset(scene, server.url, folder / "phantom.toml")
        console.print(f"a phantom volume in {folder}, a CAVE server at {server.url}", highlight=False, soft_wrap=True)
        summary = run_extract(
            {
                "dataset": str(dataset),
                "version": version,
                "to": str(folder / "results"),
                "workers": workers,
                "chunk": 4,
            },
            prefect_home=folder.resolve() / "prefect",
        )
    # The server ends with this command; a dataset of files needs none.
    files = write_file_dataset(scene, version, folder / "phantom-files.toml")
    nucleus_id = min(truth.nucleus_id for truth in scene.with_role("ordinary"))
    table = _from_here(summary.table)
    report = _from_here(str(Path(summary.table).with_name("report.html")))
    console.print(
        f"\nCells that fail are there on purpose. Look at {report}, open the table, or measure one cell again:",
        highlight=False,
        soft_wrap=True,
    )
    for line in (
        f"{_runnable('python', sys.executable)} -c \"import pandas; print(pandas.read_parquet('{table}'))\"",
        f"{_runnable('somatic', sys.argv[0])} cell {files} {nucleus_id}",
    ):
        console.print(f"  {line}", highlight=False, soft_wrap=True, markup=False)


def _runnable(name: str, path: str) -> str:
    """How a program of this environment is called from the current folder: by its name where that finds it."""
    found = shutil.which(name)
    return name if found and Path(found).samefile(path) else _from_here(path)


def _from_here(path: str) -> str:
    """A path from the current folder, where it lies below."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
