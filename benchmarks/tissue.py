"""Dense tissue to measure on: cells on a loose grid in neuropil without end, at any size of a voxel."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from cloudvolume import CloudVolume
from cloudvolume.mesh import Mesh
from numpy.typing import NDArray
from zmesh import Mesher

from sandbox.phantom.cells import Cell, nucleus_mask
from sandbox.phantom.layout import CellPlan
from sandbox.phantom.neuropil import TILE_UM, make_neuropil
from sandbox.phantom.shapes import Blob, Groove, Tube, random_blob, random_directions, random_frame, rod_level

TABLE_NM = (4, 4, 40)
SPACING_UM = 17.6
"""Between cells: minnie65 has 144,000 nuclei in 1,150 x 780 x 880 um."""
RADIUS_UM = 15.0
OFFSET_VX = np.array([1041, 213, 705])
FIRST_ROOT = 864_691_135_000_000_000
FIRST_NUCLEUS = 262_144
_NEURITES = 864_691_136_000_000_000
_FACTOR, _PRIME = 100_000_007, 999_999_937
_RIM_UM = 0.07
_SYNAPSES_PER_UM2 = 0.6


@dataclass(frozen=True)
class Tissue:
    """Written tissue.

    Attributes
    ----------
    folder : Path
    voxel_nm : (3,) int
    n_cells : (3,) int
        Along x, y, z.
    """

    folder: Path
    voxel_nm: tuple[int, int, int]
    n_cells: tuple[int, int, int]

    @property
    def segmentation(self) -> str:
        """Cloudpath of the segmentation."""
        return f"precomputed://file://{self.folder.resolve()}/seg"

    @property
    def nucleus_segmentation(self) -> str:
        """Cloudpath of the nuclei, with meshes."""
        return f"precomputed://file://{self.folder.resolve()}/nuclei"

    def leaves(self) -> NDArray[np.uint64]:
        """Labels of the first cell, sorted."""
        return np.load(self.folder / "leaves.npy")

    def nuclei(self) -> pd.DataFrame:
        """Columns id, pt_root_id, pt_position (voxels of 4 x 4 x 40 nm)."""
        return pd.read_parquet(self.folder / "nuclei.parquet")

    def synapses(self) -> pd.DataFrame:
        """Columns id, pre_pt_root_id, post_pt_root_id, ctr_pt_position."""
        return pd.read_parquet(self.folder / "synapses.parquet")


def write_tissue(
    folder: Path,
    voxel_nm: tuple[int, int, int],
    n_cells: tuple[int, int, int],
    file_vx: tuple[int, int, int] = (128, 128, 64),
    seed: int = 0,
    *,
    as_watershed: bool = False,
) -> Tissue:
    """Write tissue in which the cutout of every cell lies inside the volume, or take it where it stands already.

    Parameters
    ----------
    folder : Path
    voxel_nm : (3,) int
        Of the segmentation; whole numbers of them make 16 um.
    n_cells : (3,) int
        Along x, y, z.
    file_vx : (3,) int
        Voxels of a file.
    seed : int
    as_watershed : bool
        Whether labels are supervoxels of at most 1 um, as below a graph, and not root ids.
    """
    tissue = Tissue(folder, voxel_nm, n_cells)
    wanted = json.dumps([asdict(tissue) | {"folder": ""}, file_vx, seed, as_watershed])
    done = folder / "done.json"
    if done.exists() and done.read_text() == wanted:
        return tissue
    rng = np.random.default_rng(seed)
    voxel_um = np.array(voxel_nm) / 1000
    shape = np.ceil((2 * RADIUS_UM + 1 + SPACING_UM * (np.array(n_cells) - 1)) / voxel_um).astype(np.int64)
    cells = _make_cells(rng, n_cells)
    folder.mkdir(parents=True, exist_ok=True)
    leaves = _write_segmentation(folder / "seg", rng, cells, voxel_um, shape, file_vx, as_watershed)
    np.save(folder / "leaves.npy", leaves)
    _write_nuclei(folder / "nuclei", cells, voxel_um, shape)
    offset_um = OFFSET_VX * voxel_um
    position = [np.rint((cell.nucleus.centre_um + offset_um) * 1000 / TABLE_NM).astype(int).tolist() for cell in cells]
    ids = {"id": FIRST_NUCLEUS + np.arange(len(cells)), "pt_root_id": FIRST_ROOT + np.arange(len(cells))}
    pd.DataFrame(ids | {"pt_position": position}).to_parquet(folder / "nuclei.parquet")
    _synapses(rng, cells, offset_um).to_parquet(folder / "synapses.parquet")
    done.write_text(wanted)
    return tissue


def _make_cells(rng: np.random.Generator, n_cells: tuple[int, int, int]) -> list[Cell]:
    cells = []
    for place in np.ndindex(*n_cells):
        centre_um = RADIUS_UM + 0.5 + SPACING_UM * np.array(place) + rng.uniform(-0.3, 0.3, 3)
        soma = random_blob(rng, centre_um, rng.uniform(5.0, 6.4), 0.2)
        nucleus = random_blob(rng, centre_um, 0.68 * soma.radius_um, 0.12)
        plan = CellPlan("ordinary", tuple(centre_um.tolist()), soma.radius_um, nucleus.radius_um, 2, 5)
        cells.append(Cell(plan, soma, nucleus, _grooves(rng, nucleus, 2), _dendrites(rng, soma, 5)))
    return cells


def _grooves(rng: np.random.Generator, nucleus: Blob, n: int) -> list[Groove]:
    depth_um = nucleus.radius_um * rng.uniform(0.4, 0.7, n)
    return [Groove(nucleus.centre_um, random_frame(rng), nucleus.radius_um, d, 0.26, 0.05) for d in depth_um.tolist()]


def _dendrites(rng: np.random.Generator, soma: Blob, n: int) -> list[Tube]:
    """Tapered, wavy, and longer than half a cutout."""
    along_um = np.arange(0.5 * soma.radius_um, 20, 0.8)
    tubes = []
    for direction in random_directions(rng, n):
        sway_um = np.cumsum(rng.normal(0, 0.15, (len(along_um), 3)), axis=0)
        radii_um = 0.6 + 1.2 * np.exp(-(along_um - along_um[0]) / 4)
        tubes.append(Tube(soma.centre_um + direction * along_um[:, None] + sway_um, radii_um))
    return tubes


def _write_segmentation(
    folder: Path,
    rng: np.random.Generator,
    cells: list[Cell],
    voxel_um: NDArray[np.float64],
    shape: NDArray[np.int64],
    file_vx: tuple[int, int, int],
    as_watershed: bool,
) -> NDArray[np.uint64]:
    """Write the labels, and return those of the first cell."""
    layer = _create_layer(folder, "uint64", voxel_um, shape, file_vx)
    leaves: list[NDArray[np.uint64]] = []
    # Only the tile of the neuropil is taken, copied without its warp, which would cost minutes here.
    tile = make_neuropil(rng, voxel_um).tile
    period = np.round(TILE_UM / voxel_um).astype(np.int64)
    for z_start in range(0, int(shape[2]), file_vx[2]):
        lower, upper = np.array([0, 0, z_start]), np.minimum(shape, [*shape[:2], z_start + file_vx[2]])
        index = [np.arange(a, b) for a, b in zip(lower, upper, strict=True)]
        key = tile[np.ix_(*(i % n for i, n in zip(index, period, strict=True)))].astype(np.int64)
        copy_x, copy_y, copy_z = np.ix_(*(i // n for i, n in zip(index, period, strict=True)))
        key += (copy_x * 16 + copy_y) * 16 + copy_z
        labels = np.where(key < 0, 0, _NEURITES + 1 + np.abs(key) * _FACTOR % _PRIME).astype(np.uint64)
        _paint(labels, cells, lower, upper, voxel_um)
        is_first = labels == FIRST_ROOT
        if as_watershed:
            labels = _supervoxels(labels, lower, voxel_um)
        leaves.append(np.unique(labels[is_first]))
        corner = lower + OFFSET_VX
        layer[tuple(slice(int(a), int(a) + n) for a, n in zip(corner, labels.shape, strict=True))] = labels
    return np.unique(np.concatenate(leaves))


def _supervoxels(labels: NDArray[np.uint64], lower: NDArray, voxel_um: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Labels cut along a grid of 1 um: low bits tell objects apart, high ones the cubes of the grid."""
    at = [((np.arange(n) + a) * um).astype(np.uint64) for n, a, um in zip(labels.shape, lower, voxel_um, strict=True)]
    x, y, z = np.ix_(*at)
    cube = (x << np.uint64(56)) | (y << np.uint64(48)) | (z << np.uint64(40))
    return np.where(labels == 0, 0, cube | (labels & np.uint64(2**40 - 1))).astype(np.uint64)


