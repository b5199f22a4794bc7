"""The voxels of one root id around a point of a segmentation, flat or a graph."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from cloudvolume import Bbox, CloudVolume, Vec
from cloudvolume.datasource.precomputed.common import compressed_morton_code

from somatic.dataset import segmentation_kind
from somatic.errors import SegmentationError, SegmentationUnavailable
from somatic.volume.box import Box
from somatic.volume.decoding import LABEL_TYPES, decode_labels, encoding_fault
from somatic.volume.layer import one_line, open_layer, read_error
from somatic.volume.sharding import ShardCheck

if TYPE_CHECKING:
    from somatic.cave.graph import Graph

# Files fetched together: enough to keep the connections busy, few enough that raw ones fit in memory.
_FILES_PER_BATCH = 64
BATCH_BYTES = 256 * 2**20
# A file that is not stored raw has at most this share of the bytes of its labels.
_CODED_SHARE = 0.25
# Corners of a mip that are whole voxels of mip 0 but for what dividing two resolutions leaves over.
_ROUNDING = 1e-6


def cutout_box(
    centre_vx: np.ndarray, table_resolution_nm: np.ndarray, radius_nm: float, resolution_nm: np.ndarray
) -> Box:
    """Box of a cutout, as the published features cut it.

    Parameters
    ----------
    centre_vx : (3,) int
        Centre in voxels of the nucleus table.
    table_resolution_nm, resolution_nm : (3,) float
        Size of a voxel of the nucleus table, and of the segmentation at the mip that is read.
    radius_nm : float
        Half the side of the box.

    Returns
    -------
    Box
        In voxels of the mip. Corners are integers of the table divided by the ratio of the resolutions and
        truncated towards zero (definitions.md, "Soma mask, published", 1).
    """
    centre = np.asarray(centre_vx, dtype=np.int64)
    reach = half_side_vx(radius_nm, table_resolution_nm)
    ratio = np.asarray(resolution_nm, dtype=float) / np.asarray(table_resolution_nm, dtype=float)
    return Box(np.trunc((centre - reach) / ratio).astype(int), np.trunc((centre + reach) / ratio).astype(int))


def half_side_vx(radius_nm: float, resolution_nm: np.ndarray) -> np.ndarray:
    """Half the side of a cutout in whole voxels of a table, (3,) int64."""
    return np.trunc(radius_nm / np.asarray(resolution_nm, dtype=float)).astype(np.int64)


@dataclass(frozen=True)
class Cutout:
    """What a box holds of one root id.

    Attributes
    ----------
    mask : (nx, ny, nz) bool
        Voxels of the root id; the part of the box outside the volume is empty.
    n_inside : int
        Voxels of the box inside the volume.
    n_unlabelled : int
        Those of them with label 0, or in a file that the store does not have.
    """

    mask: np.ndarray
    n_inside: int
    n_unlabelled: int

    @property
    def frac_zero(self) -> float:
        """Share of the box that is not the root id."""
        return 1.0 - int(np.count_nonzero(self.mask)) / self.mask.size

    @property
    def frac_unlabelled(self) -> float | None:
        """Share of label 0 in the part of the box inside the volume; None when all of it lies outside."""
        return self.n_unlabelled / self.n_inside if self.n_inside else None

    @property
    def frac_outside_volume(self) -> float:
        """Share of the box outside the volume."""
        return 1.0 - self.n_inside / self.mask.size

    @property
    def touches_box(self) -> bool:
        """Whether voxels of the root lie on a face of the box."""
        faces = (np.moveaxis(self.mask, axis, 0)[side] for axis in range(3) for side in (0, -1))
        return any(bool(face.any()) for face in faces)


class Segmentation:
    """A segmentation at one mip: a flat Precomputed one, or a graph over the supervoxels of its watershed.

    Parameters
    ----------
    url : str
        cloud-volume path: `precomputed://` and any store that cloud-volume reads, or `graphene://`.
    mip : int
        Which of its resolutions.
    cave_server : str, optional
        Address of the CAVE server whose token opens a graph; default: the graph's own server.

    Attributes
    ----------
    layer_url : str
        The Precomputed layer that is read: the segmentation itself, or the watershed of the graph.
    graph : Graph or None
        Says which labels of the watershed a root id has; None for a flat one, where the root id is the label.
    n_files_read, n_bytes_read : int
        Files that were fetched so far, and their bytes, decompressed but not decoded: how they travelled, cloud-volume
        does not tell. Of a sharded layer a chunk of a shard is a file.

    Raises
    ------
    SegmentationError, SegmentationUnavailable
        It cannot be read, for good or for now.
    CaveError, CaveUnavailable
        The server of the graph refused, or did not answer.
    """

    def __init__(self, url: str, mip: int, cave_server: str | None = None) -> None:
        self.url = self.layer_url = url
        self.mip = mip
        self.n_files_read = self.n_bytes_read = 0
        self.graph = _open_graph(url, cave_server) if segmentation_kind(url) == "graph" else None
        if self.graph is not None:
            self.layer_url = self.graph.watershed_url
        self._volume = open_layer(self.layer_url, mip)
        if fault := _fault_of(self._volume):
            raise SegmentationError(f"{self.layer_url} is not a segmentation that can be read: {fault}")
        self.resolution_nm = np.asarray(self._volume.resolution, dtype=float)
        bounds = self._volume.bounds
        self.bounds = Box(np.array(bounds.minpt, dtype=np.int64), np.array(bounds.maxpt, dtype=np.int64))
        self.file_shape = np.array(self._volume.chunk_size, dtype=np.int64)
        self._shards = ShardCheck(self._volume, mip) if self._volume.image.is_sharded(mip) else None

    def leaves(self, root_id: int, box: Box) -> np.ndarray:
        """Labels of the layer that a root id of the graph has in a box of this mip; one request.

        Returns
        -------
        (n,) uint64
            Sorted; of whole chunks of the graph, so that some lie outside the box. Empty, and nothing asked, for a
            box outside the volume.

        Raises
        ------
        UnknownRoot, CaveError, CaveUnavailable
            As `somatic.cave.graph.Graph.leaves`.
        """
        if self.graph is None:
            raise ValueError(f"{self.url} is flat: its labels are the root ids")
        inside = box.clipped_to(self.bounds)
        if inside.n_voxels == 0:
            return np.empty(0, dtype=np.uint64)
        ratio = self.resolution_nm / self.graph.resolution_nm
        corners = np.array([inside.lower_vx, inside.upper_vx])
        # A mip need not begin at a whole voxel of the one below; both ways to count from there are covered.
        global_vx = corners * ratio
        local_vx = self.graph.bounds.lower_vx + (corners - self.bounds.lower_vx) * ratio
        lower = np.floor(np.minimum(global_vx[0], local_vx[0]) + _ROUNDING).astype(np.int64)
        upper = np.ceil(np.maximum(global_vx[1], local_vx[1]) - _ROUNDING).astype(np.int64)
        return self.graph.leaves(root_id, Box(lower, upper))

    def read(self, box: Box, root: int | npt.ArrayLike) -> Cutout:
        """Cut one root id out of the volume.

        Parameters
        ----------
        box : Box
            In voxels of this mip; may stick out of the volume.
        root : int or (n,) uint64
            Root id to keep, above 0, whose leaves are asked for if this is a graph; or the labels themselves
            that make it up (`leaves`).

        Returns
        -------
        Cutout

        Raises
        ------
        SegmentationUnavailable
            A file could not be read or decoded (one that the store does not have is background).
        UnknownRoot, CaveError, CaveUnavailable
            Its leaves were asked for, and could not be had.
        """
        kept: int | np.ndarray
        if isinstance(root, int | np.integer):
            kept = int(root) if self.graph is None else self.leaves(int(root), box)
        else:
            kept = np.unique(np.asarray(root, dtype=np.uint64))
        mask = np.zeros(box.shape, dtype=bool)
        inside = box.clipped_to(self.bounds)
        n_unlabelled = 0
        for file_box, labels in self._files(inside):
            part = file_box.clipped_to(inside)
            if labels is None:
                n_unlabelled += part.n_voxels
                continue
            found = labels[part.slices_within(file_box)]
            mask[part.slices_within(box)] = found == kept if isinstance(kept, int) else _is_one_of(found, kept)
            n_unlabelled += found.size - int(np.count_nonzero(found))
        return Cutout(mask, inside.n_voxels, n_unlabelled)

    def label_at(self, point_nm: np.ndarray) -> int:
        """Label of the voxel that holds a point, (3,) in nm, of a graph its supervoxel; 0 outside the volume."""
        voxel = np.floor(np.asarray(point_nm) / self.resolution_nm).astype(np.int64)
        inside = Box(voxel, voxel + 1).clipped_to(self.bounds)
        for file_box, labels in self._files(inside):
            if labels is not None:
                return int(labels[inside.slices_within(file_box)].item())
        return 0

    def _files(self, box: Box) -> Iterator[tuple[Box, np.ndarray | None]]:
        """Every file that holds a part of the box, decoded; None for one that the store does not have."""
        if box.n_voxels == 0:
            return
        first = (box.lower_vx - self.bounds.lower_vx) // self.file_shape
        last = (box.upper_vx - 1 - self.bounds.lower_vx) // self.file_shape
        n_x, n_y, n_z = (last - first + 1).tolist()
        layers_per_batch = max(1, self._files_per_batch() // (n_x * n_y))
        for start in range(0, n_z, layers_per_batch):
            lower, upper = first.copy(), last.copy()
            lower[2] = first[2] + start
            upper[2] = min(last[2], lower[2] + layers_per_batch - 1)
            contents = self._fetch(lower, upper)
            for cell in itertools.product(*(range(a, b + 1) for a, b in zip(lower, upper, strict=True))):
                file_box = self._file_box(np.array(cell))
                key = self._file_key(cell, file_box)
                # Taken out, so that one batch is gone when the next is fetched.
                yield file_box, self._decode(contents.pop(key), key, file_box)

    def _files_per_batch(self) -> int:
        volume = self._volume
        file_bytes = int(np.prod(self.file_shape)) * np.dtype(volume.dtype).itemsize
        if volume.meta.encoding(self.mip) != "raw":
            file_bytes = int(file_bytes * _CODED_SHARE)
        return int(np.clip(BATCH_BYTES // max(file_bytes, 1), 1, _FILES_PER_BATCH))

    def _fetch(self, lower: np.ndarray, upper: np.ndarray) -> dict[Any, bytes | None]:
        """Files of the grid cells `lower` to `upper` (inclusive), decompressed but not decoded."""
        corner, opposite = self._file_box(lower).lower_vx, self._file_box(upper).upper_vx
        try:
            contents = self._volume.image.download_files(Bbox(Vec(*corner), Vec(*opposite)), self.mip)
        except MemoryError:
            raise
        except Exception as error:
            raise read_error(self.layer_url, error) from error
        found = [len(content) for content in contents.values() if content is not None]
        self.n_files_read += len(found)
        self.n_bytes_read += sum(found)
        return contents

    def _file_box(self, cell: np.ndarray) -> Box:
        lower = self.bounds.lower_vx + cell * self.file_shape
        return Box(lower, np.minimum(lower + self.file_shape, self.bounds.upper_vx))

    def _file_key(self, cell: tuple[int, ...], file_box: Box) -> Any:
        """Under which key `download_files` returns the file of a grid cell."""
        image = self._volume.image
        if image.is_sharded(self.mip):
            size = np.array(self.bounds.shape)
            grid = np.ceil(size / self.file_shape).astype(np.uint32)
            return compressed_morton_code(np.array(cell, dtype=np.uint32), grid)
        name = Bbox(Vec(*file_box.lower_vx), Vec(*file_box.upper_vx)).to_filename()
        return self._volume.meta.join(self._volume.meta.key(self.mip), name)

    def _decode(self, content: bytes | None, key: Any, file_box: Box) -> np.ndarray | None:
        meta = self._volume.meta
        try:
            if content is None:
                if self._shards:
                    self._shards.check(key)
                return None
            return decode_labels(
                content,
                encoding=meta.encoding(self.mip),
                shape=file_box.shape,
                dtype=meta.dtype,
                block_shape=meta.compressed_segmentation_block_size(self.mip),
            )
        except MemoryError:
            raise
        except Exception as error:
            name = f"{file_box.lower_vx.tolist()} to {file_box.upper_vx.tolist()}"
            raise SegmentationUnavailable(
                f"the file of voxels {name} at mip {self.mip} of {self.layer_url} does not decode: {one_line(error)}"
            ) from error


def _open_graph(url: str, cave_server: str | None) -> "Graph":
    # caveclient takes a second to import, and a flat segmentation does not need it.
    from somatic.cave.graph import Graph

    return Graph(url, cave_server)


def _is_one_of(labels: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Where some labels, (nx, ny, nz), are among sorted ids.

    Labels come in runs along x, so each run is looked up and not each voxel; one layer at a time, for the memory.
    """
    found = np.zeros(labels.shape, dtype=bool, order="F")
    if not ids.size:
        return found
    for z in range(labels.shape[2]):
        layer = labels[..., z].ravel(order="F")
        starts = np.flatnonzero(np.concatenate(([True], layer[1:] != layer[:-1])))
        values = layer[starts]
        at = np.minimum(np.searchsorted(ids, values), ids.size - 1)
        runs = np.repeat(ids[at] == values, np.diff(starts, append=layer.size))
        found[..., z] = runs.reshape(labels.shape[:2], order="F")
    return found


def _fault_of(volume: CloudVolume) -> str | None:
    """What keeps a layer from being read as labels."""
    if volume.layer_type != "segmentation":
        return f"its type is {volume.layer_type!r}"
    if volume.num_channels != 1:
        return f"it has {volume.num_channels} channels"
    if volume.meta.data_type not in LABEL_TYPES:
        return f"its labels are of type {volume.meta.data_type!r}, expected {', '.join(LABEL_TYPES)}"
    return encoding_fault(volume.encoding)
