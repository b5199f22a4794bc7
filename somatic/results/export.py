"""The table of features in other forms: CSV, a JSON file a cell as the scripts before wrote it, and AnnData."""

import io
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from somatic.errors import StoreError
from somatic.features import COLUMNS, MEASURED, Row

if TYPE_CHECKING:
    import anndata

_FORMULA = "^([=+@\t\r-])"
_NM3, _NM2 = 1e9, 1e6
"""Of a cubic, and of a square micrometre."""

SEED_KEYS: dict[str, tuple[str, float | None]] = {
    "soma_id": ("soma_id", None),
    "soma_volume_nm": ("soma_volume_um", _NM3),
    "soma_area_nm": ("soma_area_um", _NM2),
    "soma_area_to_volume": ("soma_area_to_volume_ratio", None),
    "n_soma_syn": ("soma_synapse_number", None),
    "soma_syn_density": ("soma_synapse_density_um", 1 / _NM2),
    "frac_zero": ("frac_zero", None),
    "nucleus_id": ("nucleus_id", None),
    "is_watertight": ("nucleus_watertight", None),
    "nucleus_avg_radius": ("nucleus_avg_radius_nm", None),
    "nucleus_volume_nm": ("nucleus_volume_um", _NM3),
    "nucleus_area_nm": ("nucleus_area_um", _NM2),
    "nucleus_area_to_volume_ratio": ("nuclear_area_to_volume_ratio", None),
    "nucleus_aspect_ratio": ("nucleus_aspect_ratio", None),
    "nucleus_is_clipped": ("nucleus_is_clipped", None),
    "fold_area_nm": ("nuclear_folding_area_um", _NM2),
    "fract_fold": ("fraction_nuclear_folding", None),
    "avg_fold_depth": ("avg_fold_depth_nm", None),
    "soma_nuc_d": ("soma_to_nucleus_center_dist", None),
    "nucleus_to_soma": ("nucleus_to_soma_ratio", None),
}
"""Key of Extract_Somatic_Features, the column that it is, and what that is multiplied with; all in nm, nm^2, nm^3."""

_SEED_POINTS = {"soma_center_mass": "soma_center", "nucleus_center_mass": "nucleus_center"}


def to_csv(features: pa.Table) -> bytes:
    """A table of features as CSV: ids with all their digits, nothing where a value is null.

    A text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    for number, field in enumerate(features.schema):
        if pa.types.is_string(field.type):
            texts = pc.replace_substring_regex(features[field.name], _FORMULA, r"'\1")
            features = features.set_column(number, field, texts)
    out = io.BytesIO()
    pa.csv.write_csv(features, out)
    return out.getvalue()


def seed_files(features: pa.Table) -> Iterator[tuple[str, bytes]]:
    """A file for each cell of which something was measured, in the layout of Extract_Somatic_Features.

    Parameters
    ----------
    features : pyarrow.Table
        Columns of `somatic.features.SCHEMA`.

    Yields
    ------
    name : str
        `{nucleus id}_{root id}.json`.
    content : bytes
        One JSON object; what could not be measured is null, and never NaN.
    """
    for batch in features.to_batches(max_chunksize=1000):
        for row in batch.to_pylist():
            if any(row[name] is not None for name in MEASURED):
                text = json.dumps(seed_object(row), indent=1, allow_nan=False)
                yield f"{row['nucleus_id']}_{row['soma_id']}.json", f"{text}\n".encode()


def seed_object(row: Row) -> dict[str, Any]:
    """A row of the table by the keys, and in the units, of Extract_Somatic_Features."""
    found = {}
    for key, (name, factor) in SEED_KEYS.items():
        value = row[name]
        found[key] = value * factor if factor is not None and value is not None else value
    for key, name in _SEED_POINTS.items():
        point = [row[f"{name}_{axis}_nm"] for axis in "xyz"]
        found[key] = None if None in point else point
    return found


def to_anndata(features: pa.Table) -> "anndata.AnnData":
    """A table of features for single-cell tools.

    Parameters
    ----------
    features : pyarrow.Table
        Columns of `somatic.features.SCHEMA`.

    Returns
    -------
    anndata.AnnData
        A row a nucleus, named by its id. `X` has every measured feature as float64, NaN for null; `obs` the other
        columns; `var` units and meanings; `obsm["spatial"]` the centre of the cutout in nm.

    Raises
    ------
    StoreError
        The package anndata is missing.
    """
    try:
        import anndata
    except ImportError as error:
        raise StoreError("h5ad needs the package anndata, which is not installed; run: pip install anndata") from error
    frame = features.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    names = frame["nucleus_id"].astype(str)
    numbers = frame[list(MEASURED)].astype("Float64").to_numpy(np.float64, na_value=np.nan)
    obs = frame[[name for name in frame.columns if name not in MEASURED]].set_axis(names, axis=0)
    # h5ad has no integers with gaps; these columns have none but the last, where 0 nuclei says the same.
    whole = obs.select_dtypes("Int64").columns
    obs[whole] = obs[whole].fillna(0).astype("int64")
    obs["reason"] = obs["reason"].fillna("")
    described = {column.name: (column.unit, column.description) for column in COLUMNS}
    var = pd.DataFrame([described[name] for name in MEASURED], index=list(MEASURED), columns=["unit", "description"])
    obs.index.name = None
    made = anndata.AnnData(X=numbers, obs=obs, var=var)
    made.obsm["spatial"] = frame[[f"centre_{axis}_nm" for axis in "xyz"]].to_numpy(np.float64, na_value=np.nan)
    return made
