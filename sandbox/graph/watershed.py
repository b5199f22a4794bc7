"""The phantom cut into supervoxels: a layer beside the flat ones, and the roots of each supervoxel by version."""

import fcntl
import hashlib
import itertools
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import fastremap
import numpy as np
import pandas as pd
from cloudvolume import CloudVolume
from numpy.typing import NDArray

from sandbox.graph.ids import make_ids
from sandbox.phantom.precomputed import create_layer, layer_url, write_labels
from sandbox.phantom.scene import Scene

CHUNK = (64, 64, 64)
"""Voxels of a chunk of the graph, counted from the lower corner of the volume."""
BLOCK = (32, 32, 32)
"""What lies in another block of a chunk is another supervoxel."""

_RECIPE = ("ids", "watershed")


@dataclass(frozen=True)
class Watershed:
    """A written watershed.

    Attributes
    ----------
    folder : Path
        The Precomputed layer of the supervoxels.
    supervoxels : DataFrame
        supervoxel_id, n_voxels, and root_<version> for each version of the scene; sorted by supervoxel_id.
    """

    folder: Path
    supervoxels: pd.DataFrame

    @property
    def cloudpath(self) -> str:
        """Cloudpath of the layer."""
        return layer_url(self.folder)

    @property
    def data_dir(self) -> str:
        """Where the layer is, as a graph's info names it."""
        return f"file://{self.folder.resolve()}"


def write_watershed(scene: Scene) -> Watershed:
    """Write the watershed of a scene, or load it where it stands already.

    `watershed.json` is written last: what is there without it, or belongs to another scene, is written again.

    Parameters
    ----------
    scene : Scene
        Its flat versions say which voxels belong together: a supervoxel has one root in each of them.

    Returns
    -------
    Watershed
    """
    layer = scene.folder / "watershed"
    done = scene.folder / "watershed.json"
    table = scene.folder / "supervoxels.parquet"
    # Processes that share a scene would write over each other.
    with (scene.folder / "watershed.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = {"recipe": _recipe(scene)}
        if not done.exists() or json.loads(done.read_text()) != wanted:
            done.unlink(missing_ok=True)
            shutil.rmtree(layer, ignore_errors=True)
            _write_layer(scene, layer).to_parquet(table, index=False)
            part = done.with_suffix(".json.part")
            part.write_text(json.dumps(wanted))
            part.replace(done)
        return Watershed(layer, pd.read_parquet(table))


def _write_layer(scene: Scene, folder: Path) -> pd.DataFrame:
    flat = [CloudVolume(scene.segmentation_url(v), fill_missing=True, progress=False) for v in scene.versions]
    shape = np.array(flat[0].volume_size)
    create_layer(folder, "uint64", shape)
    lower = np.array(scene.voxel_offset)

    def write_slab(z_start: int) -> pd.DataFrame:
        z = slice(int(lower[2] + z_start), int(lower[2] + min(z_start + CHUNK[2], shape[2])))
        labels = [
            np.asarray(volume[lower[0] : lower[0] + shape[0], lower[1] : lower[1] + shape[1], z])[..., 0]
            for volume in flat
        ]
        found = np.zeros(labels[0].shape, np.uint64, order="F")
        parts = []
        for x, y in itertools.product(range(0, shape[0], CHUNK[0]), range(0, shape[1], CHUNK[1])):
            box = (slice(x, x + CHUNK[0]), slice(y, y + CHUNK[1]))
            chunk = np.array([x, y, z_start]) // np.array(CHUNK)
            parts.append(_cut(chunk, [version[box] for version in labels], found[box], scene.versions))
        write_labels(folder, found, np.array([0, 0, z_start]))
        return pd.concat(parts)

    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(write_slab, range(0, int(shape[2]), CHUNK[2])))
    return pd.concat(parts).sort_values("supervoxel_id", ignore_index=True)


def _cut(
    chunk: NDArray[np.int64],
    labels: list[NDArray[np.uint64]],
    found: NDArray[np.uint64],
    versions: tuple[int, ...],
) -> pd.DataFrame:
    """Cut one chunk into supervoxels, write their ids into `found`, and return what they are."""
    first = make_ids(1, chunk, np.array(0))
    objects = _objects(labels)
    parts = []
    n_before = 0
    for start in itertools.product(*(range(0, n, size) for n, size in zip(found.shape, BLOCK, strict=True))):
        box = tuple(slice(a, a + size) for a, size in zip(start, BLOCK, strict=True))
        block = objects[box]
        _, where, inverse, counts = fastremap.unique(
            block.ravel("F"), return_index=True, return_inverse=True, return_counts=True
        )
        roots = [version[box].ravel("F")[where] for version in labels]
        labelled = np.any([root != 0 for root in roots], axis=0)
        number = np.where(labelled, n_before + np.cumsum(labelled), 0)
        n_before = int(number.max(initial=n_before))
        ids = np.where(labelled, first + number.astype(np.uint64), np.uint64(0))
        found[box] = ids[inverse].reshape(block.shape, order="F")
        columns = {f"root_{version}": root[labelled] for version, root in zip(versions, roots, strict=True)}
        parts.append(pd.DataFrame({"supervoxel_id": ids[labelled], "n_voxels": counts[labelled], **columns}))
    return pd.concat(parts)


def _objects(labels: list[NDArray[np.uint64]]) -> NDArray[np.unsignedinteger]:
    """Number voxels so that two are the same object when their labels agree in all versions."""
    objects, _ = fastremap.renumber(labels[0], in_place=False)
    for before, label in itertools.pairwise(labels):
        if not np.array_equal(before, label):
            numbers, mapping = fastremap.renumber(label, in_place=False)
            objects = objects.astype(np.uint64) * np.uint64(len(mapping) + 1) + numbers
    return objects


def _recipe(scene: Scene) -> str:
    here = Path(__file__).parent
    made_of = [(here / f"{name}.py").read_bytes() for name in _RECIPE]
    return hashlib.sha256(b"".join([*made_of, (scene.folder / "scene.json").read_bytes()])).hexdigest()[:16]
