"""Everything about one cell."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import trimesh

from somatic.corrected.mask import nucleus_hash
from somatic.cutout import Cutout, Segmentation, cutout_box
from somatic.definitions import Definitions, definitions_called, needs_surroundings
from somatic.errors import (
    CaveError,
    CaveTokenError,
    DegenerateMesh,
    MissingSegment,
    OutdatedSoma,
    PermanentError,
    RefusedFile,
    RefusedLayer,
    SomaticError,
    UnknownRoot,
)
from somatic.features import MEASURED, Row
from somatic.geometry.box import Box
from somatic.geometry.mesh import is_watertight
from somatic.measures import point_columns
from somatic.nucleus import NucleusLayer, closed
from somatic.soma import Masks, Place
from somatic.synapses import synapse_columns, synapses_in_cutout
from somatic.tables import Synapses


@dataclass(frozen=True)
class KnownSoma:
    """A soma that was measured for an earlier result set, with its synapses as they are now.

    Attributes
    ----------
    columns : mapping
        Columns of the soma, its cutout and its synapses.
    version : int or None
        Materialization version at which it was measured; None for a soma that could not be measured then.
    fingerprint : str
        `somatic.extracting.fingerprints.soma_fingerprint`.
    synapse_hash : str or None
        `somatic.extracting.fingerprints.synapse_hash` of its synapses; None where they are not known.
    synapses_reused : bool
        Whether the number of synapses is that of the earlier result set, and not counted again.
    fault : MissingSegment or None
        Why it could not be measured.
    nucleus_hash : str or None
        `somatic.corrected.mask.nucleus_hash` of the nucleus that it was measured with, where that was stored.
    of_nucleus : str or mapping or None
        What the nucleus must have for the soma to hold, where the present mesh may be another: this `nucleus_hash`, or
        these columns where none was stored. None where nothing has to be checked.
    """

    columns: Mapping[str, Any]
    version: int | None
    fingerprint: str
    synapse_hash: str | None = None
    synapses_reused: bool = False
    fault: MissingSegment | None = None
    nucleus_hash: str | None = None
    of_nucleus: str | Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Cell:
    """What is measured: a nucleus, the root id that holds it, and where.

    `centre_vx` is (3,) int in voxels of the nucleus table, whose size is `table_resolution_nm`, (3,) float.
    `leaves` are the labels of the root id in its cutout, (n,) uint64, where the segmentation is a graph, or the error
    of asking for them; None on a flat one, and when nobody has asked yet.
    `nucleus` holds the columns of the nucleus where they are known from another version, `nucleus_version`; `soma` is
    the soma where it is known.
    """

    nucleus_id: int
    root_id: int
    centre_vx: tuple[int, int, int]
    table_resolution_nm: tuple[float, float, float]
    n_nuclei_in_segment: int = 1
    leaves: np.ndarray | SomaticError | None = field(default=None, compare=False, repr=False)
    nucleus: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    nucleus_version: int | None = field(default=None, compare=False, repr=False)
    soma: KnownSoma | None = field(default=None, compare=False, repr=False)

    @property
    def centre_nm(self) -> np.ndarray:
        """Centre in nm, (3,) float."""
        return np.asarray(self.centre_vx, dtype=float) * np.asarray(self.table_resolution_nm)


@dataclass
class Measured:
    """One measured cell.

    Attributes
    ----------
    row : Row
        Every column of `somatic.features.COLUMNS`.
    soma, nucleus : trimesh.Trimesh or None
        The meshes that were measured, vertices in nm; None where there is none.
    seconds : dict of str to float
        By stage.
    error : PermanentError or None
        The first fault of a row that is not ok.
    masks : Masks or None
        What the soma was meshed from, where that was asked for.
    nucleus_hash : str or None
        `somatic.corrected.mask.nucleus_hash` of the nucleus that the soma depends on; None where it depends on none.
    """

    row: Row
    soma: trimesh.Trimesh | None = None
    nucleus: trimesh.Trimesh | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    error: PermanentError | None = None
    masks: Masks | None = None
    nucleus_hash: str | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to `seconds[name]`."""
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - start


