"""Everything about one cell."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import trimesh

from somatic.cutout import Cutout, Segmentation, cutout_box
from somatic.definitions import Definitions, definitions_called, needs_surroundings
from somatic.errors import (
    CaveError,
    CaveTokenError,
    DegenerateMesh,
    MissingSegment,
    PermanentError,
    RefusedFile,
    RefusedLayer,
    SomaticError,
    UnknownRoot,
)
from somatic.features import MEASURED, Row
from somatic.geometry.box import Box
from somatic.measures import point_columns
from somatic.nucleus import Nucleus, NucleusLayer, place_nucleus
from somatic.soma import Masks, Place
from somatic.synapses import synapse_columns, synapses_in_cutout
from somatic.tables import Synapses


@dataclass(frozen=True)
class Cell:
    """What is measured: a nucleus, the root id that holds it, and where.

    `centre_vx` is (3,) int in voxels of the nucleus table, whose size is `table_resolution_nm`, (3,) float.
    `leaves` are the labels of the root id in its cutout, (n,) uint64, where the segmentation is a graph, or the error
    of asking for them; None on a flat one, and when nobody has asked yet.
    `nucleus` holds the columns of the nucleus where they are known from another version, `nucleus_version`.
    """

    nucleus_id: int
    root_id: int
    centre_vx: tuple[int, int, int]
    table_resolution_nm: tuple[float, float, float]
    n_nuclei_in_segment: int = 1
    leaves: np.ndarray | SomaticError | None = field(default=None, compare=False, repr=False)
    nucleus: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    nucleus_version: int | None = field(default=None, compare=False, repr=False)

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
    """

    row: Row
    soma: trimesh.Trimesh | None = None
    nucleus: trimesh.Trimesh | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    error: PermanentError | None = None
    masks: Masks | None = None

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
        Where the nucleus has its mesh; None for a dataset without one, which leaves its columns null. By the
        published definitions it is not looked at for a cell that brings the columns of its nucleus.
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
        this cell (no voxel of the root in the box, a root that the graph does not know, no mesh of the nucleus, one that
        is damaged, open or elsewhere, a mesh so flat that a measure of it is no number) is a row with status "failed", the reason and what could be measured.

    Raises
    ------
    TransientError
        The segmentation could not be read, or the graph not asked; nothing is known about the cell.
    CaveTokenError, RefusedLayer
        The server of the graph refuses the token, or the store of a layer its files, which is no fault of the cell.
    """
    measured = Measured(empty_row(cell, materialization_version, definitions))
    row = measured.row
    steps = definitions_called(definitions)
    box = cell_box(cell, radius_nm, segmentation.resolution_nm)
    place = Place(box, segmentation.resolution_nm, cell.centre_nm, radius_nm)
    measured.masks = Masks(place) if keep_masks else None
    faults: list[PermanentError] = []
    # Before the soma, which may be repaired with it.
    nucleus: Nucleus | None = None
    try:
        if nuclei and (cell.nucleus is None or needs_surroundings(definitions)):
            nucleus = _place_nucleus(measured, cell, nuclei, radius_nm)
        if cell.nucleus is not None:
            row.update(cell.nucleus)
        elif nuclei and nucleus is not None:
            _measure_nucleus(measured, nucleus, nuclei, steps)
    except RefusedLayer:
        raise
    except PermanentError as fault:
        faults.append(fault)
    try:
        cutout = _read(measured, cell, segmentation, place, needs_surroundings(definitions))
        if when_read:
            when_read()
        _measure_soma(measured, cell, cutout, place, nucleus.mesh if nucleus else None, steps)
        if synapses is not None:
            _count_synapses(measured, cell, synapses, radius_nm, steps)
    except CaveTokenError:
        raise
    except (MissingSegment, DegenerateMesh, UnknownRoot, CaveError, RefusedFile) as fault:
        faults.insert(0, fault)
    if row["soma_volume_um"] is not None and row["nucleus_volume_um"] is not None:
        row["nucleus_to_soma_ratio"] = _over(row["nucleus_volume_um"], row["soma_volume_um"])
        distance_nm = np.linalg.norm(_point(row, "soma_center") - _point(row, "nucleus_center"))
        row["soma_to_nucleus_center_dist"] = float(distance_nm)
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


def _place_nucleus(measured: Measured, cell: Cell, nuclei: NucleusLayer, radius_nm: float) -> Nucleus:
    with measured.stage("nucleus"):
        return place_nucleus(nuclei.mesh(cell.nucleus_id), nuclei, cell.centre_nm, radius_nm)


def _measure_nucleus(measured: Measured, nucleus: Nucleus, nuclei: NucleusLayer, steps: Definitions) -> None:
    with measured.stage("nucleus"):
        mesh, measures = steps.measure_nucleus(nucleus.mesh, nuclei.resolution_nm)
        columns = {"nucleus_is_clipped": nuclei.is_clipped(nucleus.mesh)} | nucleus.columns | measures
        name = "nucleus_mesh_deviation"
        columns[name] = max(nucleus.columns[name], measures.get(name, 0.0))
    columns["nucleus_sphericity"] = _over(1, columns["nuclear_area_to_volume_ratio"])
    with measured.stage("folds"):
        columns |= steps.fold_columns(mesh)
    measured.row.update(columns)
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
