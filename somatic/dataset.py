"""What a dataset is: where its segmentation, its nuclei and its synapses come from.

A dataset is written as a TOML file (docs/datasets.md); the JSON input of Extract_Somatic_Features is read too.
"""

import difflib
import json
import math
import os
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from somatic.errors import DatasetError, one_line, printable
from somatic.protocols import BUCKETS, READABLE, protocol_fault, protocol_of
from somatic.seed_json import dataset_of_seed
from somatic.strict_json import load_json
from somatic.urls import results_fault, url_fault
from somatic.validation import validated
from somatic.volume.access import ANONYMOUS, Access

BUNDLED = Path(__file__).resolve().parent.parent / "deployments" / "datasets"
"""The datasets that have a name; beside `somatic` in the checkout and in an installation alike."""

SegmentationKind = Literal["flat", "graph"]

_FLAT = "precomputed://"
_GRAPH = "graphene://"
_BUCKETS = ("gs://", "s3://")
_LAYERS = ("gs", "s3", "http", "https")
"""Protocols of layers, beside folders of this machine; none for which cloud-volume would send a token."""

# What a reader of TOML takes grows with the square of the number of keys, and of the parts of a dotted key.
_LARGEST_FILE_BYTES = 2**16
_MOST_DOTS = 4000
_LARGEST_VERSION = 2**53
_LARGEST_MIP = 63
_SMALLEST_RADIUS_UM, _LARGEST_RADIUS_UM = 1e-3, 1000
_SMALLEST_VOXEL_NM, _LARGEST_VOXEL_NM = 1e-3, 1e6
_FARTHEST_NM = 1e12
_SHORTEST_DIRECTION = 1e-9


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    if not text.isprintable():
        raise ValueError(f"found {printable(text)[:80]!r}, expected a text without control characters")
    return text


def _location(text: str, info: ValidationInfo) -> str:
    """A URL as it is, a path as an absolute one; relative paths count from the folder of the dataset file."""
    folder = (info.context or {}).get("folder", Path.cwd())
    _check_url(text.removeprefix("file://"))
    if fault := protocol_fault(text, READABLE):
        raise ValueError(fault)
    if protocol_of(text) != "file":
        return text
    path = Path(text.removeprefix("file://")).expanduser()
    absolute = os.path.normpath(folder / path)
    return f"file://{absolute}" if text.startswith("file://") else absolute


def _results(text: str, info: ValidationInfo) -> str:
    """A place for results, as `_location`."""
    _check_url(text, results_fault)
    if fault := protocol_fault(text, BUCKETS):
        raise ValueError(fault)
    return _location(text, info)


def _check_url(text: str, fault_of: Callable[[str], str | None] = url_fault) -> None:
    if fault := fault_of(text):
        # What stands before an @ may be a password.
        raise ValueError(f"found {'...' + text.rpartition('@')[2] if '@' in text else text!r}: {fault}")


def _layer_url(text: str, info: ValidationInfo) -> str:
    """The URL of a layer as cloud-volume takes it, from such a URL, a URL of a bucket or a folder."""
    _check_url(text)
    if text.startswith(_GRAPH):
        _check_url(text.removeprefix(_GRAPH))
        if fault := protocol_fault(text.removeprefix(_GRAPH).removeprefix("middleauth+"), ("http", "https")):
            raise ValueError(fault)
        return text
    bare = _said(text.removeprefix(_FLAT))
    if protocol_of(bare) not in ("file", *_LAYERS):
        expected = f"expected a folder or a URL that starts with {_FLAT} or {_GRAPH}"
        if text.startswith(_FLAT):
            stores = ", ".join(f"{protocol}://" for protocol in _LAYERS)
            expected = f"which has a store that cannot be read; expected a folder or one of {stores} after {_FLAT}"
        raise ValueError(f"found {text!r}, {expected}")
    place = _location(bare, info).rstrip("/")
    return f"{_FLAT}{place}" if "://" in place else f"{_FLAT}file://{place}"