def extract_cell(
    cell: Cell,
    segmentation: Segmentation,
    nuclei: NucleusLayer | None,
    synapses: Synapses | None,
    *,
    radius_nm: float = 15_000.0,
    materialization_version: int = 0,
    definitions: str = "published",
    keep_masks: bool = False,
    when_read: Callable[[], Any] | None = None,
) -> Measured:
    """Measure one cell.

    Parameters
    ----------
    cell : Cell
        Nucleus, root id and centre.
    segmentation : Segmentation
        Flat, where the root id is a label; a graph, whose leaves are asked for when the cell has none; or the
        watershed of a graph, for a cell that has its leaves.
    nuclei : NucleusLayer or None
        Where the nucleus has its mesh; None for a dataset without one, which leaves its columns null. It is not read
        for a cell that brings the columns of its nucleus, unless the soma depends on the mesh.
    synapses : Synapses or None
        At least those onto the root id in the cutout; None leaves the synapse columns null.
    radius_nm : float
        Half the side of the cutout.
    materialization_version : int
        Noted in the row.
    definitions : {"published", "corrected"}
        Which the numbers follow.
    keep_masks : bool
        Whether to keep the masks too, for a picture; they take a bit a voxel each.
    when_read : callable, optional
        Called when the segmentation is read.

    Returns
    -------
    Measured
        `row` has every column of `somatic.features.COLUMNS`, and every number in it is finite. A permanent fault of
        this cell (no voxel of the root in the box, a root that the graph does not know, no mesh of the nucleus, a mesh
        so flat that a measure of it is no number) is a row with status "failed", the reason and what could be measured.

    Raises
    ------
    TransientError
        The segmentation could not be read, or the graph not asked; nothing is known about the cell.
    CaveTokenError, RefusedLayer
        The server of the graph refuses the token, or the store of a layer its files, which is no fault of the cell.
    OutdatedSoma
        The cell brings a soma that was measured with another mesh of its nucleus; measure it without.
    """
    measured = Measured(empty_row(cell, materialization_version, definitions))
    row = measured.row
    steps = definitions_called(definitions)
    box = cell_box(cell, radius_nm, segmentation.resolution_nm)
    place = Place(box, segmentation.resolution_nm, cell.centre_nm, radius_nm)
    measured.masks = Masks(place) if keep_masks else None
    faults: list[PermanentError] = []
    # Before the soma, which may be repaired with it.
    nucleus: trimesh.Trimesh | None = None
    is_needed = needs_surroundings(definitions) and (cell.soma is None or cell.soma.of_nucleus is not None)
    try:
        if nuclei and (cell.nucleus is None or is_needed):
            nucleus = _closed_nucleus(measured, cell, nuclei)
        if cell.nucleus is not None:
            row.update(cell.nucleus)
        elif nuclei and nucleus is not None:
            _measure_nucleus(measured, nucleus, nuclei, steps)
    except RefusedLayer:
        raise
    except PermanentError as fault:
        faults.append(fault)
    if nuclei and is_needed:
        measured.nucleus_hash = nucleus_hash(nucleus, place)
    if cell.soma and not _is_of_nucleus(cell.soma, measured):
        raise OutdatedSoma(f"the soma of nucleus {cell.nucleus_id} was measured with another mesh of the nucleus")
    try:
        if cell.soma is None:
            cutout = _read(measured, cell, segmentation, place, needs_surroundings(definitions))
            if when_read:
                when_read()
            _measure_soma(measured, cell, cutout, place, nucleus, steps)
            if synapses is not None:
                _count_synapses(measured, cell, synapses, radius_nm, steps)
        else:
            if when_read:
                when_read()
            row.update(cell.soma.columns)
            if cell.soma.fault:
                raise cell.soma.fault
    except CaveTokenError:
        raise
    except (MissingSegment, DegenerateMesh, UnknownRoot, CaveError, RefusedFile) as fault:
        faults.insert(0, fault)
    relate(row)
    faults += _without_nonsense(row)
    if faults:
        measured.error = faults[0]
        row["status"] = "failed"
        row["reason"] = "; ".join(str(fault) for fault in faults)
    return measured


def cell_box(cell: Cell, radius_nm: float, resolution_nm: np.ndarray) -> Box:
    """The cutout of a cell, in voxels of this size."""
    return cutout_box(np.array(cell.centre_vx), np.array(cell.table_resolution_nm), radius_nm, resolution_nm)


def empty_row(cell: Cell, materialization_version: int, definitions: str) -> Row:
    """The row of a cell before anything is measured: every measurement null."""
    row: Row = dict.fromkeys(MEASURED)
    row.update(
        nucleus_id=cell.nucleus_id,
        soma_id=cell.root_id,
        n_nuclei_in_segment=cell.n_nuclei_in_segment,
        materialization_version=materialization_version,
        definitions=definitions,
        status="ok",
        reason=None,
    )
    row.update(point_columns("centre", cell.centre_nm))
    return row


def relate(row: Row) -> None:
    """Note the measures that depend on both the soma and the nucleus of a row, where it has both."""
    if row["soma_volume_um"] is not None and row["nucleus_volume_um"] is not None:
        row["nucleus_to_soma_ratio"] = _over(row["nucleus_volume_um"], row["soma_volume_um"])
        distance_nm = np.linalg.norm(_point(row, "soma_center") - _point(row, "nucleus_center"))
        row["soma_to_nucleus_center_dist"] = float(distance_nm)


def put_synapses(row: Row, columns: Row) -> None:
    """Note the synapses on a soma (`somatic.synapses.synapse_columns`) in a row that has its area.

    Their density is null where the area is 0 or no number.
    """
    row.update(columns)
    density = _over(row["soma_synapse_number"], row["soma_area_um"])
    row["soma_synapse_density_um"] = density if math.isfinite(density) else None


