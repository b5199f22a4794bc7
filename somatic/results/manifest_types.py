"""What the readers of manifest.json rely on: of which type each of its values is, where it is there."""

from typing import Annotated

from pydantic import BaseModel, Field

_Count = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
_Coordinate = Annotated[float, Field(ge=-1e15, le=1e15)]
_Length = Annotated[float, Field(gt=0, le=1e15)]
_Text = str | None


class _Pia(BaseModel):
    point_nm: tuple[_Coordinate, _Coordinate, _Coordinate]
    down: tuple[_Coordinate, _Coordinate, _Coordinate]


class _Dataset(BaseModel):
    name: str = ""
    pia: _Pia | None = None


class _Layers(BaseModel):
    segmentation: _Text = None
    nuclei: _Text = None
    resolution_nm: tuple[_Length, _Length, _Length] = (1, 1, 1)


class _FullRun(BaseModel):
    cells: _Count
    requests: _Count
    segmentation_bytes: _Count


class _Cost(BaseModel):
    requests: dict[str, _Count] = {}
    cells_computed: _Count = 0
    cells_carried: _Count = 0
    segmentation_files: _Count = 0
    segmentation_bytes: _Count = 0
    full_run: _FullRun | None = None


class _Changes(BaseModel):
    base: _Text = None


class ManifestTypes(BaseModel):
    """Values of a manifest, any of which an older one may lack; it may have others."""

    dataset: _Dataset = _Dataset()
    materialization_version: _Count = 0
    materialization_timestamp: _Text = None
    config: dict[str, str | int | float | None] = {}
    layers: _Layers = _Layers()
    plan: _Text = None
    counts: dict[str, _Count] = {}
    cost: _Cost | None = None
    changes: _Changes | None = None
    sha256: dict[str, str] = {}
    code_version: _Text = None
    libraries: dict[str, str] = {}
    started: _Text = None
    finished: _Text = None
