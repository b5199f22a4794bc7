"""The table in other forms: what went in is what whoever reads them finds."""

import io
import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from shared import expected_of

from somatic.features import MEASURED, feature_table
from somatic.results.export import seed_files, seed_object, to_anndata, to_csv

ID, ROOT = 2**53 + 1, 2**63 - 1
TEXT = 'a "b",\nc'
COMMON = {"materialization_version": 1300, "definitions": "published", "centre_x_nm": 4.0}


def features() -> pa.Table:
    """A cell, one without a soma, and one that was skipped."""
    return feature_table(
        [
            {**COMMON, "nucleus_id": ID, "soma_id": ROOT, "status": "ok", "soma_volume_um": 0.1 + 0.2},
            {
                **COMMON,
                "nucleus_id": 6,
                "soma_id": 7,
                "status": "failed",
                "reason": TEXT,
                "nucleus_area_um": 2.0,
            },
            {**COMMON, "nucleus_id": 8, "soma_id": 0, "status": "skipped", "reason": "no root id at this version"},
        ]
    )


def test_csv_keeps_every_digit() -> None:
    """Ids beyond floats, a number to its last bit, text with quotes and line breaks; null is an empty field."""
    read = pd.read_csv(io.BytesIO(to_csv(features())), float_precision="round_trip", dtype_backend="numpy_nullable")
    assert read["nucleus_id"].tolist() == [6, 8, ID]
    assert read["soma_id"].tolist() == [7, 0, ROOT]
    assert read["soma_volume_um"].isna().tolist() == [True, True, False]
    assert read["soma_volume_um"][2] == 0.1 + 0.2
    assert read["reason"][0] == TEXT


def test_the_layout_of_the_old_code() -> None:
    """The keys are those that the old code returned for a real soma, and its values times its units give the same."""
    old = expected_of("real_soma", 262144)
    row: dict[str, Any] = dict.fromkeys(features().column_names)
    row |= {
        "nucleus_id": old["nucleus_id"],
        "soma_id": old["soma_id"],
        # In micrometres by hand: 2333937302194.539 nm^3, 1180909242.5964622 nm^2.
        "soma_volume_um": 2333.937302194539,
        "soma_area_um": 1180.9092425964622,
        "soma_synapse_number": 50,
        "soma_synapse_density_um": 0.042340256301208314,
        "nuclear_folding_area_um": 63.2600649562614,
    }
    row |= dict(zip([f"soma_center_{axis}_nm" for axis in "xyz"], old["soma_center_mass"], strict=True))
    made = seed_object(row)
    assert set(made) == set(old)
    for key in ("soma_volume_nm", "soma_area_nm", "n_soma_syn", "soma_syn_density", "fold_area_nm"):
        assert made[key] == pytest.approx(old[key], rel=1e-12), key
    assert made["soma_center_mass"] == old["soma_center_mass"]
    assert (made["nucleus_id"], made["soma_id"]) == (262144, 864691135012345678)
    assert made["nucleus_center_mass"] is None


def test_a_file_a_cell() -> None:
    """Cells of which something was measured have a file, named by both ids; its JSON is valid, and null is null."""
    files = dict(seed_files(features()))
    assert set(files) == {f"{ID}_{ROOT}.json", "6_7.json"}
    assert b"NaN" not in files["6_7.json"]
    read = json.loads(files["6_7.json"])
    assert (read["soma_volume_nm"], read["nucleus_area_nm"]) == (None, 2e6)


def test_anndata(tmp_path: Path) -> None:
    """An h5ad that is read back has a row a nucleus, named by its id, NaN for null, exact ids and units."""
    to_anndata(features()).write_h5ad(tmp_path / "features.h5ad")
    read = anndata.read_h5ad(tmp_path / "features.h5ad")
    assert read.obs_names.tolist() == ["6", "8", str(ID)]
    assert read.var_names.tolist() == list(MEASURED)
    assert read.obs["soma_id"].tolist() == [7, 0, ROOT]
    assert read.var.loc["soma_volume_um", "unit"] == "um^3"
    volumes = read[:, "soma_volume_um"].X.ravel()
    assert np.isnan(volumes[:2]).all()
    assert volumes[2] == 0.1 + 0.2
    assert read.obsm["spatial"][0, 0] == 4.0
