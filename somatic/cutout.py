"""The voxels of one root id around a point of a segmentation, flat or a graph."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from cloudvolume import CloudVolume

from somatic.dataset import segmentation_kind
from somatic.errors import SegmentationError
from somatic.geometry.bitmask import BitMask
from somatic.geometry.box import Box
from somatic.volume.access import ANONYMOUS, Access
from somatic.volume.blocks import mark_labels
from somatic.volume.decoding import LABEL_TYPES, decode_labels, encoding_fault
from somatic.volume.file_cache import FileCache
from somatic.volume.files import LayerFiles
from somatic.volume.layer import open_layer

if TYPE_CHECKING:
    from somatic.cave.graph import Graph

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
    mask : BitMask
        Voxels of the root id, (nx, ny, nz); the part of the box outside the volume is empty.
    inside : Box
        The part of the box inside the volume, in voxels of the mask.
    n_unlabelled : int
        Voxels of that part with label 0, or in a file that the store does not have.
    unlabelled : BitMask or None
        Where these are, (nx, ny, nz), when that was asked for.
    has_files : bool
        Whether the store has any file of that part.
    """

    mask: BitMask
    inside: Box
    n_unlabelled: int
    unlabelled: BitMask | None = None
    has_files: bool = True

    @property
    def n_voxels(self) -> int:
        """Voxels of the box."""
        return math.prod(self.mask.shape)

    @property
    def frac_zero(self) -> float:
        """Share of the box that is not the root id."""
        return 1.0 - self.mask.count() / self.n_voxels

    @property
    def frac_unlabelled(self) -> float | None:
        """Share of label 0 in the part of the box inside the volume; None when all of it lies outside."""
        n_inside = self.inside.n_voxels
        return self.n_unlabelled / n_inside if n_inside else None

    @property
    def frac_outside_volume(self) -> float:
        """Share of the box outside the volume."""
        return 1.0 - self.inside.n_voxels / self.n_voxels

    @property
    def touches_box(self) -> bool:
        """Whether voxels of the root lie on a face of the box."""
        occupied = self.mask.extent()
        return occupied is not None and bool(
            (occupied.lower_vx == 0).any() or (occupied.upper_vx == self.mask.shape).any()
        )


