"""What is read in the folder beside the project: scenes with the old code's values, recorded answers of CAVE.

A clone that has nothing beside it skips every test that needs them, so no other file of the tests names that folder.
"""

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
SHARED = Path(os.environ.get("SOMATIC_SHARED", Path(__file__).resolve().parents[2] / "shared"))
RECORDINGS = SHARED / "cave_recordings"


def in_shared(name: str) -> Path:
    """Return a file or folder beside the project; skip the test where it is missing."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} not found in {SHARED} (SOMATIC_SHARED names another folder)")
    return path


def scene_of(name: str) -> Path:
    """Folder with the layers `seg` and `nuclei` and with tables.json; skips the test where it is missing."""
    return in_shared(f"{name}/scene")


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
    expected = json.loads(in_shared(f"{name}/expected_published.json").read_text())
    cells = expected if isinstance(expected, list) else [expected]
    return next(cell for cell in cells if cell["nucleus_id"] == nucleus_id)
