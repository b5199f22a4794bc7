"""Sharded segmentations on a disk, where a copy can have broken off.

A bucket takes a file whole or not at all, and refuses to read beyond its end. A disk does neither, and cloud-volume
takes a shard that is empty, or whose index is cut off, for one without the files that are looked for.
"""

import numpy as np
from cloudfiles import CloudFiles
from cloudvolume import CloudVolume

_INDEX_BYTES_PER_MINISHARD = 16


class ShardCheck:
    """Tells a file that a shard does not have from one whose shard is cut short.

    Parameters
    ----------
    volume : CloudVolume
        A sharded layer.
    mip : int
        Which of its resolutions.
    """

    def __init__(self, volume: CloudVolume, mip: int) -> None:
        self._reader = volume.image.shard_reader(mip)
        self._folder = volume.meta.key(mip)
        self._files = CloudFiles(volume.cloudpath)
        self._whole: set[str] = set()

    def check(self, code: int) -> None:
        """Check the shard that a file which was not found should lie in.

        Parameters
        ----------
        code : int
            Morton code of the file.

        Raises
        ------
        ValueError
            The shard is shorter than its index says.
        """
        name = f"{self._folder}/{self._reader.get_filename(code)}"
        if self._files.protocol != "file" or name in self._whole:
            return
        n_bytes = self._files.size(name)
        if n_bytes is not None:
            index_bytes = _INDEX_BYTES_PER_MINISHARD << int(self._reader.spec.minishard_bits)
            index = np.frombuffer(self._files[name, 0:index_bytes], dtype=np.uint8)
            # The index says where the index of each minishard ends, counted from its own end.
            whole = len(index) == index_bytes and n_bytes >= index_bytes + int(index.view("<u8").max())
            if not whole:
                raise ValueError(f"the shard {name} is cut short, it has {n_bytes} bytes")
        self._whole.add(name)
