"""What is noted of where the numbers of a cell come from."""

from typing import TYPE_CHECKING, Any

from somatic.cell import Cell, KnownSoma
from somatic.extracting.fingerprints import synapse_hash
from somatic.synapses import synapses_in_cutout
from somatic.tables import Synapses
from somatic.workers.measuring import CellResult

if TYPE_CHECKING:
    from somatic.extracting.extraction import Extraction


def origin_of_cell(
    extraction: "Extraction", cell: Cell, result: CellResult, synapses: Synapses | None
) -> dict[str, Any]:
    """Sources, versions and hashes of a cell that was measured, or a part of it.

    Parameters
    ----------
    extraction : Extraction
    cell : Cell
        With its leaves on a graph, and with what was known of it.
    result : CellResult
    synapses : Synapses or None
        At least those onto the cell in its cutout.

    Returns
    -------
    dict
        Some of `somatic.results.chunks.PROVENANCE_COLUMNS`.
    """
    row, soma, version = result.row, cell.soma, extraction.version
    nucleus_fingerprint = extraction.nucleus_fingerprint(cell)
    has_soma, has_nucleus = row["soma_volume_um"] is not None, row["nucleus_volume_um"] is not None
    has_synapses = row["soma_synapse_number"] is not None
    origin: dict[str, Any] = {
        "soma_source": "measured" if has_soma else None,
        "soma_version": version if has_soma else None,
        "nucleus_source": ("measured" if cell.nucleus is None else "reused") if has_nucleus else None,
        "nucleus_version": (version if cell.nucleus is None else cell.nucleus_version) if has_nucleus else None,
        "nucleus_fingerprint": nucleus_fingerprint,
        "nucleus_voxels_hash": result.nucleus_hash,
        "synapse_source": "measured" if has_synapses else None,
    }
    # The row of a cell that was killed is empty, whatever was known of it.
    if soma is not None and has_soma == (soma.columns["soma_volume_um"] is not None):
        known = origin_of_soma(soma)
        known["nucleus_voxels_hash"] = result.nucleus_hash or known["nucleus_voxels_hash"]
        is_all_known = cell.nucleus is not None or nucleus_fingerprint is None
        return origin | known | ({"source": "carried"} if is_all_known else {})
    hashed = None
    if has_synapses and synapses is not None:
        hashed = synapse_hash(synapses_in_cutout(synapses, cell.root_id, cell.centre_nm, extraction.radius_nm))
    return origin | {"soma_fingerprint": extraction.soma_fingerprint(cell), "synapse_hash": hashed}


def origin_of_soma(soma: KnownSoma) -> dict[str, Any]:
    """Those of a soma that is reused, and of its synapses."""
    has_synapses = soma.columns.get("soma_synapse_number") is not None
    return {
        "soma_source": "reused" if soma.columns["soma_volume_um"] is not None else None,
        "soma_version": soma.version,
        "soma_fingerprint": soma.fingerprint,
        "nucleus_voxels_hash": soma.nucleus_hash,
        "synapse_hash": soma.synapse_hash,
        "synapse_source": ("reused" if soma.synapses_reused else "measured") if has_synapses else None,
    }
