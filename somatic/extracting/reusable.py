"""How much of an extraction earlier result sets save, said before it runs."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from somatic.extracting.chunk import cells_of
from somatic.extracting.reuse import find, is_certain, is_unchanged
from somatic.tables import Resolution

if TYPE_CHECKING:
    from somatic.extracting.extraction import Extraction

_LOOKED_AT = (
    "nucleus_id",
    "soma_id",
    "status",
    "error_class",
    "soma_fingerprint",
    "nucleus_fingerprint",
    "nucleus_version",
    "nucleus_voxels_hash",
    "has_soma",
    "has_nucleus",
)
"""Columns that `find` needs."""


class ReusableParts(NamedTuple):
    """Numbers of somata and nuclei that need not be measured, and of somata of which that is seen when it is tried."""

    somata: int
    perhaps_somata: int
    nuclei: int


@dataclass(frozen=True, eq=False)
class Reusable:
    """Which parts of some cells earlier result sets have.

    Attributes
    ----------
    somata : (n,) bool
        The soma is there.
    perhaps_somata : (n,) bool
        A soma is there that holds if the root id, which is another one, has the same supervoxels in the cutout, or if
        the nucleus has the same mesh.
    nuclei : (n,) bool
        The nucleus is there.
    """

    somata: npt.NDArray[np.bool_]
    perhaps_somata: npt.NDArray[np.bool_]
    nuclei: npt.NDArray[np.bool_]

    def counts(self) -> ReusableParts:
        """How many of each."""
        return ReusableParts(*(int(mask.sum()) for mask in (self.somata, self.perhaps_somata, self.nuclei)))


def find_reusable(extraction: "Extraction", rows: pd.DataFrame, resolution_nm: Resolution) -> Reusable | None:
    """Look some rows of a plan up in the bases of an extraction, of which there may be none; nothing is queried."""
    if not extraction.bases:
        return None
    found = find(extraction, cells_of(rows, resolution_nm), _LOOKED_AT)
    sure = [is_unchanged(one) and is_certain(extraction, one) for one in found]
    perhaps = [one.soma is not None and (extraction.on_graph or is_unchanged(one)) for one in found]
    nuclei = [one.is_whole or one.nucleus is not None for one in found]
    somata = np.array(sure, np.bool_)
    return Reusable(somata, np.array(perhaps, np.bool_) & ~somata, np.array(nuclei, np.bool_))
