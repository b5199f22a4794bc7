"""Reading a dataset for a command."""

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from somatic.dataset import Dataset


def read_dataset(name_or_path: str) -> "Dataset":
    """The dataset; what a person should know about its file is said on stderr."""
    from somatic.dataset import load_dataset

    dataset = load_dataset(name_or_path)
    for note in dataset.notes:
        typer.echo(f"somatic: note: {note}", err=True)
    return dataset