def _read(measured: Measured, cell: Cell, segmentation: Segmentation, place: Place, with_unlabelled: bool) -> Cutout:
    """Cut the root id out, and note what is known of the cutout."""
    if isinstance(cell.leaves, SomaticError):
        raise cell.leaves
    labels = cell.root_id if cell.leaves is None else cell.leaves
    centre_vx = np.floor(cell.centre_nm / segmentation.resolution_nm).astype(np.int64)
    with measured.stage("read"):
        cutout = segmentation.read(place.box, labels, centre_vx=centre_vx, with_unlabelled=with_unlabelled)
    measured.row["frac_unlabelled"] = cutout.frac_unlabelled
    measured.row["frac_outside_volume"] = cutout.frac_outside_volume
    if measured.masks:
        measured.masks.cutout = cutout.mask
    return cutout


def _measure_soma(
    measured: Measured,
    cell: Cell,
    cutout: Cutout,
    place: Place,
    nucleus: trimesh.Trimesh | None,
    steps: Definitions,
) -> None:
    row = measured.row
    if cutout.mask.extent() is None:
        raise MissingSegment(_missing(cell, cutout))
    row["frac_zero"] = cutout.frac_zero
    row["soma_touches_box"] = cutout.touches_box
    with measured.stage("mask"):
        repaired = steps.repair(cutout, place, nucleus)
    if measured.masks:
        measured.masks.repaired = repaired
    row.update(repaired.columns)
    with measured.stage("mesh"):
        mesh, columns = steps.soma_surface(repaired, place)
    row.update(columns)
    if not len(mesh.faces):
        raise MissingSegment(f"root id {cell.root_id} has too few voxels in the cutout for a surface")
    row["soma_sphericity"] = _over(1, row["soma_area_to_volume_ratio"])
    measured.soma = mesh


def _count_synapses(measured: Measured, cell: Cell, synapses: Synapses, radius_nm: float, steps: Definitions) -> None:
    assert measured.soma is not None
    with measured.stage("synapses"):
        in_cutout = synapses_in_cutout(synapses, cell.root_id, cell.centre_nm, radius_nm)
        put_synapses(measured.row, synapse_columns(in_cutout, steps.on_soma(in_cutout, measured.soma)))


def _closed_nucleus(measured: Measured, cell: Cell, nuclei: NucleusLayer) -> trimesh.Trimesh:
    with measured.stage("nucleus"):
        stored = nuclei.mesh(cell.nucleus_id)
        measured.row["nucleus_watertight"] = is_watertight(stored)
        mesh, measured.row["nucleus_mesh_repaired"] = closed(stored)
        measured.row["nucleus_watertight"] = True
    return mesh


def _is_of_nucleus(soma: KnownSoma, measured: Measured) -> bool:
    """Whether a known soma was measured with the present mesh of its nucleus."""
    if soma.of_nucleus is None or isinstance(soma.of_nucleus, str):
        return soma.of_nucleus in (None, measured.nucleus_hash)
    return all(measured.row[name] == value for name, value in soma.of_nucleus.items())


def _measure_nucleus(measured: Measured, nucleus: trimesh.Trimesh, nuclei: NucleusLayer, steps: Definitions) -> None:
    row = measured.row
    with measured.stage("nucleus"):
        mesh, columns = steps.measure_nucleus(nucleus, nuclei.resolution_nm)
    row["nucleus_is_clipped"] = nuclei.is_clipped(nucleus)
    row.update(columns)
    row["nucleus_sphericity"] = _over(1, row["nuclear_area_to_volume_ratio"])
    with measured.stage("folds"):
        row.update(steps.fold_columns(mesh))
    measured.nucleus = mesh


def _without_nonsense(row: Row) -> list[DegenerateMesh]:
    """Null the measures of a row that are no numbers, and say of each that it is none."""
    faults = []
    for name, value in row.items():
        if isinstance(value, float) and not math.isfinite(value):
            row[name] = None
            faults.append(DegenerateMesh(f"{name} is {value}: the mesh has no volume or no area"))
    return faults


def _over(part: float, whole: float) -> float:
    """Quotient of two measures; NaN where `whole` is 0, or one of them is no number."""
    return part / whole if whole and math.isfinite(whole) else math.nan


def _missing(cell: Cell, cutout: Cutout) -> str:
    if cutout.inside.n_voxels == 0:
        return "the cutout lies outside the volume of the segmentation"
    text = f"root id {cell.root_id} has no voxel in the cutout"
    return text if cutout.has_files else f"{text}: the segmentation has no files there"


def _point(row: Row, name: str) -> np.ndarray:
    return np.array([row[f"{name}_{axis}_nm"] for axis in "xyz"])
