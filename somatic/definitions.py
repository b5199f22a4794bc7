"""Which definitions the features follow, and in which steps these differ.

`somatic.published` and `somatic.corrected` have the same functions, in files of the same names. All else that is done
with a cell is done the same way.
"""

from typing import Protocol

import numpy as np
import trimesh

from somatic import corrected, published
from somatic.cutout import Cutout
from somatic.features import Row
from somatic.soma import Place, SomaMask
from somatic.tables import Synapses


class Definitions(Protocol):
    """The steps in which definitions differ."""

    def repair(self, cutout: Cutout, place: Place, nucleus: trimesh.Trimesh | None) -> SomaMask:
        """Repair the mask of a soma."""

    def soma_surface(self, soma: SomaMask, place: Place) -> tuple[trimesh.Trimesh, Row]:
        """Mesh a soma, and measure it."""

    def on_soma(self, in_cutout: Synapses, soma: trimesh.Trimesh) -> np.ndarray:
        """Say which synapses lie on a soma, (n,) bool."""

    def measure_nucleus(self, mesh: trimesh.Trimesh, resolution_nm: np.ndarray) -> tuple[trimesh.Trimesh, Row]:
        """Measure a nucleus but for its folds, and give the surface on which these are measured."""

    def fold_columns(self, mesh: trimesh.Trimesh) -> Row:
        """Measure the folds of a nucleus."""

    def fold_depth_nm(self, mesh: trimesh.Trimesh) -> np.ndarray:
        """Say how deep each vertex of a nucleus lies in a fold, (n,) float."""


def definitions_called(name: str) -> Definitions:
    """The definitions of a name, "published" or "corrected".

    Raises
    ------
    KeyError
        There are none of this name.
    """
    known: dict[str, Definitions] = {"published": published, "corrected": corrected}
    return known[name]


def needs_surroundings(name: str) -> bool:
    """Whether the soma's mask hangs on the unlabelled voxels around it and on the mesh of its nucleus."""
    return name == "corrected"
