"""Scenes with the old code's values; they lie beside the project and are read where they are."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

SCENES = ("real_soma", "phantom_scene")
_SHARED = Path(os.environ.get("SOMATIC_SHARED", Path(__file__).parents[2] / "shared"))


def scene_of(name: str) -> Path:
    """Folder with the layers `seg` and `nuclei` and with tables.json; skips the test where it is missing."""
    folder = _SHARED / name / "scene"
    if not folder.is_dir():
        pytest.skip(f"{name} is not there: looked in ../shared beside the project and in SOMATIC_SHARED")
    return folder


def expected_of(name: str, nucleus_id: int) -> dict[str, Any]:
    """What the old code returned for a nucleus of a scene, with its own keys and units."""
    expected = json.loads((_SHARED / name / "expected_published.json").read_text())
    cells = expected if isinstance(expected, list) else [expected]
    return next(cell for cell in cells if cell["nucleus_id"] == nucleus_id)
