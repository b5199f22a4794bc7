"""`somatic cell` and `somatic extract` on scenes whose published numbers are known."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command_line import Run
from shared import expected_of, scene_of

# Our column, the key of the old code, the unit of its value in ours, and the relative tolerance of definitions.md.
_NUMBERS = (
    ("soma_volume_um", "soma_volume_nm", 1e9, 0.001),
    ("soma_area_um", "soma_area_nm", 1e6, 0.005),
    ("soma_area_to_volume_ratio", "soma_area_to_volume", 1, 0.01),
    ("frac_zero", "frac_zero", 1, 0.01),
    ("nucleus_volume_um", "nucleus_volume_nm", 1e9, 0.001),
    ("nucleus_area_um", "nucleus_area_nm", 1e6, 0.005),
    ("nuclear_area_to_volume_ratio", "nucleus_area_to_volume_ratio", 1, 0.01),
    ("nucleus_avg_radius_nm", "nucleus_avg_radius", 1, 0.01),
    ("nucleus_aspect_ratio", "nucleus_aspect_ratio", 1, 0.01),
    ("nuclear_folding_area_um", "fold_area_nm", 1e6, 0.02),
    ("fraction_nuclear_folding", "fract_fold", 1, 0.02),
    ("avg_fold_depth_nm", "avg_fold_depth", 1, 0.02),
    ("nucleus_to_soma_ratio", "nucleus_to_soma", 1, 0.01),
    ("soma_to_nucleus_center_dist", "soma_nuc_d", 1, 0.01),
)


def write_dataset(name: str, folder: Path) -> Path:
    """A dataset of files of a scene, as a scientist makes one of tables of their own."""
    scene = scene_of(name)
    tables = json.loads((scene / "tables.json").read_text())
    for table in ("nuclei", "synapses"):
        pd.DataFrame(tables[table]).to_parquet(folder / f"{table}.parquet", index=False)
    path = folder / f"{name}.toml"
    path.write_text(
        f"""name = "{name}"
mip = 0
segmentation = "{scene}/seg"

[files]
nuclei = "nuclei.parquet"
synapses = "synapses.parquet"
resolution_nm = {tables["resolution"]}
nucleus_segmentation = "{scene}/nuclei"
"""
    )
    return path


def check(row: dict[str, Any], expected: dict[str, Any]) -> None:
    """Each number within the tolerance of definitions.md."""
    for column, key, unit, tolerance in _NUMBERS:
        assert row[column] == pytest.approx(expected[key] / unit, rel=tolerance), column
    number = expected["n_soma_syn"]
    slack = max(3, 0.06 * number)
    assert abs(row["soma_synapse_number"] - number) <= slack
    density = row["soma_synapse_number"] / row["soma_area_um"]
    assert row["soma_synapse_density_um"] == pytest.approx(density)
    assert density == pytest.approx(expected["soma_syn_density"] * 1e6, rel=slack / number + 0.005)
    for column, key in (("soma_center", "soma_center_mass"), ("nucleus_center", "nucleus_center_mass")):
        centre_nm = [row[f"{column}_{axis}_nm"] for axis in "xyz"]
        assert centre_nm == pytest.approx(expected[key], abs=2)
    assert (row["nucleus_id"], row["soma_id"]) == (expected["nucleus_id"], expected["soma_id"])
    assert row["nucleus_watertight"] == expected["is_watertight"]
    assert row["status"] == "ok"


def test_cell_on_the_real_soma(run: Run, tmp_path: Path) -> None:
    """`somatic cell` gives the numbers of the old code for a real soma."""
    ran = run("cell", write_dataset("real_soma", tmp_path), 262144, "--json", "-")
    assert ran.status == 0
    check(json.loads(ran.out), expected_of("real_soma", 262144))


def test_extract_on_the_phantom_scene(run_flow: Run, tmp_path: Path) -> None:
    """`somatic extract` gives the numbers of the old code for two neighbouring cells in dense neurites."""
    ran = run_flow("extract", write_dataset("phantom_scene", tmp_path), "--to", "results", "--chunk", 1)
    assert ran.status == 0
    rows = pd.read_parquet(ran.out.splitlines()[-1]).to_dict("records")
    assert [row["nucleus_id"] for row in rows] == [197484, 276365]
    for row in rows:
        check(row, expected_of("phantom_scene", row["nucleus_id"]))
