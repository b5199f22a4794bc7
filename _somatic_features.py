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
# Without pathlib, which would slow every start of Python.
_FOLDER, _FILE = os.path.split(os.path.abspath(__file__))  # noqa: PTH100


class OwnPackages:
    """Finder that resolves `PACKAGES` where they are ours, before `sys.path` is searched.

    They are ours in the folder of this module, and in any other checkout that is on `sys.path`, which comes first.
    """

    @staticmethod
    def find_spec(
        fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find one of `PACKAGES`; everything else is left to the other finders of `sys.meta_path`."""
        if path is not None or fullname not in PACKAGES:
            return None
        checkouts = [folder for folder in sys.path if os.path.isfile(os.path.join(folder, _FILE))]  # noqa: PTH113, PTH118
        return PathFinder.find_spec(fullname, [*checkouts, _FOLDER], target)


sys.meta_path.insert(0, OwnPackages)
