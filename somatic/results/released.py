"""The table of features that Elabbady et al. released: how it is recognised, and its units converted to ours."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from somatic.features import RUN_COLUMNS

_LABELS = frozenset(
    {
        "is_column",
        "cortical_column_labels",
        "predicted_class",
        "predicted_subclass",
        "umap_embedding_x",
        "soma_depth_x",
        "soma_depth_y",
        "soma_depth_z",
    }
)
# A part of the columns may have been dropped, and a single one of them may have been joined to any other table.
_ENOUGH_LABELS = 2
_OURS_ALONE = frozenset(column.name for column in RUN_COLUMNS)
_FOLDING_AREA = "nuclear_folding_area_um"
_NM2_PER_UM2 = 1e6
_VOLUME_OF_RATIO = {
    "nuclear_area_to_volume_ratio": "nucleus_volume_um",
    "soma_area_to_volume_ratio": "soma_volume_um",
}

CONVERTED = (_FOLDING_AREA, *_VOLUME_OF_RATIO, *_VOLUME_OF_RATIO.values())
"""Columns that `to_our_units` reads or changes."""


def is_released(columns: Iterable[str]) -> bool:
    """Whether a table with these columns is the released one, or a part of it."""
    names = set(columns)
    return len(names & _LABELS) >= _ENOUGH_LABELS and not names & _OURS_ALONE


def to_our_units(table: pd.DataFrame) -> pd.DataFrame:
    """Convert the columns of the released table whose units are not ours.

    Its `*_area_to_volume_ratio` is area / volume in 1/um, ours is (area / volume) * (radius / 3), with the radius of a
    sphere of that volume. Its `nuclear_folding_area_um` is in nm^2, ours in um^2.

    Parameters
    ----------
    table : pandas.DataFrame
        Columns of the released table, of which any may be missing; those of `CONVERTED` as float64.

    Returns
    -------
    pandas.DataFrame
        The same with these columns in our units. A ratio cannot be converted without its volume: it is NaN where that
        is NaN, and the column is dropped where the column of volumes is missing.
    """
    converted = table.copy()
    if _FOLDING_AREA in table:
        converted[_FOLDING_AREA] = table[_FOLDING_AREA] / _NM2_PER_UM2
    for ratio, volume in _VOLUME_OF_RATIO.items():
        if ratio in table and volume in table:
            converted[ratio] = table[ratio] * np.cbrt(3 * table[volume] / (4 * np.pi)) / 3
        elif ratio in table:
            del converted[ratio]
    return converted
