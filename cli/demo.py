"""`somatic demo`."""

import os
import secrets
from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = "[bold]Examples[/bold]\n\nsomatic demo\n\nsomatic demo --folder /tmp/demo --version 2"


def demo(
    folder: Annotated[Path, typer.Option(help="Where the volume and the results go.")] = Path("somatic-demo"),
    version: Annotated[int, typer.Option(min=1, max=2, help="Materialization version, of the two there are.")] = 1,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Chunks measured at the same time.", show_default="one a processor core")
    ] = None,
) -> None:
    """Measure the cells of a made-up volume: the whole line on this machine.

    A small EM volume with its segmentation is written, a CAVE server starts on loopback, and `somatic extract` runs
    against it, with a Prefect of its own. Nothing leaves the machine and no account is needed.
    """
    from rich.console import Console
    from rich.progress import Progress

    from cli.extract import run_extract
    from sandbox.cave import CaveServer
    from sandbox.lab import datastack, write_cave_dataset
    from sandbox.scene import write_scene

    console = Console(stderr=True)
    folder.mkdir(parents=True, exist_ok=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task("writing a phantom volume", total=1.0)
        scene = write_scene(folder / "volume", progress=lambda share: bar.update(shown, completed=share))
    token = secrets.token_hex(16)
    os.environ["CAVE_TOKEN"] = token
    with CaveServer(datastack(scene), token=token) as server:
        dataset = write_cave_dataset(scene, server.url, folder / "phantom.toml")
        console.print(f"CAVE server at {server.url}, dataset file {dataset}")
        run_extract(
            {
                "dataset": str(dataset),
                "version": version,
                "to": str(folder / "results"),
                "workers": workers,
                "chunk": 4,
            },
            prefect_home=folder.resolve() / "prefect",
        )