class Look(NamedTuple):
    """The label of a voxel, and whether its file was read, is missing in the store, or the voxel is outside the volume.

    `label` is 0 but for a file that was read.
    """

    label: int
    file: Literal["read", "missing", "outside"]


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
    cache : FileCache, optional
        Where files are kept for who reads them next.
    access : Access
        Whether the layer, of a graph its watershed, is read anonymously or with the user's credentials.

    Attributes
    ----------
    url, mip : str, int
        As above.
    layer_url : str
        The Precomputed layer that is read: the segmentation itself, or the watershed of the graph.
    graph : Graph or None
        Says which labels of the watershed a root id has; None for a flat one, where the root id is the label.
    resolution_nm : (3,) float
        Size of a voxel of the mip.
    bounds : Box
        The volume, in voxels of the mip.
    file_shape : (3,) int64
        Voxels of a file of the layer; those at the upper bounds may have fewer.

    Raises
    ------
    SegmentationError, SegmentationUnavailable
        It cannot be read, for good or for now.
    CaveError, CaveUnavailable
        The server of the graph refused, or did not answer.
    """

    def __init__(
        self,
        url: str,
        mip: int,
        cave_server: str | None = None,
        cache: FileCache | None = None,
        access: Access = ANONYMOUS,
    ) -> None:
        self.url = self.layer_url = url
        self.mip = mip
        self.graph = _open_graph(url, cave_server) if segmentation_kind(url) == "graph" else None
        if self.graph is not None:
            self.layer_url = self.graph.watershed_url
        self._volume = open_layer(self.layer_url, mip, access)
        if fault := _fault_of(self._volume):
            raise SegmentationError(f"{self.layer_url} is not a segmentation that can be read: {fault}")
        self.resolution_nm = np.asarray(self._volume.resolution, dtype=float)
        self._files = LayerFiles(self._volume, self.layer_url, cache, access)
        self.bounds, self.file_shape = self._files.bounds, self._files.shape

    @property
    def n_files_fetched(self) -> int:
        """Files that were fetched so far, those that the cache had left out; of a sharded layer a chunk of a shard."""
        return self._files.n_fetched

    @property
    def n_bytes_fetched(self) -> int:
        """Their bytes, as they travel."""
        return self._files.n_bytes_fetched

    @property
    def n_files_refused(self) -> int:
        """Files so far that the store refused as it does those that it does not have, and that count as such."""
        return self._files.n_refused

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

    def read(
        self,
        box: Box,
        root: int | npt.ArrayLike,
        *,
        centre_vx: npt.ArrayLike | None = None,
        with_unlabelled: bool = False,
    ) -> Cutout:
        """Cut one root id out of the volume.

        Parameters
        ----------
        box : Box
            In voxels of this mip; may stick out of the volume.
        root : int or (n,) uint64
            Root id to keep, above 0, whose leaves are asked for if this is a graph; or the labels themselves
            that make it up (`leaves`).
        centre_vx : (3,) int, optional
            Voxel of this mip whose file the store must have; the middle of the box when left out.
        with_unlabelled : bool
            Whether to keep where label 0 is, and not only how much of it there is.

        Returns
        -------
        Cutout

        Raises
        ------
        SegmentationUnavailable
            A file could not be read or decoded (one that the store does not have is background).
        RefusedFile, RefusedLayer
            A file was refused, and cannot be taken for one that the store does not have (`LayerFiles.read`).
        UnknownRoot, CaveError, CaveUnavailable
            Its leaves were asked for, and could not be had.
        """
        if isinstance(root, int | np.integer) and self.graph is not None:
            labels = self.leaves(int(root), box)
        else:
            labels = np.unique(np.asarray(root, dtype=np.uint64))
        mask = BitMask.empty(box.shape)
        unlabelled = BitMask.empty(box.shape) if with_unlabelled else None
        inside = box.clipped_to(self.bounds)
        n_unlabelled = 0
        has_files = False
        centre = (box.lower_vx + box.upper_vx) // 2 if centre_vx is None else np.asarray(centre_vx, dtype=np.int64)
        for file_box, content in self._files.read(inside, centre):
            part = file_box.clipped_to(inside)
            if content is None:
                n_unlabelled += part.n_voxels
                if unlabelled:
                    unlabelled.fill(part.moved(-box.lower_vx))
                continue
            has_files = True
            with self._decoding(file_box):
                n_unlabelled += self._add_file(content, file_box, part, labels, mask, unlabelled, box)
        return Cutout(mask, inside.moved(-box.lower_vx), n_unlabelled, unlabelled, has_files)

    def fetch_into_cache(self, box: Box) -> None:
        """Fetch what `read` of a box will ask for; only with a cache.

        Raises
        ------
        SegmentationUnavailable
            A file could not be read.
        """
        self._files.fetch_into_cache(box.clipped_to(self.bounds))

    def look_at(self, point_nm: np.ndarray) -> Look:
        """What there is at a point, (3,) in nm.

        Raises
        ------
        SegmentationUnavailable
            The file could not be read or decoded.
        RefusedFile, RefusedLayer
            It was refused.
        """
        voxel = np.floor(np.asarray(point_nm) / self.resolution_nm).astype(np.int64)
        inside = Box(voxel, voxel + 1).clipped_to(self.bounds)
        for file_box, content in self._files.read(inside, voxel):
            if content is None:
                return Look(0, "missing")
            with self._decoding(file_box):
                return Look(int(self._decode(content, file_box)[inside.slices_within(file_box)].item()), "read")
        return Look(0, "outside")

    def label_at(self, point_nm: np.ndarray) -> int:
        """Label of the voxel that holds a point, (3,) in nm, of a graph its supervoxel; 0 where there is none."""
        return self.look_at(point_nm).label

    def _add_file(
        self,
        content: bytes,
        file_box: Box,
        part: Box,
        labels: np.ndarray,
        mask: BitMask,
        unlabelled: BitMask | None,
        box: Box,
    ) -> int:
        """Set the voxels of some labels in a part of a file, and of label 0; returns how many have that."""
        meta = self._volume.meta
        if meta.encoding(self.mip) == "compressed_segmentation":
            block_shape = meta.compressed_segmentation_block_size(self.mip)
            return mark_labels(content, meta.dtype, block_shape, labels, file_box, mask, box, unlabelled)
        found = self._decode(content, file_box)[part.slices_within(file_box)]
        mask.add(_is_one_of(found, labels), part.lower_vx - box.lower_vx)
        if unlabelled:
            unlabelled.add(found == 0, part.lower_vx - box.lower_vx)
        return found.size - int(np.count_nonzero(found))

    def _decode(self, content: bytes, file_box: Box) -> np.ndarray:
        meta = self._volume.meta
        return decode_labels(
            content,
            encoding=meta.encoding(self.mip),
            shape=file_box.shape,
            dtype=meta.dtype,
            block_shape=meta.compressed_segmentation_block_size(self.mip),
        )

    @contextmanager
    def _decoding(self, file_box: Box) -> Iterator[None]:
        """Have what goes wrong with a file be a failure of the segmentation that may pass."""
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:
            self._files.forget(file_box)
            raise self._files.broken(file_box, error) from error


def _open_graph(url: str, cave_server: str | None) -> "Graph":
    # caveclient takes a second to import, and a flat segmentation does not need it.
    from somatic.cave.graph import Graph

    return Graph(url, cave_server)


def _is_one_of(labels: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Where some labels, (nx, ny, nz), are among sorted ids.

    Labels come in runs along x, so each run is looked up and not each voxel; one layer at a time, for the memory.
    """
    if ids.size == 1:
        return labels == ids[0]
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
