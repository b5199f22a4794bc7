"""Whether a segmentation is the one that the root ids of a version are labels of."""

import hashlib
from collections import Counter
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pandas as pd

from somatic.cutout import Look, Segmentation
from somatic.errors import RefusedFile, RefusedLayer, SegmentationError, UnknownRoot, WrongSegmentation
from somatic.geometry.box import Box
from somatic.planning.plan import POSITION
from somatic.tables import Nuclei

_SAMPLE = 20
_UNREAD = {
    "outside": "of the centres are outside the volume, is resolution_nm right?",
    "missing": "of the files are missing",
    "refused": "of the files were refused",
}


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
    SegmentationError
        So it is because most of the centres are outside the volume, or the layer has no file at any of them;
        `RefusedLayer` where its store refuses them all.
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
    found = _look(segmentation, centres_nm)
    files = Counter(look.file if look else "refused" for look in found)
    if 2 * files["outside"] >= len(sample):
        first = next(n for n, look in enumerate(found) if look and look.file == "outside")
        of = f"{files['outside']} of {len(sample)} sampled centres"
        raise SegmentationError(_outside(of, nuclei, segmentation, sample.iloc[first], centres_nm[first]))
    if not files["read"]:
        raise SegmentationError(
            f"all sampled files of {segmentation.url} are missing: it has none at mip {segmentation.mip} at the "
            f"centres of {len(sample)} nuclei of {title}; was the upload complete, and does this mip have data?"
        )
    labels = _roots(segmentation, [look.label if look else 0 for look in found], centres_nm, roots, timestamp)
    wrong = [
        (n, root, label) for n, root, label in zip(sample["nucleus_id"], roots, labels, strict=True) if root != label
    ]
    if 2 * len(wrong) >= len(sample):
        nucleus_id, root, label = wrong[0]
        unread = [f"{files[kind]} {text}" for kind, text in _UNREAD.items() if files[kind]]
        raise WrongSegmentation(
            f"{segmentation.url} is not the segmentation of {title}: at {len(wrong)} of {len(sample)} nuclei its label "
            f"is not their root id (nucleus {nucleus_id}: label {label}, root id {root} in {title}"
            f"{''.join(f'; {text}' for text in unread)}); choose "
            "the version that it was made from, or name the right one under [segmentations]"
        )
    return len(sample)


def _look(segmentation: Segmentation, centres_nm: np.ndarray) -> list[Look | None]:
    """What there is at each centre; None where the file is refused, while others are served."""
    found: list[Look | None] = []
    refusal: RefusedLayer | None = None
    for centre_nm in centres_nm:
        try:
            found.append(segmentation.look_at(centre_nm))
        except RefusedFile:
            found.append(None)
        except RefusedLayer as error:
            found.append(None)
            refusal = refusal or error
    # Before a file was served nobody knows whether a store that refuses one serves any.
    if refusal and not any(look and look.file == "read" for look in found):
        raise refusal
    return found


def _outside(
    centres: str, nuclei: Nuclei, segmentation: Segmentation, nucleus: pd.Series, centre_nm: np.ndarray
) -> str:
    lower, upper = (
        corner * segmentation.resolution_nm for corner in (segmentation.bounds.lower_vx, segmentation.bounds.upper_vx)
    )
    return (
        f"{centres} are outside the volume of {segmentation.url} (nucleus "
        f"{nucleus['nucleus_id']} is at {_nm(centre_nm)} nm, the volume from {_nm(lower)} to {_nm(upper)} nm); "
        f"their positions were read as voxels of {_nm(nuclei.resolution_nm)} nm: is resolution_nm right? (1, 1, 1 for "
        "positions in nm)"
    )


def _nm(point: npt.ArrayLike) -> str:
    return ", ".join(f"{value:.6g}" if value % 1 else f"{value:.0f}" for value in np.asarray(point).tolist())


def _roots(
    segmentation: Segmentation,
    labels: list[int],
    centres_nm: np.ndarray,
    roots: list[int],
    timestamp: datetime | None,
) -> list[int]:
    """The root id of each label; without a timestamp, of a graph: the root id of the table, else the supervoxel."""
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
