"""A lab in miniature: the phantom scene behind a CAVE server, and dataset files that point at them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cloudvolume import CloudVolume

from sandbox.cave.tables import CaveTable, CaveView, Datastack, MaterializedVersion
from sandbox.graph.chunked_graph import ChunkedGraph, State
from sandbox.graph.edits import level2_nodes
from sandbox.graph.watershed import CHUNK, write_watershed
from sandbox.phantom.scene import Scene

DATASTACK = "phantom"
NUCLEI_TABLE = "nucleus_detection_v0"
NUCLEI_VIEW = "nucleus_detection_lookup_v1"
SYNAPSES = "synapses_phantom"
EXPIRED_VERSION = 99

_GRAPH = "graphene://{server}/segmentation/table/phantom"
_FIRST_VERSION = datetime(2024, 1, 21, 20, 17, 9, 199182)
_BETWEEN_VERSIONS = timedelta(days=90)


def datastack(scene: Scene, *, graph: bool = False) -> Datastack:
    """Everything that a CAVE server holds of a scene: its versions, and one that has expired.

    Parameters
    ----------
    scene : Scene
    graph : bool
        The segmentation is a chunked graph, of the same voxels at the versions' times.
    """
    versions = [_version(scene, number) for number in scene.versions]
    expired = MaterializedVersion(EXPIRED_VERSION, _FIRST_VERSION - _BETWEEN_VERSIONS, valid=False)
    return Datastack(
        name=DATASTACK,
        aligned_volume="phantom_volume",
        segmentation_source=_GRAPH if graph else scene.segmentation_url(scene.versions[-1]),
        versions=[*versions, expired],
        synapse_table=SYNAPSES,
        soma_table=NUCLEI_TABLE,
        description="a made-up volume",
        graph=chunked_graph(scene) if graph else None,
    )


def chunked_graph(scene: Scene) -> ChunkedGraph:
    """Return the graph of a scene, whose watershed is written where it is not there."""
    watershed = write_watershed(scene)
    info = CloudVolume(watershed.cloudpath, progress=False).info
    supervoxels = watershed.supervoxels
    first, second = scene.versions
    states = [
        # Edits are made between the versions.
        State(
            version_time(version).replace(tzinfo=UTC) - _BETWEEN_VERSIONS / 2,
            supervoxels[f"root_{version}"].to_numpy(),
            nodes,
        )
        for version, nodes in zip(scene.versions, level2_nodes(supervoxels, (first, second)), strict=True)
    ]
    return ChunkedGraph(info, watershed.data_dir, CHUNK, supervoxels["supervoxel_id"].to_numpy(), states)


def version_time(number: int) -> datetime:
    """Return the moment of a version, UTC without a zone."""
    return _FIRST_VERSION + number * _BETWEEN_VERSIONS


def write_cave_dataset(scene: Scene, server: str, path: Path, *, graph: bool = False) -> Path:
    """Write the dataset file of a scene behind a CAVE server; flat copies by version, or a graph only."""
    if graph:
        segmentation = f'segmentation = "{_GRAPH.replace("{server}", server)}"'
    else:
        copies = [f'{version} = "{scene.segmentation_url(version)}"' for version in scene.versions]
        segmentation = "\n".join(["", "[segmentations]", *copies])
    path.write_text(
        f"""name = "{path.stem}"
mip = 0
{segmentation}

[cave]
server = "{server}"
datastack = "{DATASTACK}"
nuclei = {{view = "{NUCLEI_VIEW}", position = "pt_position_lookup"}}
nucleus_segmentation = "{scene.nucleus_segmentation_url}"
synapses = "{SYNAPSES}"
"""
    )
    return path


def write_file_dataset(scene: Scene, version: int, path: Path) -> Path:
    """Write the dataset file of one version of a scene whose tables are files."""
    path.write_text(
        f"""name = "{path.stem}"
mip = 0
segmentation = "{scene.segmentation_url(version)}"

[files]
nuclei = "{scene.nuclei_path(version).resolve()}"
synapses = "{scene.synapses_path(version).resolve()}"
resolution_nm = {list(scene.table_resolution_nm)}
nucleus_segmentation = "{scene.nucleus_segmentation_url}"
version = {version}
"""
    )
    return path


def _version(scene: Scene, number: int) -> MaterializedVersion:
    view = scene.nuclei(number)
    table = view.drop(columns=[name for name in view.columns if "lookup" in name or name == "orig_root_id"])
    resolution_nm = scene.table_resolution_nm
    return MaterializedVersion(
        number,
        version_time(number),
        is_merged=number == scene.versions[0],
        tables={
            NUCLEI_TABLE: CaveTable(
                table, resolution_nm, "nucleus_detection", flat_segmentation_source=scene.nucleus_segmentation_url
            ),
            SYNAPSES: CaveTable(scene.synapses(number), resolution_nm, "synapse"),
        },
        views={NUCLEI_VIEW: CaveView(view, resolution_nm, description="nuclei with a point inside the cell")},
    )
