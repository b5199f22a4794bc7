"""Whether a segmentation is the one that the root ids of a version are labels of."""

import hashlib
from datetime import datetime

import numpy as np
import pandas as pd

from somatic.cutout import Segmentation
from somatic.errors import UnknownRoot, WrongSegmentation
from somatic.geometry.box import Box
from somatic.planning.plan import POSITION
from somatic.tables import Nuclei

_SAMPLE = 20


def check_segmentation(
    nuclei: Nuclei, segmentation: Segmentation, title: str, timestamp: datetime | None = None
) -> int:
    """Look up the labels at the centres of some nuclei; they must be their root ids, for most of them.

    On a graph the supervoxel at the centre must have had the root id at the moment of the version; where nobody knows
    that moment, it must be a leaf of the root id.

    Parameters
    ----------
    nuclei : Nuclei
        All nuclei at a version.
    segmentation : Segmentation
        Said to belong to that version.
    title : str
        What the version is called in the error.
    timestamp : datetime, optional
        The moment of its root ids, UTC.

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
    CaveError, CaveUnavailable
        The server of the graph refused, or did not answer.
    """
    sample = choose_sample(nuclei)
    if sample.empty:
        return 0
    centres_nm = sample[list(POSITION)].to_numpy(np.int64) * np.asarray(nuclei.resolution_nm)
    roots = sample["root_id"].tolist()
    labels = _roots_at(segmentation, centres_nm, roots, timestamp)
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


def _roots_at(
    segmentation: Segmentation, centres_nm: np.ndarray, roots: list[int], timestamp: datetime | None
) -> list[int]:
    """The root id that holds each centre; without a timestamp, of a graph: this root id, else the supervoxel."""
    labels = [segmentation.label_at(centre_nm) for centre_nm in centres_nm]
    if segmentation.graph is None:
        return labels
    if timestamp is not None:
        return segmentation.graph.roots_of(labels, timestamp).tolist()
    return [
        root if label and _holds(segmentation, root, centre_nm, label) else label
        for root, centre_nm, label in zip(roots, centres_nm, labels, strict=True)
    ]


def _holds(segmentation: Segmentation, root: int, centre_nm: np.ndarray, supervoxel: int) -> bool:
    voxel = np.floor(centre_nm / segmentation.resolution_nm).astype(np.int64)
    try:
        return supervoxel in segmentation.leaves(root, Box(voxel, voxel + 1))
    except UnknownRoot:
        return False


def choose_sample(nuclei: Nuclei) -> pd.DataFrame:
    """Rows of the nuclei that `check_segmentation` looks up: the same few each time, spread over the table."""
    frame = nuclei.frame
    frame = frame[(frame["root_id"] > 0) & frame[list(POSITION)].notna().all(axis=1)]
    spread = frame["nucleus_id"].map(lambda nucleus_id: hashlib.sha256(str(nucleus_id).encode()).hexdigest())
    return frame.loc[spread.sort_values().index[:_SAMPLE]]
