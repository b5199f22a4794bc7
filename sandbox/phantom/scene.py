"""The phantom scene on disk: two versions of a segmentation, nuclei with meshes, tables, and the truth."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sandbox.phantom.cells import NucleusMask
from sandbox.phantom.ids import nucleus_ids, segmentation_roots
from sandbox.phantom.layout import (
    CELLS,
    EXTENT_UM,
    TABLE_RESOLUTION_NM,
    VERSIONS,
    VOXEL_OFFSET,
    VOXEL_SIZE_NM,
    Role,
)
from sandbox.phantom.nuclei import nucleus_table, nucleus_volume_um3
from sandbox.phantom.objects import Phantom
from sandbox.phantom.precomputed import CHUNK, create_layer, layer_url, write_labels, write_meshes
from sandbox.phantom.synapses import FOREIGN_PER_UM3, choose_synapses, end_voxels, propose_synapses, synapse_table
from somatic.errors import DatasetError

_RECIPE = ("layout", "shapes", "cells", "neuropil", "objects", "precomputed", "ids", "nuclei", "synapses", "scene")
"""Modules that decide what a scene looks like; a scene of another recipe is written again."""


@dataclass(frozen=True)
class NucleusTruth:
    """What is known of a nucleus from how it was made.

    Attributes
    ----------
    nucleus_id : int
    role : Role
        What is special about it.
    centre_nm : tuple of 3 float
        Centre of mass of its voxels; voxel i reaches from i to i + 1 voxel sizes.
    volume_um3 : float
        By its voxels.
    roots : dict of int to int
        Version to the root id in the nucleus table, 0 for none; no entry where the table has no row for it.
    n_soma_synapses : dict of int to int
        Version to the number of synapses made on the surface of its soma, autapses left out.
    n_dendrite_synapses : int
        Made on the surface of its dendrites, 14 um along an axis from the soma's centre at most.
    n_far_synapses : int
        Onto its root, but 0.7 um or more from the cell's surface.
    """

    nucleus_id: int
    role: Role
    centre_nm: tuple[float, float, float]
    volume_um3: float
    roots: dict[int, int]
    n_soma_synapses: dict[int, int]
    n_dendrite_synapses: int
    n_far_synapses: int


@dataclass(frozen=True)
class Scene:
    """A written phantom scene.

    Attributes
    ----------
    folder : Path
    seed : int
    extent_um : tuple of 3 float
    truth : dict of int to NucleusTruth
        By nucleus id.
    """

    folder: Path
    seed: int
    extent_um: tuple[float, float, float]
    truth: dict[int, NucleusTruth]

    voxel_size_nm = VOXEL_SIZE_NM
    voxel_offset = VOXEL_OFFSET
    table_resolution_nm = TABLE_RESOLUTION_NM
    versions = VERSIONS

    @property
    def nucleus_segmentation_url(self) -> str:
        """Cloudpath of the nuclei, with meshes; segment id = nucleus id."""
        return layer_url(self.folder / "nuclei")

    def segmentation_url(self, version: int) -> str:
        """Cloudpath of the flat segmentation of one version."""
        return layer_url(self.folder / f"seg_v{version}")

    def nuclei_path(self, version: int) -> Path:
        """Parquet file of the nucleus table of one version."""
        return self.folder / f"nuclei_v{version}.parquet"

    def synapses_path(self, version: int) -> Path:
        """Parquet file of the synapse table of one version."""
        return self.folder / f"synapses_v{version}.parquet"

    def nuclei(self, version: int) -> pd.DataFrame:
        """Nuclei of one version as CAVE would hold them; columns as `sandbox.phantom.nuclei.nucleus_table` says."""
        return pd.read_parquet(self.nuclei_path(version))

    def synapses(self, version: int) -> pd.DataFrame:
        """Synapses of one version, autapses included; columns as `sandbox.phantom.synapses.synapse_table` says."""
        return pd.read_parquet(self.synapses_path(version))

    def with_role(self, role: Role) -> list[NucleusTruth]:
        """The nuclei of one role."""
        return [truth for truth in self.truth.values() if truth.role == role]


def write_scene(
    folder: Path,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    *,
    extent_um: tuple[float, float, float] = EXTENT_UM,
) -> Scene:
    """Write the scene, or load it where it stands already.

    `scene.json` is written last: a folder without it is written again.

    Parameters
    ----------
    folder : Path
        Made where it is not there.
    seed : int
        The same seed gives the same bytes.
    progress : callable, optional
        Called with the share that is done, 0 to 1.
    extent_um : tuple of 3 float
        Size of the volume; cells whose nuclei are not wholly inside are left out, so that a smaller scene has
        fewer of the awkward ones.

    Returns
    -------
    Scene

    Raises
    ------
    ValueError
        The volume is too small for any nucleus, or too large for the neuropil.
    """
    folder = Path(folder)
    say = progress or (lambda _: None)
    wanted = {"recipe": _recipe(), "seed": seed, "extent_um": list(extent_um)}
    if _description(folder).items() >= wanted.items():
        say(1.0)
        return load_scene(folder)

    phantom = Phantom(seed, extent_um)
    folder.mkdir(parents=True, exist_ok=True)
    scene = Scene(folder, seed, extent_um, {})
    (folder / "scene.json").unlink(missing_ok=True)
    for layer in ("nuclei", *(f"seg_v{version}" for version in VERSIONS)):
        shutil.rmtree(folder / layer, ignore_errors=True)

    nuclei = phantom.nuclei()
    say(0.2)
    proposed = propose_synapses(seed, phantom)
    ends = [end_voxels(proposed, end) for end in ("pre", "post")]
    objects = _write_layers(folder, seed, phantom, nuclei, np.concatenate(ends), say)
    n_foreign = int(FOREIGN_PER_UM3 * np.prod(extent_um))
    pre, post = np.split(objects, 2)
    chosen = choose_synapses(seed, proposed, pre, post, n_foreign)
    for version in VERSIONS:
        nucleus_table(seed, nuclei, version).to_parquet(scene.nuclei_path(version), index=False)
        synapse_table(seed, chosen, version).to_parquet(scene.synapses_path(version), index=False)

    truth = [asdict(t) for t in _truth(scene, nuclei, chosen)]
    part = folder / "scene.json.part"
    part.write_text(json.dumps(wanted | {"truth": truth}, indent=1))
    part.replace(folder / "scene.json")
    say(1.0)
    return load_scene(folder)


def load_scene(folder: Path) -> Scene:
    """Load a scene that `write_scene` wrote.

    Raises
    ------
    DatasetError
        There is none, its writing was cut short, or the sandbox makes other scenes by now.
    """
    folder = Path(folder)
    description = _description(folder)
    if description.get("recipe") != _recipe():
        raise DatasetError(f"no complete phantom scene of this sandbox in {folder}: make it with write_scene")
    truth = {}
    for entry in description["truth"]:
        for name in ("roots", "n_soma_synapses"):
            entry[name] = {int(version): value for version, value in entry[name].items()}
        truth[entry["nucleus_id"]] = NucleusTruth(**entry | {"centre_nm": tuple(entry["centre_nm"])})
    return Scene(folder, description["seed"], tuple(description["extent_um"]), truth)


def _write_layers(
    folder: Path,
    seed: int,
    phantom: Phantom,
    nuclei: dict[int, NucleusMask],
    points_vx: NDArray[np.int64],
    say: Callable[[float], None],
) -> NDArray[np.uint32]:
    """Write every layer and return the objects at some voxels, 0 for those outside the volume."""
    ids = nucleus_ids(seed)
    first, second = (segmentation_roots(seed, version) for version in VERSIONS)
    changes = first != second
    seg_first, seg_second = (folder / f"seg_v{version}" for version in VERSIONS)
    create_layer(folder / "nuclei", "uint32", phantom.shape, mesh="mesh")
    create_layer(seg_first, "uint64", phantom.shape)
    objects = np.zeros(len(points_vx), np.uint32)
    inside = ((points_vx >= 0) & (points_vx < phantom.shape)).all(axis=1)

    def write_slab(z_start: int) -> list[tuple[NDArray[np.int64], NDArray[np.uint64]]]:
        lower_vx = np.array([0, 0, z_start])
        slab = phantom.objects(z_start, min(z_start + CHUNK[2], int(phantom.shape[2])))
        here = inside & (points_vx[:, 2] >= z_start) & (points_vx[:, 2] < z_start + CHUNK[2])
        objects[here] = slab[tuple((points_vx[here] - lower_vx).T)]
        write_labels(seg_first, first[slab], lower_vx)
        write_labels(folder / "nuclei", _nucleus_labels(slab.shape, nuclei, ids, z_start), lower_vx)
        return [(lower_vx + [x, y, 0], second[file]) for x, y, file in _files(slab) if changes[file].any()]

    changed = []
    starts = range(0, int(phantom.shape[2]), CHUNK[2])
    with ThreadPoolExecutor(2) as pool:
        for done, in_slab in enumerate(pool.map(write_slab, starts), start=1):
            changed += in_slab
            say(0.2 + 0.65 * done / len(starts))
    # Most files are the same in both versions.
    shutil.copytree(seg_first, seg_second)
    for lower_vx, labels in changed:
        write_labels(seg_second, labels, lower_vx)
    with_mesh = {i: nucleus for i, nucleus in nuclei.items() if CELLS[i].role != "no mesh"}
    write_meshes(folder / "nuclei", [(int(ids[i]), nucleus) for i, nucleus in with_mesh.items()])
    return objects


def _files(slab: NDArray[np.uint32]) -> Iterator[tuple[int, int, NDArray[np.uint32]]]:
    """The part of a slab in each file of a layer, with its lower corner along x and y."""
    for x in range(0, slab.shape[0], CHUNK[0]):
        for y in range(0, slab.shape[1], CHUNK[1]):
            yield x, y, slab[x : x + CHUNK[0], y : y + CHUNK[1]]


def _nucleus_labels(
    shape: tuple[int, ...], nuclei: dict[int, NucleusMask], ids: NDArray[np.int64], z_start: int
) -> NDArray[np.uint32]:
    """Nucleus ids of the voxels of a slab."""
    labels = np.zeros(shape, np.uint32, order="F")
    for i, nucleus in nuclei.items():
        x, y, z = nucleus.lower_vx - [0, 0, z_start]
        mask = nucleus.mask[:, :, max(0, -z) : max(0, shape[2] - z)]
        box = labels[x : x + mask.shape[0], y : y + mask.shape[1], max(0, z) : max(0, z) + mask.shape[2]]
        box[mask] = ids[i]
    return labels


def _truth(scene: Scene, nuclei: dict[int, NucleusMask], chosen: pd.DataFrame) -> list[NucleusTruth]:
    ids = nucleus_ids(scene.seed)
    roots = {v: scene.nuclei(v).set_index("id")["pt_root_id"].fillna(0) for v in VERSIONS}
    truth = []
    for i, nucleus in nuclei.items():
        centre_nm = (nucleus.centre_vx() + VOXEL_OFFSET) * VOXEL_SIZE_NM
        count = chosen.loc[chosen["cell"] == i, "kind"].value_counts()
        on_soma, from_partner, on_dendrites, inside, outside = (
            int(count.get(kind, 0)) for kind in ("soma", "partner", "dendrite", "inside", "outside")
        )
        listed = {v: int(table[ids[i]]) for v, table in roots.items() if ids[i] in table.index}
        truth.append(
            NucleusTruth(
                nucleus_id=int(ids[i]),
                role=CELLS[i].role,
                centre_nm=tuple(centre_nm.tolist()),
                volume_um3=nucleus_volume_um3(nucleus),
                roots={v: root if root > 1 else 0 for v, root in listed.items()},
                n_soma_synapses={1: on_soma, 2: on_soma + from_partner},
                n_dendrite_synapses=on_dendrites,
                n_far_synapses=inside + outside,
            )
        )
    return truth


def _description(folder: Path) -> dict:
    path = folder / "scene.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _recipe() -> str:
    here = Path(__file__).parent
    return hashlib.sha256(b"".join((here / f"{name}.py").read_bytes() for name in _RECIPE)).hexdigest()[:16]
