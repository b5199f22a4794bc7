"""What measuring the cells of a chunk takes and gives."""

import contextlib
import gc
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from somatic.cell import Cell, cell_box, empty_row, extract_cell
from somatic.cutout import Segmentation
from somatic.errors import RefusedLayer, SomaticError, StoreError, UnexpectedError
from somatic.features import Row
from somatic.nucleus import NucleusLayer
from somatic.results.mesh_layer import MeshLayer
from somatic.tables import Synapses
from somatic.volume.access import ANONYMOUS, Access
from somatic.volume.file_cache import FileCache


@dataclass(frozen=True)
class Inputs:
    """What the cells of a dataset are measured from, in a form that travels to another process.

    Attributes
    ----------
    segmentation_url : str
        As cloud-volume takes it. Of a graph, the watershed for cells that have their leaves.
    mip : int
        Which of its resolutions.
    radius_nm : float
        Half the side of a cutout.
    materialization_version : int
        Noted in the rows.
    definitions : {"published", "corrected"}
        Which the numbers follow.
    nuclei_url : str or None
        Layer of the nuclei, as cloud-volume takes it; None leaves their columns null.
    synapses : Synapses or None
        At least those onto the cells in their cutouts; None leaves their columns null.
    meshes_url : str or None
        Layer in which soma meshes are stored; None stores none.
    file_cache : str or None
        Folder where files of the segmentation are kept for the cells that follow; None keeps none.
    segmentation_access, nuclei_access : Access
        Whether the layers are read anonymously or with the user's credentials, which the process finds itself.
    """

    segmentation_url: str
    mip: int
    radius_nm: float
    materialization_version: int
    definitions: str
    nuclei_url: str | None = None
    synapses: Synapses | None = None
    meshes_url: str | None = None
    file_cache: str | None = None
    segmentation_access: Access = ANONYMOUS
    nuclei_access: Access = ANONYMOUS


@dataclass
class CellResult:
    """The row of one cell, how long each stage took in seconds, what went wrong (None when ok), and what was read.

    `segmentation_files` and `segmentation_bytes` are None when nobody knows; `refused_files` were treated as missing.
    `nucleus_hash` is that of `somatic.cell.Measured`.
    """

    row: Row
    seconds: dict[str, float] = field(default_factory=dict)
    error: SomaticError | None = None
    segmentation_files: int | None = None
    segmentation_bytes: int | None = None
    refused_files: int = 0
    nucleus_hash: str | None = None


class CellMeasurer:
    """Measures cells in this process, one at a time, with the layers opened once.

    Parameters
    ----------
    inputs : Inputs
        What the cells are measured from.

    Raises
    ------
    SomaticError
        The segmentation or the nucleus layer cannot be opened.
    """

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        cache = FileCache(inputs.file_cache) if inputs.file_cache else None
        self._segmentation = Segmentation(
            inputs.segmentation_url, inputs.mip, cache=cache, access=inputs.segmentation_access
        )
        self._nuclei = NucleusLayer(inputs.nuclei_url, inputs.nuclei_access) if inputs.nuclei_url else None
        self._meshes = MeshLayer(inputs.meshes_url) if inputs.meshes_url else None
        self._n_files = self._n_bytes = self._n_refused = 0

    def all_of(self, cells: list[Cell]) -> Iterator[CellResult]:
        """Measure cells, the files of the next one fetched meanwhile where there is a cache; raises as for one cell."""
        with ThreadPoolExecutor(1) as pool:
            for cell, following in itertools.zip_longest(cells, cells[1:]):
                ahead = None
                if following is not None and following.soma is None and self._inputs.file_cache:
                    ahead = partial(pool.submit, self._fetch_ahead, following)
                # Not before this one is read, so that it never waits for a file that is not its own.
                yield self(cell, when_read=ahead)
                # Meshes refer to themselves, and would stay until Python happens to look.
                gc.collect()

    def _fetch_ahead(self, cell: Cell) -> None:
        # What goes wrong here goes wrong again when the cell is read, and is its result then.
        with contextlib.suppress(Exception):
            box = cell_box(cell, self._inputs.radius_nm, self._segmentation.resolution_nm)
            self._segmentation.fetch_into_cache(box)

    def __call__(self, cell: Cell, when_read: Callable[[], Any] | None = None) -> CellResult:
        """Measure one cell and store its mesh; any fault of it is part of the result.

        Parameters
        ----------
        cell : Cell
        when_read : callable, optional
            Called when its files of the segmentation are read.

        Raises
        ------
        MemoryError
            So that who watches this process sees a lack of memory as such, whoever notices it first.
        StoreError
            Meshes cannot be stored, which is no fault of the cell.
        RefusedLayer
            The store of a layer refuses its files, which is none either.
        """
        result = self._measure(cell, when_read)
        # Since the last result, not since this cell began: its files may have come in between, fetched ahead.
        segmentation = self._segmentation
        n_files, n_bytes, n_refused = (
            segmentation.n_files_fetched,
            segmentation.n_bytes_fetched,
            segmentation.n_files_refused,
        )
        result.segmentation_files = n_files - self._n_files
        result.segmentation_bytes = n_bytes - self._n_bytes
        result.refused_files = n_refused - self._n_refused
        self._n_files, self._n_bytes, self._n_refused = n_files, n_bytes, n_refused
        return result

    def _measure(self, cell: Cell, when_read: Callable[[], Any] | None) -> CellResult:
        inputs = self._inputs
        try:
            measured = extract_cell(
                cell,
                self._segmentation,
                self._nuclei,
                inputs.synapses,
                radius_nm=inputs.radius_nm,
                materialization_version=inputs.materialization_version,
                definitions=inputs.definitions,
                when_read=when_read,
            )
            if self._meshes and measured.soma is not None:
                with measured.stage("store"):
                    self._meshes.put(cell.nucleus_id, measured.soma)
        except (MemoryError, StoreError, RefusedLayer):
            raise
        except SomaticError as error:
            return failed(cell, inputs, error)
        except Exception as error:
            return failed(cell, inputs, UnexpectedError(f"unexpected {type(error).__name__}: {error}"))
        return CellResult(measured.row, measured.seconds, measured.error, nucleus_hash=measured.nucleus_hash)


def failed(cell: Cell, inputs: Inputs, error: SomaticError) -> CellResult:
    """The result of a cell of which nothing could be measured."""
    return CellResult(failed_row(cell, inputs.materialization_version, inputs.definitions, error), {}, error)


def failed_row(cell: Cell, materialization_version: int, definitions: str, error: SomaticError) -> Row:
    """The row of a cell of which nothing could be measured."""
    row = empty_row(cell, materialization_version, definitions)
    row["status"] = "failed"
    row["reason"] = str(error)
    return row
