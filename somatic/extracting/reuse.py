"""What need not be measured again: somata, nuclei and synapses that earlier result sets have."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from somatic import features
from somatic.cell import Cell, KnownSoma, put_synapses
from somatic.corrected.mask import NO_NUCLEUS
from somatic.definitions import definitions_called, needs_surroundings
from somatic.errors import (
    DegenerateMesh,
    MissingNucleusMesh,
    MissingSegment,
    OpenNucleusMesh,
    StoreError,
)
from somatic.extracting.fingerprints import synapse_hash
from somatic.features import CUTOUT_COLUMNS, NUCLEUS_COLUMNS, SOMA_COLUMNS, SYNAPSE_COLUMNS, Row
from somatic.geometry.mesh import is_watertight
from somatic.results.base import Base
from somatic.results.mesh_layer import MeshLayer
from somatic.storage.places import MESHES
from somatic.synapses import synapse_columns, synapses_in_cutout
from somatic.tables import Synapses

if TYPE_CHECKING:
    from somatic.extracting.extraction import Extraction

_SOMA = tuple(column.name for column in (*SOMA_COLUMNS, *CUTOUT_COLUMNS))
_NUCLEUS = tuple(column.name for column in NUCLEUS_COLUMNS)
_SYNAPSES = tuple(column.name for column in SYNAPSE_COLUMNS)
_LASTING = {kind.__name__ for kind in (MissingSegment, MissingNucleusMesh, OpenNucleusMesh, DegenerateMesh)}
"""Failures that depend on nothing but what the fingerprints hold."""
_WITHOUT_NUCLEUS = {kind.__name__ for kind in (MissingNucleusMesh, OpenNucleusMesh)}
_OF_A_NUCLEUS = (
    "nucleus_mesh_repaired",
    "nucleus_volume_um",
    "nucleus_area_um",
    "nucleus_center_x_nm",
    "nucleus_center_y_nm",
    "nucleus_center_z_nm",
)
"""By which a nucleus is the one of then, where the hash of its voxels was not stored."""
_FILES_AT_ONCE = 16


class Found(NamedTuple):
    """What earlier result sets have of a cell.

    Attributes
    ----------
    cell : Cell
    base, nucleus_base : Base or None
        Where its soma and its nucleus are.
    soma, nucleus : Row or None
        Their rows (`Base.rows`). Both were measured in the same way as now; for a soma to hold, `is_same_soma` must be
        true too.
    is_whole : bool
        Whether `soma` is a row of which everything holds, a failure too, but for the synapses.
    is_same_soma : bool
        Whether the root id has the labels of then in the cutout.
    """

    cell: Cell
    base: Base | None = None
    soma: Row | None = None
    nucleus_base: Base | None = None
    nucleus: Row | None = None
    is_whole: bool = False
    is_same_soma: bool = False


def find(extraction: "Extraction", cells: Sequence[Cell], columns: Sequence[str] | None = None) -> list[Found]:
    """Look up cells in the bases of an extraction; nothing is read or queried for it. `columns` as for `Base.rows`."""
    ids = [cell.nucleus_id for cell in cells]
    bases = [(base, base.rows(ids, columns)) for base in extraction.bases]
    return [_find(extraction, cell, bases) for cell in cells]


def _find(extraction: "Extraction", cell: Cell, bases: Sequence[tuple[Base, dict[int, Row]]]) -> Found:
    place, fingerprint = extraction.place_fingerprint(cell), extraction.nucleus_fingerprint(cell)
    soma_base = soma = nucleus_base = nucleus = None
    is_whole = False
    for base, rows in bases:
        row = rows.get(cell.nucleus_id)
        if row is None:
            continue
        has_same_nucleus = row["nucleus_fingerprint"] == fingerprint
        if soma is None and (row["soma_fingerprint"] or "").partition("-")[0] == place:
            is_whole = has_same_nucleus and _is_final(row, cell)
            if is_whole or has_soma(row, cell):
                soma_base, soma = base, row
        # What was no number then is none now, and the row has to say so.
        has_nucleus = fingerprint is not None and row["nucleus_version"] is not None and row["has_nucleus"]
        if nucleus is None and has_same_nucleus and has_nucleus:
            nucleus_base, nucleus = base, row
    return Found(cell, soma_base, soma, nucleus_base, nucleus, is_whole)


def _is_final(row: Row, cell: Cell) -> bool:
    return row["status"] == "ok" or (row["error_class"] in _LASTING and row["soma_id"] == cell.root_id)


def has_soma(row: Row, cell: Cell) -> bool:
    """Whether the soma of a row was measured, or it is known that there is none."""
    if row["has_soma"]:
        return True
    # Its reason names the root id.
    return row["error_class"] == MissingSegment.__name__ and row["soma_id"] == cell.root_id


def with_labels(
    extraction: "Extraction", found: Sequence[Found], *, of_all: bool = False, stop: threading.Event | None = None
) -> list[Found]:
    """Look whether root ids have the labels of then; on a graph that queries the leaves of those that have changed.

    Parameters
    ----------
    extraction : Extraction
    found : sequence of Found
        From `find`.
    of_all : bool
        Whether the leaves of all other cells are queried at the same time, which measuring them takes.
    stop : threading.Event, optional
        As for `Extraction.with_leaves`, which says too what is raised.
    """
    unchanged = [one for one in found if is_unchanged(one)]
    kept = {one.cell.nucleus_id for one in unchanged}
    if not extraction.on_graph:
        return [one._replace(is_same_soma=one.cell.nucleus_id in kept) for one in found]
    # At the materialization version of then it has been looked at.
    to_check = [one.cell for one in unchanged if one.base and one.base.version != extraction.version]
    if to_check:
        valid = extraction.valid_roots(to_check)
        kept -= {cell.nucleus_id for cell, is_valid in zip(to_check, valid, strict=True) if not is_valid}
    ids_unchanged = {one.cell.nucleus_id for one in unchanged}
    to_query = [
        one.cell
        for one in found
        if one.cell.nucleus_id not in kept and (of_all or (one.soma and one.cell.nucleus_id not in ids_unchanged))
    ]
    with_leaves = {cell.nucleus_id: cell for cell in extraction.with_leaves(to_query, stop)}
    settled = []
    for one in found:
        cell = with_leaves.get(one.cell.nucleus_id, one.cell)
        is_same = cell.nucleus_id in kept
        if one.soma and cell.leaves is not None:
            is_same = extraction.soma_fingerprint(cell) == one.soma["soma_fingerprint"]
        settled.append(one._replace(cell=cell, is_same_soma=is_same))
    return settled


def is_certain(extraction: "Extraction", one: Found) -> bool:
    """Whether a soma holds without a look at the mesh of its nucleus."""
    if not one.soma or not needs_surroundings(extraction.dataset.definitions):
        return True
    if one.soma["nucleus_fingerprint"] == extraction.nucleus_fingerprint(one.cell):
        return True
    hashed = one.soma["nucleus_voxels_hash"]
    return hashed is not None and one.nucleus is not None and one.nucleus["nucleus_voxels_hash"] == hashed


def with_known_parts(
    extraction: "Extraction", found: Sequence[Found], synapses: Synapses | None, warn: Callable[[str], None]
) -> list[Cell]:
    """Give cells what is known of them: the columns of the nucleus, and the soma with its synapses as they are now.

    Parameters
    ----------
    extraction : Extraction
    found : sequence of Found
        From `with_labels`.
    synapses : Synapses or None
        At least those onto the cells in their cutouts; None without a synapse table.
    warn : callable
        Called once for a base with a line that says that stored meshes cannot be read.

    Returns
    -------
    list of Cell
        One for each. A soma whose stored mesh is needed and cannot be read is not given: it is to be measured.

    Raises
    ------
    StoreUnavailable
        Stored meshes cannot be read or copied for now.
    """
    meshes = {base.name: MeshLayer(base.store.url_of(MESHES)) for one in found if (base := one.base)}
    own = MeshLayer(extraction.store.url_of(MESHES)) if extraction.with_meshes else None

    def with_parts(one: Found) -> Cell:
        cell = one.cell
        if one.nucleus:
            known = {name: one.nucleus[name] for name in _NUCLEUS}
            cell = replace(cell, nucleus=known, nucleus_version=one.nucleus["nucleus_version"])
        if not one.soma or not one.base or not one.is_same_soma:
            return cell
        certain = is_certain(extraction, one)
        of_nucleus = None if certain else _nucleus_of(one.soma)
        if not certain and of_nucleus is None:
            return cell
        try:
            soma = _known_soma(one.cell, one.soma, extraction, synapses, meshes[one.base.name])
            if own and one.soma["soma_area_um"] is not None:
                meshes[one.base.name].copy(cell.nucleus_id, own)
        except StoreError as error:
            if not one.base.lacks_meshes:
                one.base.lacks_meshes = True
                warn(f"{extraction.title}: somata of {one.base.name} are measured again without their meshes: {error}")
            return cell
        return replace(cell, soma=replace(soma, of_nucleus=of_nucleus))

    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        return list(pool.map(with_parts, found))


def _nucleus_of(before: Row) -> str | Row | None:
    """What a nucleus must have for the soma of a row to hold (`KnownSoma.of_nucleus`); None where nothing proves it."""
    if before["nucleus_voxels_hash"] is not None:
        return before["nucleus_voxels_hash"]
    if before["nucleus_volume_um"] is None:
        return NO_NUCLEUS if before["error_class"] in _WITHOUT_NUCLEUS else None
    if before["nucleus_mesh_repaired"]:
        return None
    return {name: before[name] for name in _OF_A_NUCLEUS}


def _known_soma(
    cell: Cell, before: Row, extraction: "Extraction", synapses: Synapses | None, meshes: MeshLayer
) -> KnownSoma:
    """The soma of a row, with the synapses of the present version."""
    columns: Row = {name: before[name] for name in _SOMA}
    found, is_reused = None, False
    if synapses is not None and before["soma_area_um"] is not None:
        in_cutout = synapses_in_cutout(synapses, cell.root_id, cell.centre_nm, extraction.radius_nm)
        found = synapse_hash(in_cutout)
        is_reused = (found, features.SYNAPSE_VERSION) == (before["synapse_hash"], before["synapse_features_version"])
        if is_reused:
            counted: Row = {name: before[name] for name in _SYNAPSES}
        else:
            steps = definitions_called(extraction.dataset.definitions)
            mesh = meshes.get(cell.nucleus_id)
            if not is_watertight(mesh):
                raise StoreError(f"the stored soma mesh of nucleus {cell.nucleus_id} is not closed: it is damaged")
            counted = synapse_columns(in_cutout, steps.on_soma(in_cutout, mesh))
        put_synapses(columns, counted)
    is_missing = before["error_class"] == MissingSegment.__name__
    return KnownSoma(
        columns,
        version=before["soma_version"],
        fingerprint=before["soma_fingerprint"],
        synapse_hash=found,
        synapses_reused=is_reused,
        # Of several reasons that of the soma comes first.
        fault=MissingSegment(before["reason"].partition("; ")[0]) if is_missing else None,
        nucleus_hash=before["nucleus_voxels_hash"],
    )


def is_unchanged(one: Found) -> bool:
    """Whether the root id of a soma is that of then."""
    return one.soma is not None and one.soma["soma_id"] == one.cell.root_id
