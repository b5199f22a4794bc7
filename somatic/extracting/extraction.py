"""One extraction, opened: a dataset at a fixed version, what it is measured from, and where its results go."""

import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from somatic.cave.tokens import check_host, find_token, graph_address, where_the_token_goes
from somatic.cell import Cell, cell_box
from somatic.check import check_segmentation
from somatic.cutout import Segmentation
from somatic.dataset import Dataset, segmentation_kind
from somatic.definitions import needs_surroundings
from somatic.errors import (
    CaveTokenError,
    OutdatedSoma,
    SomaticError,
    Stopped,
    StoreError,
    StoreUnavailable,
    UnknownRoot,
)
from somatic.extracting.chunk import cells_of, noted_row, unmeasured_rows
from somatic.extracting.fingerprints import nucleus_fingerprint, place_fingerprint, soma_fingerprint
from somatic.extracting.origin import origin_of_cell
from somatic.extracting.reuse import find, has_soma, with_known_parts, with_labels
from somatic.features import Row
from somatic.nucleus import NucleusLayer
from somatic.results.base import Base, not_reused
from somatic.results.mesh_layer import MeshLayer
from somatic.results.neuroglancer import ViewerLayers
from somatic.source import open_segmentation_url, open_source
from somatic.storage.places import DEFAULT_RESULTS, MESHES, config_hash, configuration, open_results, set_name
from somatic.storage.store import ResultStore
from somatic.tables import Nuclei, Resolution, Synapses
from somatic.volume.missing import refused_files_warning
from somatic.workers.isolation import CELL_TIMEOUT_S, extract_cells_apart
from somatic.workers.measuring import Inputs

if TYPE_CHECKING:
    from somatic.cave.tables import CaveTables
    from somatic.file_tables import FileTables

# Whose leaves are asked for at the same time: enough to hide how long the answers travel.
_LEAVES_AT_ONCE = 4


