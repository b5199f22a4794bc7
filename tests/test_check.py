"""Whether a segmentation belongs to a version, where some nuclei say yes and some no."""

import numpy as np
import pandas as pd
import pytest
from volumes import put_volume

from somatic.check import check_segmentation
from somatic.cutout import Segmentation
from somatic.errors import WrongSegmentation
from somatic.tables import Nuclei

NM = (100.0, 100.0, 100.0)
FIRST_ROOT = 2**60


@pytest.fixture(scope="module")
def segmentation(tmp_path_factory: pytest.TempPathFactory) -> Segmentation:
    """Forty voxels in a row, each a cell of its own."""
    labels = (FIRST_ROOT + np.arange(40, dtype=np.uint64)).reshape(40, 1, 1)
    return Segmentation(put_volume(tmp_path_factory.mktemp("check") / "seg", labels, resolution_nm=NM), 0)


def nuclei(n: int, n_wrong: int) -> Nuclei:
    """A nucleus in each of the first voxels, the last of them with root ids of another version."""
    number = np.arange(n)
    root_ids = FIRST_ROOT + number + np.where(number >= n - n_wrong, 1000, 0)
    place = {f"{axis}_vx": pd.array(number if axis == "x" else 0 * number, dtype="Int64") for axis in "xyz"}
    return Nuclei(pd.DataFrame({"nucleus_id": 5 + number, "root_id": root_ids, **place}), NM)


@pytest.mark.parametrize("n_wrong", [0, 1, 9])
def test_most_are_right(segmentation: Segmentation, n_wrong: int) -> None:
    """Up to nine of twenty may be edited since, or have their point beside the cell."""
    assert check_segmentation(nuclei(20, n_wrong), segmentation, "v7") == 20


@pytest.mark.parametrize("n_wrong", [10, 11, 20])
def test_half_are_wrong(segmentation: Segmentation, n_wrong: int) -> None:
    """With half of them wrong it is another segmentation: both are named, how many, and the first of them."""
    with pytest.raises(WrongSegmentation) as raised:
        check_segmentation(nuclei(20, n_wrong), segmentation, "v7")
    said = str(raised.value)
    assert said.startswith(f"{segmentation.url} is not the segmentation of v7: at {n_wrong} of 20 nuclei its label ")


@pytest.mark.parametrize(("n", "n_wrong", "is_right"), [(3, 1, True), (2, 1, False), (1, 0, True), (1, 1, False)])
def test_few_nuclei(segmentation: Segmentation, n: int, n_wrong: int, is_right: bool) -> None:
    """Of fewer than twenty all are looked up, and more than half must be right."""
    if is_right:
        assert check_segmentation(nuclei(n, n_wrong), segmentation, "v7") == n
    else:
        with pytest.raises(WrongSegmentation, match=f"at {n_wrong} of {n} nuclei"):
            check_segmentation(nuclei(n, n_wrong), segmentation, "v7")


def test_twenty_of_many(segmentation: Segmentation) -> None:
    """No more than twenty are looked up, and those without a root or a position not at all."""
    many = nuclei(40, 0)
    assert check_segmentation(many, segmentation, "v7") == 20
    many.frame.loc[:29, "root_id"] = 0
    many.frame.loc[30:34, ["x_vx", "y_vx", "z_vx"]] = pd.NA
    assert check_segmentation(many, segmentation, "v7") == 5
    many.frame["root_id"] = 0
    assert check_segmentation(many, segmentation, "v7") == 0
