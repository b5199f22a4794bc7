"""Whether a segmentation is the one that the root ids of a version are labels of."""

import hashlib

import numpy as np
import pandas as pd

from somatic.cutout import Segmentation
from somatic.errors import WrongSegmentation
from somatic.planning.plan import POSITION
from somatic.tables import Nuclei

_SAMPLE = 20


def check_segmentation(nuclei: Nuclei, segmentation: Segmentation, title: str) -> int:
    """Look up the labels at the centres of some nuclei; they must be their root ids, for most of them.

    Parameters
    ----------
    nuclei : Nuclei
        All nuclei at a version.
    segmentation : Segmentation
        Said to belong to that version.
    title : str
        What the version is called in the error.

    Returns
    -------
    int
        How many nuclei were looked up; 0 when none has a root and a position.

    Raises
    ------
    WrongSegmentation
        For at most half of them the label is their root id.
    SegmentationUnavailable
        A file could not be read.
    """
    sample = choose_sample(nuclei)
    if sample.empty:
        return 0
    centres_nm = sample[list(POSITION)].to_numpy(np.int64) * np.asarray(nuclei.resolution_nm)
    labels = [segmentation.label_at(centre_nm) for centre_nm in centres_nm]
    roots = sample["root_id"].tolist()
    wrong = [
        (n, root, label) for n, root, label in zip(sample["nucleus_id"], roots, labels, strict=True) if root != label
    ]
    if 2 * len(wrong) >= len(sample):
        nucleus_id, root, label = wrong[0]
        raise WrongSegmentation(
            f"{segmentation.url} is not the segmentation of {title}: at {len(wrong)} of {len(sample)} nuclei its label "
            f"is not their root id (nucleus {nucleus_id}: label {label}, root id {root} in {title}); choose "
            "the version that it was made from, or name the right one under [segmentations]"
        )
    return len(sample)


def choose_sample(nuclei: Nuclei) -> pd.DataFrame:
    """Rows of the nuclei that `check_segmentation` looks up: the same few each time, spread over the table."""
    frame = nuclei.frame
    frame = frame[(frame["root_id"] > 0) & frame[list(POSITION)].notna().all(axis=1)]
    spread = frame["nucleus_id"].map(lambda nucleus_id: hashlib.sha256(str(nucleus_id).encode()).hexdigest())
    return frame.loc[spread.sort_values().index[:_SAMPLE]]
