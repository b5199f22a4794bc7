"""Where the tables of a dataset come from: CAVE or files, which answer alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from somatic.dataset import CaveSource, Dataset
from somatic.errors import DatasetError
from somatic.file_tables import FileTables
from somatic.seed_json import SYNAPSES_OF_DATASTACK

if TYPE_CHECKING:
    from somatic.cave.tables import CaveTables


def open_source(dataset: Dataset, version: int | Literal["latest"] | None = None) -> CaveTables | FileTables:
    """Open the tables of a dataset at one version.

    Parameters
    ----------
    dataset : Dataset
    version : int or "latest", optional
        Materialization version; the dataset's default when left out.

    Returns
    -------
    CaveTables or FileTables
        With `version`, `timestamp`, `nucleus_segmentation`, `nuclei()`, `synapses(...)`, `synapse_resolution_nm`.

    Raises
    ------
    DatasetError
        The dataset is of files that hold another version.
    CaveError, CaveUnavailable
        CAVE refused, or did not answer.
    """
    if version is None:
        version = dataset.default_version
    if dataset.files is not None:
        if version not in ("latest", dataset.files.version):
            raise DatasetError(
                f"{dataset.name}: no version {version}; its files hold version {dataset.files.version} only"
            )
        return FileTables(dataset.files)
    assert dataset.cave is not None  # Dataset has exactly one of the two

    # caveclient takes a second to import, and a dataset of files does not need it.
    from somatic.cave.tables import CaveTables

    return CaveTables(_with_synapse_table(dataset.cave), version)


def open_segmentation_url(dataset: Dataset, source: CaveTables | FileTables) -> str:
    """URL of the segmentation that goes with the tables of a source, as cloud-volume takes it.

    A dataset of CAVE that names no segmentation means the one that the datastack names.

    Raises
    ------
    DatasetError
        There is none for this version.
    """
    named = dataset.segmentation is not None or source.version in dataset.segmentations
    if named or isinstance(source, FileTables):
        return dataset.segmentation_for(source.version)
    url = source.segmentation_source
    if not url:
        raise DatasetError(
            f"{dataset.name}: neither the dataset nor its datastack names a segmentation; add segmentation to the file"
        )
    return url


def _with_synapse_table(cave: CaveSource) -> CaveSource:
    if cave.synapses != SYNAPSES_OF_DATASTACK:
        return cave
    from somatic.cave.client import connect

    return cave.model_copy(update={"synapses": connect(cave).info.get_datastack_info().get("synapse_table")})