Text = Annotated[str, AfterValidator(_said)]
Location = Annotated[Text, AfterValidator(_location)]
Results = Annotated[Text, AfterValidator(_results)]
LayerUrl = Annotated[Text, AfterValidator(_layer_url)]
Flag = Annotated[bool, Field(strict=True)]
Version = Annotated[int, Field(strict=True, ge=0, le=_LARGEST_VERSION)]
Number = Annotated[float, Field(strict=True, ge=-_FARTHEST_NM, le=_FARTHEST_NM, allow_inf_nan=False)]
Point = tuple[Number, Number, Number]
VoxelSize = Annotated[float, Field(strict=True, ge=_SMALLEST_VOXEL_NM, le=_LARGEST_VOXEL_NM, allow_inf_nan=False)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Layer(_Model):
    """A layer of a volume, and how it is read; in a file its URL alone, or a table."""

    url: LayerUrl = Field(description='the URL or folder of a layer, as "s3://bucket/segmentation"')
    credentials: Flag = Field(
        default=False, description="true to read it with your credentials, false to read it anonymously"
    )
    requester_pays: Flag = Field(default=False, description="true to pay for the requests, else false")

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, value: Any, info: ValidationInfo) -> Any:
        # Checked here so that an error names the key that holds the text.
        return {"url": _layer_url(_said(value), info)} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _can_be_signed(self) -> Self:
        store = self.url.removeprefix(_FLAT)
        if self.requester_pays and not (self.credentials and store.startswith((*_BUCKETS, _GRAPH))):
            raise ValueError("requester_pays is for layers on gs:// or s3:// with credentials = true")
        if self.credentials and not store.startswith((*_BUCKETS, "https://", "http://", _GRAPH)):
            raise ValueError("credentials are for layers on gs://, s3:// or https://")
        if self.credentials and "://" in store.removeprefix("s3://") and store.startswith("s3://"):
            raise ValueError(
                f"found {self.url!r}, expected s3://BUCKET/...; with credentials the server is that of AWS_ENDPOINT_URL"
            )
        return self

    @model_serializer
    def _as_in_a_file(self) -> str | dict[str, str | bool]:
        if self.access == ANONYMOUS:
            return self.url
        return {"url": self.url, "credentials": self.credentials, "requester_pays": self.requester_pays}

    @property
    def access(self) -> Access:
        """Whether it is read with the user's credentials, and who pays."""
        return Access(self.credentials, self.requester_pays)


class TableName(_Model):
    """A table or a view of CAVE, and its column of positions."""

    table: Text | None = Field(default=None, description='the name of a table, as "nucleus_detection_v0"')
    view: Text | None = Field(default=None, description='the name of a view, as "nucleus_detection_lookup_v1"')
    position: Text = Field(default="pt_position", description='the name of a column of positions, as "pt_position"')

    @model_validator(mode="after")
    def _either(self) -> Self:
        if (self.table is None) == (self.view is None):
            raise ValueError("expected either table or view, and not both")
        return self

    @property
    def name(self) -> str:
        """Name of the table or view."""
        return self.table or self.view or ""


class CaveSource(_Model):
    """Tables that a CAVE datastack holds."""

    server: str = Field(
        default="https://global.daf-apis.com",
        pattern=r"^https?://[^\s/]+",
        description='the address of the global server, as "https://global.daf-apis.com"',
    )
    datastack: Text = Field(description='the name of a datastack, as "minnie65_public"')
    nuclei: TableName = Field(description='the table or view of the nuclei, as {table = "nucleus_detection_v0"}')
    nucleus_segmentation: Layer | None = Field(
        default=None, description="the URL or folder of the nucleus layer, whose segment ids are the nucleus ids"
    )
    synapses: Text | None = Field(default=None, description='the name of the synapse table, as "synapses_pni_2"')


class Pia(_Model):
    """Where the pia is, for the depth of a cell below it."""

    point_nm: Point = Field(description="a point of the pia in nm, x, y, z, as [732052, 334140, 859200]")
    down: Point = Field(description="the direction from the pia to the white matter, x, y, z, as [0, 1, 0]")

    @model_validator(mode="after")
    def _has_direction(self) -> Self:
        if math.hypot(*self.down) < _SHORTEST_DIRECTION:
            raise ValueError(f"down: found {list(self.down)}, which is no direction")
        return self