def _paint(
    labels: NDArray[np.uint64], cells: list[Cell], lower: NDArray, upper: NDArray, voxel_um: NDArray[np.float64]
) -> None:
    """Lay the cells over the neuropil, each in a thin unlabelled rim; the later one wins."""
    for number, cell in enumerate(cells):
        assert cell.soma is not None
        bodies = [(cell.soma.level, cell.soma.centre_um, cell.soma.centre_um, cell.soma.reach_um())]
        for tube in cell.dendrites:
            for n in range(len(tube.points_um) - 1):
                start_um, end_um = tube.points_um[n : n + 2]
                radii_um = (float(tube.radii_um[n]), float(tube.radii_um[n + 1]))

                def level(x, y, z, start_um=start_um, end_um=end_um, radii_um=radii_um):
                    return rod_level(x, y, z, start_um=start_um, end_um=end_um, radii_um=radii_um)

                bodies.append((level, start_um, end_um, max(radii_um)))
        root = np.uint64(FIRST_ROOT + number)
        for level_of, start_um, end_um, reach_um in bodies:
            reach_um += _RIM_UM
            first = np.maximum(np.floor((np.minimum(start_um, end_um) - reach_um) / voxel_um).astype(int), lower)
            last = np.minimum(np.ceil((np.maximum(start_um, end_um) + reach_um) / voxel_um).astype(int), upper)
            if (first >= last).any():
                continue
            spans = zip(first, last, voxel_um, strict=True)
            found = level_of(*np.ix_(*(((np.arange(a, b) + 0.5) * size).astype(np.float32) for a, b, size in spans)))
            box = labels[tuple(slice(a, b) for a, b in zip(first - lower, last - lower, strict=True))]
            box[(found > 0) & (found < _RIM_UM) & (box != root)] = 0
            box[found <= 0] = root


