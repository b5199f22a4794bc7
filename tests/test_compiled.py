"""Loops that numba compiles."""

from pathlib import Path

import numpy as np
import pytest

from somatic.geometry import compiled
from somatic.measures import integrals


def test_machine_code_is_kept_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is machine code once a loop has run, and none in a folder where nothing was compiled."""
    integrals(np.zeros((3, 3)), np.array([[0, 1, 2]]))
    assert compiled.has_machine_code()
    monkeypatch.setattr(compiled, "_cache_folders", {tmp_path})
    assert not compiled.has_machine_code()
