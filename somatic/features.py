"""The table of features: every column with its type, unit and meaning, in one place.

Features that the table released with Elabbady et al., Nature 2025 (doi 10.1038/s41586-024-07765-7) has too are spelt as
there. `_um` in a name means um^3 for a volume, um^2 for an area and 1/um^2 for a density. Equal names do not mean equal
numbers: that table is normalised, and three of its columns have other units (somatic/results/released.py).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

FEATURES_VERSION = 3
"""Moves when the same input gives other numbers; CHANGELOG.md says why."""

Row = dict[str, Any]
"""One nucleus: column name to value, None where there is none."""


@dataclass(frozen=True)
class Column:
    """A column of the table of features."""

    name: str
    type: pa.DataType
    unit: str
    description: str
    nullable: bool = True

    @property
    def field(self) -> pa.Field:
        """The column as an Arrow field that carries unit and description."""
        metadata = {"unit": self.unit, "description": self.description}
        return pa.field(self.name, self.type, nullable=self.nullable, metadata=metadata)


_ID = pa.int64()
_COUNT = pa.int64()
_NUMBER = pa.float64()
_FLAG = pa.bool_()
_TEXT = pa.string()

NUCLEUS_COLUMNS = (
    Column("nucleus_volume_um", _NUMBER, "um^3", "volume of the nucleus"),
    Column("nucleus_area_um", _NUMBER, "um^2", "area of the nucleus"),
    Column("nuclear_area_to_volume_ratio", _NUMBER, "1", "area to volume of the nucleus, 1 for a sphere"),
    Column("nuclear_folding_area_um", _NUMBER, "um^2", "area of the infolded part of the nuclear envelope"),
    Column("fraction_nuclear_folding", _NUMBER, "1", "infolded share of the nuclear area"),
    Column(
        "nucleus_avg_radius_nm",
        _NUMBER,
        "nm",
        "mean distance of the vertices from the centre; corrected: radius of a sphere as large",
    ),
    Column(
        "nucleus_aspect_ratio",
        _NUMBER,
        "1",
        "largest over mean of the other eigenvalues of its vertices; corrected: of its axes",
    ),
    Column("avg_fold_depth_nm", _NUMBER, "nm", "mean depth of what is folded; null when nothing is folded"),
    Column("fold_depth_95_nm", _NUMBER, "nm", "depth that 95 % of the folded area does not reach"),
    Column("n_folds", _COUNT, "1", "folds of the nuclear envelope"),
    Column("nucleus_sphericity", _NUMBER, "1", "area of a sphere of the same volume over the area of the nucleus"),
    Column("nucleus_watertight", _FLAG, "", "the nucleus mesh is closed (after repair)"),
    Column("nucleus_mesh_repaired", _FLAG, "", "the nucleus mesh had holes, seams or doubled faces that were closed or taken out"),
    Column("nucleus_is_clipped", _FLAG, "", "the nucleus lies within 3 um of the bounds of its layer"),
    Column("n_nucleus_pieces", _COUNT, "1", "pieces of the stored nucleus mesh that do not touch; one is measured"),
    Column(
        "nucleus_mesh_deviation",
        _NUMBER,
        "1",
        "largest relative difference of volume or area between the measured and the stored nucleus mesh",
    ),
    Column(
        "centre_to_nucleus_nm",
        _NUMBER,
        "nm",
        "distance from the centre of the cutout, the position of the nucleus, to its mesh; 0 inside",
    ),
    Column("nucleus_center_x_nm", _NUMBER, "nm", "centre of mass of the nucleus mesh, x"),
    Column("nucleus_center_y_nm", _NUMBER, "nm", "centre of mass of the nucleus mesh, y"),
    Column("nucleus_center_z_nm", _NUMBER, "nm", "centre of mass of the nucleus mesh, z"),
)

SOMA_COLUMNS = (
    Column("soma_volume_um", _NUMBER, "um^3", "volume of the soma"),
    Column("soma_area_um", _NUMBER, "um^2", "area of the soma; published: caps of cut dendrites included"),
    Column("soma_area_to_volume_ratio", _NUMBER, "1", "area to volume of the soma, 1 for a sphere"),
    Column("soma_center_x_nm", _NUMBER, "nm", "centre of mass of the soma mesh, x"),
    Column("soma_center_y_nm", _NUMBER, "nm", "centre of mass of the soma mesh, y"),
    Column("soma_center_z_nm", _NUMBER, "nm", "centre of mass of the soma mesh, z"),
    Column("frac_zero", _NUMBER, "1", "share of the cutout that is not this root id; corrected: that has no label"),
    Column("soma_sphericity", _NUMBER, "1", "area of a sphere of the same volume over the area of the soma"),
    Column("cap_area_um2", _NUMBER, "um^2", "area where the cell leaves the cutout or the volume"),
    Column(
        "frac_nucleus_in_segment",
        _NUMBER,
        "1",
        "share of the nucleus with the root id; near 0 for one segmented apart",
    ),
    Column("n_somata", _COUNT, "1", "parts of the cell that are as thick as a soma, with waists between them"),
    Column("soma_touches_box", _FLAG, "", "voxels of the root lie on a face of the cutout"),
    Column(
        "n_components",
        _COUNT,
        "1",
        "connected pieces of the soma; the largest is kept, corrected: the one with the nucleus",
    ),
)

SYNAPSE_COLUMNS = (
    Column(
        "soma_synapse_number",
        _COUNT,
        "1",
        "synapses onto the root within 150 nm of a vertex of the soma; corrected: of its surface",
    ),
    Column("soma_synapse_size_sum", _NUMBER, "", "sizes of these synapses together, as the table gives them"),
    Column("soma_synapse_size_mean", _NUMBER, "", "their mean size; null without synapses"),
    Column("soma_synapse_density_um", _NUMBER, "1/um^2", "soma_synapse_number over soma_area_um"),
)

BOTH_COLUMNS = (
    Column("nucleus_to_soma_ratio", _NUMBER, "1", "nucleus volume over soma volume"),
    Column("soma_to_nucleus_center_dist", _NUMBER, "nm", "distance of the centres of mass of soma and nucleus"),
)

CUTOUT_COLUMNS = (
    Column("frac_unlabelled", _NUMBER, "1", "share of label 0 in the part of the cutout inside the volume"),
    Column("frac_outside_volume", _NUMBER, "1", "share of the cutout outside the volume"),
)

CENTRE_COLUMNS = (
    Column("centre_x_nm", _NUMBER, "nm", "centre of the cutout, x"),
    Column("centre_y_nm", _NUMBER, "nm", "centre of the cutout, y"),
    Column("centre_z_nm", _NUMBER, "nm", "centre of the cutout, z"),
)

IDENTITY_COLUMNS = (
    Column("nucleus_id", _ID, "", "id of the nucleus, the key of the table", nullable=False),
    Column("soma_id", _ID, "", "root id of the cell at this version; 0 for none", nullable=False),
)

RUN_COLUMNS = (
    Column("n_nuclei_in_segment", _COUNT, "1", "nuclei of the query that share this root id"),
    Column("materialization_version", _ID, "", "CAVE's materialization version", nullable=False),
    Column("definitions", _TEXT, "", "which definitions the row follows", nullable=False),
    Column("status", _TEXT, "", "ok, failed or skipped", nullable=False),
    Column("reason", _TEXT, "", "why the row is not ok; null for ok"),
)

_ALL = (
    *IDENTITY_COLUMNS,
    *NUCLEUS_COLUMNS,
    *SOMA_COLUMNS,
    *SYNAPSE_COLUMNS,
    *BOTH_COLUMNS,
    *CUTOUT_COLUMNS,
    *CENTRE_COLUMNS,
    *RUN_COLUMNS,
)

# In the file a column stands where its definition comes from: in one of these four, exactly once.
_PUBLISHED = (
    "nucleus_id",
    "soma_id",
    "nucleus_volume_um",
    "nucleus_area_um",
    "nuclear_area_to_volume_ratio",
    "nuclear_folding_area_um",
    "fraction_nuclear_folding",
    "soma_volume_um",
    "soma_area_um",
    "soma_area_to_volume_ratio",
    "soma_synapse_number",
    "soma_synapse_density_um",
    "nucleus_to_soma_ratio",
    "soma_to_nucleus_center_dist",
)

_OF_THE_OLD_CODE = (
    "nucleus_avg_radius_nm",
    "nucleus_aspect_ratio",
    "avg_fold_depth_nm",
    "frac_zero",
    "nucleus_watertight",
    "nucleus_is_clipped",
    "soma_center_x_nm",
    "soma_center_y_nm",
    "soma_center_z_nm",
    "nucleus_center_x_nm",
    "nucleus_center_y_nm",
    "nucleus_center_z_nm",
)

_OURS = (
    "centre_x_nm",
    "centre_y_nm",
    "centre_z_nm",
    "materialization_version",
    "definitions",
    "soma_sphericity",
    "nucleus_sphericity",
    "cap_area_um2",
    "fold_depth_95_nm",
    "n_folds",
    "soma_synapse_size_sum",
    "soma_synapse_size_mean",
)

_OF_QUALITY = (
    "status",
    "reason",
    "frac_unlabelled",
    "frac_outside_volume",
    "soma_touches_box",
    "n_components",
    "n_nuclei_in_segment",
    "nucleus_mesh_repaired",
    "n_nucleus_pieces",
    "nucleus_mesh_deviation",
    "centre_to_nucleus_nm",
    "frac_nucleus_in_segment",
    "n_somata",
)

_ORDER = (*_PUBLISHED, *_OF_THE_OLD_CODE, *_OURS, *_OF_QUALITY)
assert sorted(_ORDER) == sorted(column.name for column in _ALL)
_BY_NAME = {column.name: column for column in _ALL}

COLUMNS = tuple(_BY_NAME[name] for name in _ORDER)
"""Every column in the order of the file: the published ones, ours, then what tells of quality."""

MEASURED = tuple(column.name for column in COLUMNS if column not in IDENTITY_COLUMNS + CENTRE_COLUMNS + RUN_COLUMNS)
"""Names of the columns that hold a measurement, null where it could not be made."""

NUMERIC = tuple(name for name in MEASURED if not pa.types.is_boolean(_BY_NAME[name].type))
"""Names of those that are numbers; the others are yes or no."""

FEATURES_OF_SHAPE = tuple(name for name in NUMERIC if not name.endswith(("_x_nm", "_y_nm", "_z_nm")))
"""Names of those numbers that tell what a cell is like, and not where it is."""

CORRECTED_ONLY = frozenset({"cap_area_um2", "fold_depth_95_nm", "n_folds", "frac_nucleus_in_segment", "n_somata"})
"""Names of the columns that the published definitions leave null."""


def columns_of(definitions: str) -> tuple[Column, ...]:
    """The columns that some definitions have, in the order of the file."""
    left_out = CORRECTED_ONLY if definitions == "published" else frozenset()
    return tuple(column for column in COLUMNS if column.name not in left_out)


def _definition(name: str) -> str:
    """Where the definition of a column comes from."""
    if name in _PUBLISHED:
        return "Elabbady et al., Nature 2025, doi 10.1038/s41586-024-07765-7"
    return "Extract_Somatic_Features, the code of that paper" if name in _OF_THE_OLD_CODE else "somatic"


SCHEMA = pa.schema(
    [
        column.field.with_metadata({**column.field.metadata, b"definition": _definition(column.name)})
        for column in COLUMNS
    ]
)


def feature_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows as the table of features, sorted by nucleus id.

    Parameters
    ----------
    rows : iterable of mapping
        Column name to value; a column that is missing is null, a key that is no column is left out.

    Returns
    -------
    pyarrow.Table
        Columns and types of `SCHEMA`.
    """
    ordered = sorted(rows, key=lambda row: row["nucleus_id"])
    return pa.Table.from_pylist([dict(row) for row in ordered], schema=SCHEMA)
