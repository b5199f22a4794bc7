"""Scenes with the old code's values; they lie beside the project and are read where they are."""

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from somatic.cell import Cell
from somatic.cutout import Segmentation
from somatic.nucleus import NucleusLayer
from somatic.tables import Synapses, synapses_from_raw

SCENES = ("real_soma", "phantom_scene")
_SHARED = Path(os.environ.get("SOMATIC_SHARED", Path(__file__).parents[2] / "shared"))


def scene_of(name: str) -> Path:
    """Folder with the layers `seg` and `nuclei` and with tables.json; skips the test where it is missing."""
    folder = _SHARED / name / "scene"
    if not folder.is_dir():
        pytest.skip(f"{name} is not there: looked in ../shared beside the project and in SOMATIC_SHARED")
    return folder


def cells_of(name: str) -> list[tuple[Cell, Segmentation, NucleusLayer, Synapses]]:
    """The cells of a scene, each with what it is measured from, as `somatic.cell.extract_cell` wants it."""
    folder, size_nm = scene_of(name), (4.0, 4.0, 40.0)
    tables = json.loads((folder / "tables.json").read_text())
    segmentation = Segmentation(f"precomputed://file://{folder}/seg", 0)
    nuclei = NucleusLayer(f"precomputed://file://{folder}/nuclei")
    synapses = synapses_from_raw(pd.DataFrame(tables["synapses"]), resolution_nm=size_nm, where=name)
    cells = [
        Cell(nucleus["id"], nucleus["pt_root_id"], tuple(nucleus["pt_position"]), size_nm)
        for nucleus in tables["nuclei"]
    ]
    return [(cell, segmentation, nuclei, synapses) for cell in cells]


def expected_of(name: str, nucleus_id: int) -> dict[str, Any]:
    """What the old code returned for a nucleus of a scene, with its own keys and units."""
    expected = json.loads((_SHARED / name / "expected_published.json").read_text())
    cells = expected if isinstance(expected, list) else [expected]
    return next(cell for cell in cells if cell["nucleus_id"] == nucleus_id)
