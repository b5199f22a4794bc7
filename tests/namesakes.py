"""A working folder whose own packages have the names of ours, as that of any user of Prefect may."""

from pathlib import Path

from _somatic_features import PACKAGES


def put_namesakes(folder: Path) -> None:
    """Put a package, or a module, of each of our names into a folder; to import one of them is an error."""
    for name in PACKAGES:
        code = f'raise RuntimeError("{name} of the working folder was imported")\n'
        if name in ("somatic", "tasks"):
            (folder / f"{name}.py").write_text(code)
        else:
            (folder / name).mkdir()
            (folder / name / "__init__.py").write_text(code)
