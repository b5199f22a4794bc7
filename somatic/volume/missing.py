"""Telling files that a store does not have from files that it does not serve.

S3 and Google's storage answer 403, not 404, for a file that does not exist in a bucket that may not be listed. They
answer the same when access to the bucket was revoked, which must never become background.
"""

import logging

from cloudvolume import CloudVolume

from somatic.errors import RefusedFile, RefusedLayer
from somatic.volume.access import Access
from somatic.volume.layer import is_served, read_error
from somatic.volume.refusal import Refused

_REASON = (
    "treated as missing, because other files of the layer are served (some stores answer 403 for missing files); "
    "frac_unlabelled counts the voxels"
)

logger = logging.getLogger(__name__)


def refused_files_warning(url: str) -> str:
    """What to tell a user once, when files of a layer were refused and count as missing."""
    return f"files of {url} were refused (HTTP 403) and are {_REASON}"


class RefusalCheck:
    """Decides for a layer at one mip which of the files that its store refused count as missing.

    Parameters
    ----------
    volume : CloudVolume
        Opened at the mip.
    url : str
        What the layer is called in an error.
    access : Access
        As the volume was opened with.

    Attributes
    ----------
    served : str or None
        Path of a file of this mip that the store has served to this process.
    n_missing : int
        Files so far that were refused and count as missing.
    """

    def __init__(self, volume: CloudVolume, url: str, access: Access) -> None:
        self._volume = volume
        self._url = url
        self._access = access
        self.served: str | None = None
        self.n_missing = 0

    def check(self, refused: dict[str, Refused], centre: str | None) -> None:
        """Make sure that refused files count as missing.

        They do when the layer is read anonymously, the store answers as for a missing file, it serves another file of
        the mip at this moment, and none of them has the centre of the cell. A warning is logged the first time.

        Parameters
        ----------
        refused : dict of str to Refused
            By path of the file, of a sharded layer its shard.
        centre : str or None
            Path of the file with the centre of the cell; None when that is outside the volume.

        Raises
        ------
        RefusedLayer
            The layer is read with credentials, or no other file is served.
        RefusedFile
            Others are served, but one of these cannot be missing.
        SegmentationUnavailable
            The store did not answer.
        """
        path, example = next(iter(refused.items()))
        if self._access.credentials:
            raise RefusedLayer(
                f"{self._said(path, example)}; check that your credentials may read the layer and list its bucket "
                "(a bucket that may not be listed answers 403 for missing files too)"
            )
        # A file that was served before says nothing about now: access may have been revoked since.
        known = self.served or (centre if centre not in refused else None)
        if known is None or not self._is_served(known):
            raise RefusedLayer(
                f"{self._said(path, example)}, and no other file at this mip is served; access to the layer was "
                "revoked, or requires credentials (docs/datasets.md, credentials)"
            )
        self.served = known
        if centre in refused:
            raise RefusedFile(
                f"{self._said(centre, refused[centre])}; it has the centre of the cell, so it cannot be treated as "
                "missing (some stores answer 403 for missing files)"
            )
        for path, one in refused.items():
            if not one.may_be_missing:
                raise RefusedFile(f"{self._said(path, one)}, though other files of the layer are served")
        if not self.n_missing:
            logger.warning("%s and is %s", self._said(path, example), _REASON)
        self.n_missing += len(refused)

    def _said(self, path: str, refused: Refused) -> str:
        return f"the file {path} of {self._url} was refused ({refused})"

    def _is_served(self, path: str) -> bool:
        try:
            return is_served(self._volume, path)
        except Exception as error:
            raise read_error(self._url, error) from error