@dataclass(frozen=True)
class Extraction:
    """Everything that measuring the cells of a dataset at one version takes.

    It holds a connection with a token: open it where it is needed, it is neither stored nor sent.

    Attributes
    ----------
    dataset : Dataset
    source : CaveTables or FileTables
        Its tables at the version.
    segmentation_url : str
        What the root ids of this version are labels of.
    results : str
        URL below which all results lie.
    with_meshes : bool
        Whether soma meshes are stored.
    bases : tuple of Base
        Earlier result sets, from which what has not changed is reused; the first one that has it counts.
    """

    dataset: Dataset
    source: "CaveTables | FileTables"
    segmentation_url: str
    results: str
    with_meshes: bool = True
    bases: tuple[Base, ...] = ()

    @classmethod
    def open(
        cls,
        dataset: Dataset,
        version: int | Literal["latest"] | None = None,
        results: str | None = None,
        *,
        with_meshes: bool = True,
    ) -> "Extraction":
        """Connect to the tables, fix the version and find its segmentation.

        Parameters
        ----------
        dataset : Dataset
        version : int or "latest", optional
            The dataset's own default when left out.
        results : str, optional
            Any fsspec URL or path; else the dataset's, else ./somatic-results.
        with_meshes : bool
            Whether soma meshes are stored.

        Raises
        ------
        SomaticError
            Anything that is wrong with the dataset, the connection or the version, in one line.
        """
        source = open_source(dataset, version)
        url = open_segmentation_url(dataset, source)
        graph = graph_address(url)
        # A graph that must not get the token is refused before anything is queried.
        if graph and dataset.cave:
            check_host(graph, dataset.cave.server)
        elif graph:
            find_token(graph)
        return cls(dataset, source, url, results or dataset.results or DEFAULT_RESULTS, with_meshes)

    def reusing(self, names: Collection[str], warn: Callable[[str], None]) -> "Extraction":
        """The same extraction with earlier result sets to reuse, which are read here.

        Parameters
        ----------
        names : collection of str
            `somatic.results.base.choose_bases`.
        warn : callable
            Called with a line for each that cannot be read, which is left out: reuse only saves work.

        Raises
        ------
        PermanentError
            A name is not that of a result set.
        """
        results, bases = open_results(self.dataset, self.results), []
        for name in names:
            try:
                bases.append(Base(results, name).load())
            except (StoreError, StoreUnavailable) as error:
                warn(f"{self.title}: {not_reused(name, error)}")
        return replace(self, bases=tuple(bases))

    @property
    def version(self) -> int:
        """Materialization version."""
        return self.source.version

    @property
    def title(self) -> str:
        """What a person calls it."""
        return f"{self.dataset.name} v{self.version}"

    @property
    def token_note(self) -> str | None:
        """One line about the hosts that the token of CAVE goes to; None where no token is needed."""
        server = self.dataset.cave.server if self.dataset.cave else graph_address(self.segmentation_url)
        return where_the_token_goes(server) if server else None

    @property
    def radius_nm(self) -> float:
        """Half the side of a cutout."""
        return self.dataset.cutout_radius_um * 1000

    @property
    def config(self) -> dict[str, str | int | float]:
        """What changes numbers on purpose."""
        return configuration(self.dataset, segmentation_kind(self.segmentation_url))

    @property
    def config_hash(self) -> str:
        """Short hash of `config`, part of where results lie."""
        return config_hash(self.config)

    @cached_property
    def store(self) -> ResultStore:
        """Where the results of this version and configuration lie."""
        return open_results(self.dataset, self.results).below(set_name(self.version, self.config_hash))

    @cached_property
    def segmentation(self) -> Segmentation:
        """The segmentation at the dataset's mip."""
        server = self.dataset.cave.server if self.dataset.cave else None
        access = self.dataset.access_to(self.segmentation_url)
        return Segmentation(self.segmentation_url, self.dataset.mip, server, access=access)

    def open_nuclei(self) -> NucleusLayer | None:
        """The layer of nuclei, opened; None for a dataset without one.

        Raises
        ------
        SegmentationError, SegmentationUnavailable
            It cannot be read.
        """
        url = self.source.nucleus_segmentation
        return NucleusLayer(url, self.dataset.access_to(url)) if url else None

    @cached_property
    def _warned(self) -> set[str]:
        """Warnings that were given."""
        return set()

    @property
    def on_graph(self) -> bool:
        """Whether the root ids are those of a graph, and not labels of a flat copy."""
        return segmentation_kind(self.segmentation_url) == "graph"

    def place_fingerprint(self, cell: Cell) -> str:
        """Where and how the soma of a cell is measured; see `somatic.extracting.fingerprints`."""
        return place_fingerprint(cell, **self._how())

    def soma_fingerprint(self, cell: Cell) -> str | None:
        """All that the numbers of a soma depend on; on a graph of a cell with its leaves."""
        return soma_fingerprint(cell, **self._how())

    def nucleus_fingerprint(self, cell: Cell) -> str | None:
        """All that the numbers of a nucleus depend on; None where there is no layer of nuclei."""
        url = self.source.nucleus_segmentation
        if not url:
            return None
        return nucleus_fingerprint(cell.nucleus_id, layer_url=url, definitions=self.dataset.definitions)

    def _how(self) -> dict[str, Any]:
        return {
            "layer_url": self.segmentation.layer_url,
            "mip": self.dataset.mip,
            "radius_nm": self.radius_nm,
            "definitions": self.dataset.definitions,
            "nuclei_url": self.source.nucleus_segmentation if needs_surroundings(self.dataset.definitions) else None,
        }

    def check(self, nuclei: Nuclei) -> None:
        """Check that all that cells are measured from can be read, and that it belongs to this version.

        Parameters
        ----------
        nuclei : Nuclei
            All nuclei of this version.

        Raises
        ------
        SegmentationError, SegmentationUnavailable
            A layer cannot be read; says which and why.
        DatasetError, CaveError, CaveUnavailable
            There is no such table of synapses, or it lacks a column; or the server of the graph refused, or did not
            answer.
        WrongSegmentation
            The segmentation is that of another version.
        """
        _ = self.segmentation
        self.open_nuclei()
        self.source.synapses(np.empty(0, dtype=np.int64), np.zeros(3), np.zeros(3))
        check_segmentation(nuclei, self.segmentation, self.title, self.source.timestamp)

    def put_mesh_layer(self) -> None:
        """Write the info files of the mesh layer, which workers then fill."""
        if self.with_meshes:
            MeshLayer(self.store.url_of(MESHES)).put_info(self.segmentation)

    def synapses_of(self, cells: list[Cell]) -> Synapses | None:
        """Synapses onto the roots of some cells, at least those in their cutouts; None without a synapse table."""
        centres_nm = np.array([cell.centre_nm for cell in cells])
        roots = np.array([cell.root_id for cell in cells], dtype=np.int64)
        return self.source.synapses(
            roots, centres_nm.min(axis=0) - self.radius_nm, centres_nm.max(axis=0) + self.radius_nm
        )

    def valid_roots(self, cells: list[Cell]) -> list[bool]:
        """Which cells have a root id of the graph at the moment of the version; all are asked for at once.

        Raises
        ------
        SomaticError
            The segmentation cannot be opened, or the graph does not say it.
        """
        graph, timestamp = self.segmentation.graph, self.source.timestamp
        assert graph is not None
        # Where nobody knows the moment of the version, a root id may be of any time.
        if timestamp is None:
            return [True] * len(cells)
        return graph.latest([cell.root_id for cell in cells], timestamp).tolist()

    def with_leaves(self, cells: list[Cell], stop: threading.Event | None = None) -> list[Cell]:
        """The cells with the leaves of their root ids, where the segmentation is a graph; else as they are.

        They are asked for here, once a cell, and not where a cell is measured: this process has the token and the
        limit on requests. What goes wrong with one cell is noted in it, and costs the others nothing.

        Raises
        ------
        CaveTokenError
            The server of the graph refuses our token.
        SomaticError
            The segmentation cannot be opened, or the graph does not say which root ids were valid.
        Stopped
            `stop` was set.
        """
        if not self.on_graph or not cells:
            return cells
        segmentation, timestamp = self.segmentation, self.source.timestamp

        def ask(cell: Cell, valid: bool) -> Cell:
            if stop is not None and stop.is_set():
                raise Stopped("the extraction was stopped")
            if not valid:
                return replace(cell, leaves=UnknownRoot(_no_root(cell, self.title, timestamp)))
            box = cell_box(cell, self.radius_nm, segmentation.resolution_nm)
            try:
                return replace(cell, leaves=segmentation.leaves(cell.root_id, box))
            except CaveTokenError:
                raise
            except SomaticError as error:
                return replace(cell, leaves=error)

        with ThreadPoolExecutor(_LEAVES_AT_ONCE) as pool:
            return list(pool.map(ask, cells, self.valid_roots(cells)))

    def viewer_layers(self, resolution_nm: Resolution) -> ViewerLayers:
        """Where its cells are looked at; `resolution_nm` is that of their centres."""
        return ViewerLayers(
            segmentation_url=self.segmentation_url,
            nuclei_url=self.source.nucleus_segmentation,
            meshes_url=self._meshes_url,
            resolution_nm=resolution_nm,
        )

    @property
    def _meshes_url(self) -> str | None:
        return self.store.url_of(MESHES) if self.with_meshes else None

    def inputs(self, synapses: Synapses | None) -> Inputs:
        """What cells are measured from, in a form that travels to another process."""
        return Inputs(
            segmentation_url=self.segmentation_url,
            mip=self.dataset.mip,
            radius_nm=self.radius_nm,
            materialization_version=self.version,
            definitions=self.dataset.definitions,
            nuclei_url=self.source.nucleus_segmentation,
            synapses=synapses,
            meshes_url=self._meshes_url,
            segmentation_access=self.dataset.access_to(self.segmentation_url),
            nuclei_access=self.dataset.access_to(self.source.nucleus_segmentation),
        )

    def extract(
        self,
        rows: pd.DataFrame,
        resolution_nm: tuple[float, float, float],
        *,
        synapses: Synapses | None = None,
        cell_timeout_s: float = CELL_TIMEOUT_S,
        memory_bytes: int | None = None,
        file_cache: str | None = None,
        stop: threading.Event | None = None,
        on_warning: Callable[[str], None] = lambda _text: None,
    ) -> Iterator[Row]:
        """Measure some rows of a plan in a process of their own, but for what the bases have of them.

        The soma of a row at a second attempt is measured whatever the bases have.

        Parameters
        ----------
        rows : pandas.DataFrame
            Columns of `Plan.rows`, those to be skipped left out.
        resolution_nm : (3,) float
            `Plan.resolution_nm`.
        synapses : Synapses, optional
            Those of the cells (`synapses_of`), and of any others; None when the dataset has none.
        cell_timeout_s : float
            Longest time for one cell.
        memory_bytes : int, optional
            Memory there is for one cell, noted of those that are killed.
        file_cache : str, optional
            Folder where files of the segmentation are kept for the cells after these.
        stop : threading.Event, optional
            Set by another thread to end soon.
        on_warning : callable, optional
            Called with one line about what a user should know of the layers, or of earlier results that cannot be read;
            each line once for all cells.

        Yields
        ------
        Row
            As `somatic.results.chunks.put_rows` wants it, one for each, as soon as it is there.

        Raises
        ------
        SomaticError
            A layer could not be opened, the graph not asked or a mesh not stored. The cells that were not measured
            for it have a row that says so, and count as failed for now.
        """
        cells = cells_of(rows, resolution_nm)
        waiting = {cell.nucleus_id: cell for cell in cells}
        attempts = dict(zip(rows["nucleus_id"].tolist(), rows["attempt"].tolist(), strict=True))
        try:
            onto = synapses.onto([cell.root_id for cell in cells]) if synapses else None
            inputs = replace(self.inputs(onto), file_cache=file_cache)
            if self.on_graph:
                # With the leaves at hand the watershed is read like a flat copy, without token and server.
                inputs = replace(inputs, segmentation_url=self.segmentation.layer_url)
            if self.bases:
                first_ids = {nucleus_id for nucleus_id, attempt in attempts.items() if attempt == 1}
                cells = self._with_known_parts(cells, first_ids, onto, stop, on_warning)
            while cells:
                cells = self._with_needed_leaves(cells, stop)
                waiting.update({cell.nucleus_id: cell for cell in cells})
                outdated = []
                for result in extract_cells_apart(cells, inputs, cell_timeout_s=cell_timeout_s, stop=stop):
                    cell = waiting[result.row["nucleus_id"]]
                    if isinstance(result.error, OutdatedSoma):
                        outdated.append(replace(cell, soma=None))
                        continue
                    del waiting[cell.nucleus_id]
                    if (
                        result.refused_files
                        and (text := refused_files_warning(inputs.segmentation_url)) not in self._warned
                    ):
                        self._warned.add(text)
                        on_warning(text)
                    origin = origin_of_cell(self, cell, result, onto)
                    yield noted_row(result, cell, attempts[cell.nucleus_id], memory_bytes, origin)
                cells = outdated
        except SomaticError as error:
            left = rows[rows["nucleus_id"].isin(waiting)]
            yield from unmeasured_rows(left, resolution_nm, error, self.version, self.dataset.definitions)
            raise

    def _with_known_parts(
        self,
        cells: list[Cell],
        first_ids: Collection[int],
        synapses: Synapses | None,
        stop: threading.Event | None,
        warn: Callable[[str], None],
    ) -> list[Cell]:
        """Cells with what the bases have of them; a soma only of those whose attempt is the first."""
        found = [
            one
            if one.soma and has_soma(one.soma, one.cell) and one.cell.nucleus_id in first_ids
            else one._replace(base=None, soma=None)
            for one in find(self, cells)
        ]
        found = with_labels(self, found, of_all=True, stop=stop)
        try:
            return with_known_parts(self, found, synapses, warn)
        except StoreUnavailable as error:
            warn(f"{self.title}: somata of {len(found)} cells are measured again: {error}")
            return with_known_parts(self, [one._replace(base=None, soma=None) for one in found], synapses, warn)

    def _with_needed_leaves(self, cells: list[Cell], stop: threading.Event | None) -> list[Cell]:
        """Cells with leaves where their soma is to be measured."""
        needed = [cell for cell in cells if cell.soma is None and cell.leaves is None]
        with_leaves = {cell.nucleus_id: cell for cell in self.with_leaves(needed, stop)}
        return [with_leaves.get(cell.nucleus_id, cell) for cell in cells]


def _no_root(cell: Cell, title: str, timestamp: datetime | None) -> str:
    return (
        f"root id {cell.root_id} is no root of the graph at the moment of {title} ({timestamp:%Y-%m-%d %H:%M:%S} UTC)"
    )
