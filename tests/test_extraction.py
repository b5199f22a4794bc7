"""What an extraction takes over of an earlier one."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from somatic.cell import Cell
from somatic.dataset import Dataset, FileSource
from somatic.extracting.extraction import Extraction
from somatic.features import NUCLEUS_COLUMNS

CELL = Cell(5, 7, (10, 20, 30), (4.0, 4.0, 40.0))


@pytest.mark.parametrize(
    ("null", "is_known"),
    [("avg_fold_depth_nm", True), ("n_folds", True), ("nucleus_aspect_ratio", False), ("nucleus_center_x_nm", False)],
)
def test_columns_of_a_nucleus_that_are_taken_over(null: str, is_known: bool) -> None:
    """Those of a nucleus without folds are; where a measure was no number they are not, so that it is said again."""
    files = FileSource(
        nuclei="nuclei.csv", resolution_nm=(4, 4, 40), nucleus_segmentation="precomputed://gs://bucket/nuclei"
    )
    opened = Extraction.open(Dataset(name="d", mip=0, segmentation="precomputed://gs://bucket/seg", files=files))
    columns = {column.name: 1.0 for column in NUCLEUS_COLUMNS} | {null: None}
    row = columns | {"nucleus_version": 3, "nucleus_fingerprint": opened.nucleus_fingerprint(CELL)}
    opened = replace(opened, base=SimpleNamespace(rows=lambda _: {CELL.nucleus_id: row}))
    [cell] = opened.with_nuclei([CELL])
    assert cell.nucleus == (columns if is_known else None)
