"""`somatic datasets`."""

import typer


def datasets() -> None:
    """List the datasets that DATASET may name.

    The path of a dataset file serves as well; docs/datasets.md says how to write one.
    """
    from somatic.dataset import dataset_names, load_dataset

    for name in dataset_names():
        dataset = load_dataset(name)
        source = f"CAVE datastack {dataset.cave.datastack}" if dataset.cave else "files"
        flat = ", ".join(map(str, dataset.flat_versions))
        typer.echo(f"{name}: {source}, mip {dataset.mip}" + (f", flat copies of versions {flat}" if flat else ""))