def _write_nuclei(folder: Path, cells: list[Cell], voxel_um: NDArray[np.float64], shape: NDArray[np.int64]) -> None:
    layer = _create_layer(folder, "uint32", voxel_um, shape, (128, 128, 64), mesh="mesh")
    layer.mesh.meta.commit_info()
    meshes = []
    for number, cell in enumerate(cells):
        nucleus = nucleus_mask(cell, voxel_um, shape)
        mesher = Mesher(tuple((voxel_um * 1000).tolist()))
        mesher.mesh(np.pad(nucleus.mask, 1).astype(np.uint8))
        mesh = mesher.get(1, voxel_centered=True)
        vertices = (mesh.vertices + (nucleus.lower_vx - 1 + OFFSET_VX) * voxel_um * 1000).astype(np.float32)
        meshes.append(Mesh(vertices, mesh.faces.astype(np.uint32), segid=FIRST_NUCLEUS + number))
    layer.mesh.put(meshes, skip_delete=True)


def _create_layer(
    folder: Path,
    data_type: str,
    voxel_um: NDArray[np.float64],
    shape: NDArray[np.int64],
    file_vx: tuple[int, int, int],
    mesh: str | None = None,
) -> CloudVolume:
    info = CloudVolume.create_new_info(
        num_channels=1,
        layer_type="segmentation",
        data_type=data_type,
        encoding="compressed_segmentation",
        resolution=np.rint(voxel_um * 1000).astype(int).tolist(),
        voxel_offset=OFFSET_VX.tolist(),
        volume_size=shape.tolist(),
        chunk_size=file_vx,
        mesh=mesh,
    )
    layer = CloudVolume(f"precomputed://file://{folder.resolve()}", info=info, compress="gzip", progress=False)
    layer.commit_info()
    return layer


def _synapses(rng: np.random.Generator, cells: list[Cell], offset_um: NDArray[np.float64]) -> pd.DataFrame:
    """Synapses on the surface of somata and dendrites, up to a fifth of a micrometre off."""
    point_um, post = [], []
    for number, cell in enumerate(cells):
        assert cell.soma is not None
        n = int(_SYNAPSES_PER_UM2 * 4 * np.pi * cell.soma.radius_um**2)
        found = [cell.soma.surface(random_directions(rng, n))]
        for tube in cell.dendrites:
            around = random_directions(rng, len(tube.points_um))
            found.append(tube.points_um + around * tube.radii_um[:, None])
        surface_um = np.concatenate(found)
        point_um.append(surface_um + rng.uniform(-0.12, 0.12, surface_um.shape))
        post.append(np.full(len(surface_um), FIRST_ROOT + number))
    position = np.rint((np.concatenate(point_um) + offset_um) * 1000 / TABLE_NM).astype(int)
    n = len(position)
    return pd.DataFrame(
        {
            "id": np.arange(n) + 1,
            "pre_pt_root_id": _NEURITES + 1 + np.arange(n),
            "post_pt_root_id": np.concatenate(post),
            "ctr_pt_position": position.tolist(),
        }
    )