class FileSource(_Model):
    """Tables that lie in files: CSV, Parquet or Feather."""

    nuclei: Location = Field(description='the path or URL of the nuclei, as "nuclei.parquet"')
    synapses: Location | None = Field(
        default=None, description='the path or URL of the synapses, as "synapses.parquet"'
    )
    resolution_nm: tuple[VoxelSize, VoxelSize, VoxelSize] = Field(
        description="three lengths in nm, the size of a voxel of the positions, as [4, 4, 40]"
    )
    synapse_resolution_nm: tuple[VoxelSize, VoxelSize, VoxelSize] | None = Field(
        default=None, description="three lengths in nm, where the positions of synapses have voxels of their own"
    )
    nucleus_segmentation: Layer | None = Field(
        default=None, description="the URL or folder of the nucleus layer, whose segment ids are the nucleus ids"
    )
    version: Version = Field(default=0, description="the number of the version that the files hold, as 0")


class Dataset(_Model):
    """An EM volume with its segmentation, its tables and how to measure it."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=100,
        description='a name of up to 100 letters, digits and ".", "_", "-", as "minnie65"',
    )
    mip: int = Field(
        strict=True, ge=0, le=_LARGEST_MIP, description="the mip level that is measured, a whole number from 0, as 3"
    )
    cutout_radius_um: float = Field(
        default=15.0,
        strict=True,
        ge=_SMALLEST_RADIUS_UM,
        le=_LARGEST_RADIUS_UM,
        allow_inf_nan=False,
        description="half the edge of the cutout in micrometres, a number from 0.001 to 1000, as 15",
    )
    definitions: Literal["published", "corrected"] = Field(
        default="published", description='"published", or "corrected" for features without the faults of these'
    )
    segmentation: Layer | None = Field(
        default=None, description="the URL or folder of a segmentation (precomputed:// or graphene://)"
    )
    segmentations: dict[Annotated[int, Field(ge=0, le=_LARGEST_VERSION)], Layer] = Field(
        default_factory=dict, description='a flat copy for a version, as 1300 = "precomputed://gs://..."'
    )
    version: Version | None = Field(
        default=None, description="the version that is meant when the command names none, a whole number"
    )
    results: Results | None = Field(default=None, description='the path or URL for results, as "s3://bucket/somatic"')
    pia: Pia | None = Field(default=None, description="a table [pia]")
    cave: CaveSource | None = Field(default=None, description="a table [cave]")
    files: FileSource | None = Field(default=None, description="a table [files]")

    _notes: tuple[str, ...] = PrivateAttr(())

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.cave is None) == (self.files is None):
            raise ValueError("expected either [cave] or [files], and not both")
        if self.files is not None:
            if self.version is not None:
                raise ValueError("version: with [files] it belongs under [files]")
            if self.segmentation is None and self.files.version not in self.segmentations:
                raise ValueError("segmentation: missing, expected the URL or folder of a segmentation")
        return self

    def __eq__(self, other: object) -> bool:
        """Same content; where a file lay and what was noted while reading it do not count."""
        return isinstance(other, Dataset) and self.model_dump() == other.model_dump()

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @property
    def notes(self) -> list[str]:
        """What a person should know about the file: keys of an old input that have no effect any more."""
        return list(self._notes)

    @property
    def default_version(self) -> int | Literal["latest"]:
        """The version that is meant when a command names none."""
        if self.files is not None:
            return self.files.version
        return "latest" if self.version is None else self.version

    @property
    def flat_versions(self) -> list[int]:
        """Versions that have a flat segmentation of their own, ascending."""
        layers = self.segmentations.items()
        return sorted(version for version, layer in layers if segmentation_kind(layer.url) == "flat")

    def segmentation_for(self, version: int) -> str:
        """URL of the segmentation of a version, as cloud-volume takes it.

        The version's own entry in `segmentations` wins over `segmentation`. A dataset of CAVE that names neither means
        the datastack's own, which only CAVE knows: see `somatic.source.open_segmentation_url`.

        Raises
        ------
        DatasetError
            Neither is there.
        """
        layer = self.segmentations.get(version, self.segmentation)
        if layer is None:
            raise DatasetError(f"{self.name}: no segmentation for version {version}; {self._what_to_choose()}")
        return layer.url

    def access_to(self, url: str | None) -> Access:
        """How a layer is read: as the file says of it, and anonymously where it is named by CAVE alone."""
        return next((layer.access for layer in self._layers() if layer.url == url), ANONYMOUS)

    def _layers(self) -> Iterator[Layer]:
        source = self.cave or self.files
        for layer in (self.segmentation, *self.segmentations.values(), source and source.nucleus_segmentation):
            if layer:
                yield layer

    def _what_to_choose(self) -> str:
        if self.flat_versions:
            return f"choose a version with a flat copy ({_listed(self.flat_versions)}) or add one under [segmentations]"
        same = [known for known in map(load_dataset, dataset_names()) if self._shares_datastack(known)]
        known = "".join(f"; the dataset {one.name} has those of {_listed(one.flat_versions)}" for one in same)
        return f"write a dataset file with a flat copy under [segmentations]{known}"

    def _shares_datastack(self, other: "Dataset") -> bool:
        return bool(self.cave and other.cave and self.cave.datastack == other.cave.datastack)


def segmentation_kind(url: str) -> SegmentationKind:
    """Whether a segmentation is flat (Precomputed) or a graph (chunked graph, proofread live)."""
    return "graph" if url.startswith(_GRAPH) else "flat"


def dataset_names() -> list[str]:
    """Names of the datasets that come with the package."""
    return sorted(path.stem for path in BUNDLED.glob("*.toml"))


def load_dataset(name_or_path: str | Path) -> Dataset:
    """Read a dataset.

    Parameters
    ----------
    name_or_path : str or pathlib.Path
        A name of `dataset_names()`, or the path of a TOML file or of an old JSON input. A name wins over a file of the
        same name without a suffix. Relative paths in a file count from the folder of the file.

    Raises
    ------
    DatasetError
        There is no such dataset, or the file is not what it must be: the line names file, key, what was found and what
        was expected.
    """
    path = _find(str(name_or_path))
    notes: list[str] = []
    if path.suffix.lower() == ".json":
        raw, notes = dataset_of_seed(_parse(path), str(path))
    else:
        raw = _parse(path)
    dataset = validated(Dataset, raw, str(path), folder=path.absolute().parent)
    dataset._notes = tuple(notes)
    return dataset


def _listed(versions: list[int]) -> str:
    return ", ".join(map(str, versions))


def _find(name_or_path: str) -> Path:
    if name_or_path in dataset_names():
        return BUNDLED / f"{name_or_path}.toml"
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    names = dataset_names()
    near = difflib.get_close_matches(name_or_path, names, n=1)
    guess = f" (did you mean {near[0]}?)" if near else ""
    raise DatasetError(
        f"no dataset {name_or_path!r}{guess}: it is neither a file nor one of the known names: {', '.join(names)}"
    )


def _parse(path: Path) -> Any:
    try:
        if path.stat().st_size > _LARGEST_FILE_BYTES:
            raise DatasetError(f"{path}: larger than {_LARGEST_FILE_BYTES // 1024} kB, which no dataset file is")
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            return load_json(text)
        if text.count(".") > _MOST_DOTS:
            raise DatasetError(f"{path}: has more than {_MOST_DOTS} dots, which no dataset file has")
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DatasetError(f"{path}: not valid TOML: {error}") from error
    except json.JSONDecodeError as error:
        raise DatasetError(
            f"{path}: not valid JSON: {error.msg} (at line {error.lineno}, column {error.colno})"
        ) from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not a text in UTF-8 (byte {error.start})") from error
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        # A number of thousands of digits; tables in tables in tables.
        raise DatasetError(f"{path}: cannot be read: {one_line(error)}") from error
