"""Whole cells by the published definitions: the old code's values on both shared scenes."""

import numpy as np
import pytest
from shared import SCENES, cells_of, expected_of

from somatic.cell import Measured, extract_cell
from somatic.features import CORRECTED_ONLY

# The column, the old code's key, the factor from nm, nm^2, nm^3 to its unit, and the relative tolerance.
TOLERANCES = [
    ("soma_volume_um", "soma_volume_nm", 1e-9, 0.001),
    ("nucleus_volume_um", "nucleus_volume_nm", 1e-9, 0.001),
    ("soma_area_um", "soma_area_nm", 1e-6, 0.005),
    ("nucleus_area_um", "nucleus_area_nm", 1e-6, 0.005),
    ("nuclear_folding_area_um", "fold_area_nm", 1e-6, 0.02),
    ("fraction_nuclear_folding", "fract_fold", 1, 0.02),
    ("avg_fold_depth_nm", "avg_fold_depth", 1, 0.02),
    ("soma_area_to_volume_ratio", "soma_area_to_volume", 1, 0.01),
    ("nuclear_area_to_volume_ratio", "nucleus_area_to_volume_ratio", 1, 0.01),
    ("nucleus_to_soma_ratio", "nucleus_to_soma", 1, 0.01),
    ("soma_to_nucleus_center_dist", "soma_nuc_d", 1, 0.01),
    ("nucleus_avg_radius_nm", "nucleus_avg_radius", 1, 0.01),
    ("nucleus_aspect_ratio", "nucleus_aspect_ratio", 1, 0.01),
    ("frac_zero", "frac_zero", 1, 0.01),
]


@pytest.fixture(scope="module")
def published() -> dict[str, list[tuple[Measured, dict]]]:
    """Every cell of the shared scenes, measured, with what the old code returned."""
    return {
        scene: [(extract_cell(*cell), expected_of(scene, cell[0].nucleus_id)) for cell in cells_of(scene)]
        for scene in SCENES
    }


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize(("column", "key", "factor", "tolerance"), TOLERANCES, ids=[row[0] for row in TOLERANCES])
def test_published(
    published: dict[str, list[tuple[Measured, dict]]],
    scene: str,
    column: str,
    key: str,
    factor: float,
    tolerance: float,
) -> None:
    """Within the tolerances of definitions.md of what the old code returned."""
    for measured, expected in published[scene]:
        assert measured.row[column] == pytest.approx(expected[key] * factor, rel=tolerance)


@pytest.mark.parametrize("scene", SCENES)
def test_published_centres(published: dict[str, list[tuple[Measured, dict]]], scene: str) -> None:
    """Centres of mass within 2 nm."""
    for measured, expected in published[scene]:
        for column, key in (("soma_center", "soma_center_mass"), ("nucleus_center", "nucleus_center_mass")):
            found = [measured.row[f"{column}_{axis}_nm"] for axis in "xyz"]
            assert np.linalg.norm(np.array(found) - expected[key]) < 2


@pytest.mark.parametrize("scene", SCENES)
def test_published_synapses(published: dict[str, list[tuple[Measured, dict]]], scene: str) -> None:
    """Their number within 6 %, at least 3 up or down, and the density that belongs to it."""
    for measured, expected in published[scene]:
        number = measured.row["soma_synapse_number"]
        assert abs(number - expected["n_soma_syn"]) <= max(3, 0.06 * expected["n_soma_syn"])
        assert measured.row["soma_synapse_density_um"] == pytest.approx(number / measured.row["soma_area_um"])


@pytest.mark.parametrize("scene", SCENES)
def test_published_flags(published: dict[str, list[tuple[Measured, dict]]], scene: str) -> None:
    """Every row is ok and complete, every nucleus is closed as the old code found it, every soma cut by its box."""
    for measured, expected in published[scene]:
        row = measured.row
        assert (row["status"], row["reason"], measured.error) == ("ok", None, None)
        assert row["nucleus_watertight"] == expected["is_watertight"]
        assert row["nucleus_mesh_repaired"] is False
        assert {name for name, value in row.items() if value is None} == {"reason"} | CORRECTED_ONLY


def test_the_boxes_of_the_shared_scenes(published: dict[str, list[tuple[Measured, dict]]]) -> None:
    """The real soma's volume, 256 x 256 x 512 voxels, is smaller than its box of 469 x 469 x 750."""
    (measured, _), *_ = published["real_soma"]
    assert measured.row["frac_outside_volume"] == pytest.approx(1 - 256 * 256 * 512 / (469 * 469 * 750), rel=1e-9)
