"""Imports the packages of somatic-features from where they are installed, whatever the working folder holds.

`flows`, `tasks` and `cli` are names of folders that any user of Prefect may have, and the working folder comes first on
`sys.path` with `python -m`, in a fork server and wherever Prefect loads a flow. `somatic_features.pth` imports this
module whenever a Python of this environment starts, so commands, workers and their child processes are covered alike.
"""

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

PACKAGES = frozenset({"cli", "deployments", "flows", "sandbox", "somatic", "tasks"})
_FOLDER = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib would slow every start of Python


class OwnPackages:
    """Finder that resolves `PACKAGES` in the folder of this module, before `sys.path` is searched."""

    @staticmethod
    def find_spec(
        fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find one of `PACKAGES`; everything else is left to the other finders of `sys.meta_path`."""
        return PathFinder.find_spec(fullname, [_FOLDER], target) if path is None and fullname in PACKAGES else None


sys.meta_path.insert(0, OwnPackages)
