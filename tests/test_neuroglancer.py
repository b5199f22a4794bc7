"""Links to cells in Neuroglancer."""

import json
from urllib.parse import unquote, urlsplit

import numpy as np

from somatic.results.neuroglancer import ViewerLayers, cell_url

ROOT = 864691135122292345
NUCLEI = "precomputed://https://bossdb-open-data.s3.amazonaws.com/iarpa_microns/minnie/minnie65/nuclei"
GRAPH = "graphene://https://minnie.microns-daf.com/segmentation/table/minnie65_public"
MESHES = "s3://bucket/somatic/minnie65/v1718/1a2b3c4d/meshes"
# What neuroglancer 2.41.2 of PyPI gives for this state: neuroglancer.to_url(ViewerState(...), prefix=...).
BY_NEUROGLANCER = (
    "https://spelunker.cave-explorer.org#!%7B%22dimensions%22:%7B%22x%22:%5B4e-09,%22m%22%5D,%22y%22:%5B4e-09,%22m%22"
    "%5D,%22z%22:%5B4e-08,%22m%22%5D%7D,%22position%22:%5B175001.0,-300.5,20000.5%5D,%22crossSectionScale%22:12.5,"
    "%22projectionScale%22:10000.0,%22layers%22:%5B%7B%22type%22:%22segmentation%22,%22source%22:%5B%7B%22url%22:"
    "%22graphene://middleauth+https://minnie.microns-daf.com/segmentation/table/minnie65_public%22%7D%5D,%22segments"
    "%22:%5B%22864691135122292345%22%5D,%22name%22:%22segmentation%22%7D,%7B%22type%22:%22segmentation%22,%22source"
    "%22:%5B%7B%22url%22:%22precomputed://https://bossdb-open-data.s3.amazonaws.com/iarpa_microns/minnie/minnie65/"
    "nuclei%22%7D%5D,%22segments%22:%5B%22262144%22%5D,%22name%22:%22nuclei%22%7D,%7B%22type%22:%22segmentation%22,"
    "%22source%22:%5B%7B%22url%22:%22precomputed://s3://bucket/somatic/minnie65/v1718/1a2b3c4d/meshes%22%7D%5D,"
    "%22segments%22:%5B%22262144%22%5D,%22name%22:%22soma%20meshes%22%7D%5D,%22layout%22:%22xy-3d%22%7D"
)


def linked(segmentation: str, nuclei: str | None = NUCLEI, meshes: str | None = MESHES) -> str | None:
    """A link to nucleus 262144 around (700004, -1202, 800020) nm."""
    return cell_url(
        ViewerLayers(segmentation, nuclei, meshes, (4.0, 4.0, 40.0)), 262144, ROOT, (700_004, -1_202, 800_020)
    )


def layers(url: str | None) -> dict[str, str]:
    """Name and source of the layers of a link."""
    assert url is not None
    state = json.loads(unquote(urlsplit(url).fragment.removeprefix("!")))
    return {layer["name"]: layer["source"][0]["url"] for layer in state["layers"]}


def test_a_cell_of_a_graph() -> None:
    """Letter by letter what Neuroglancer's own package makes of the same state."""
    assert linked(GRAPH) == BY_NEUROGLANCER
    assert linked(GRAPH.replace("https", "middleauth+https")) == BY_NEUROGLANCER


def test_a_cell_of_a_flat_copy() -> None:
    """In Google's viewer, which takes its URL as it is."""
    url = linked("precomputed://gs://iarpa_microns/minnie/minnie65/seg_m1300")
    assert url is not None
    assert url.startswith("https://neuroglancer-demo.appspot.com#!")
    assert layers(url)["segmentation"] == "precomputed://gs://iarpa_microns/minnie/minnie65/seg_m1300"


def test_only_what_a_browser_can_read() -> None:
    """A folder is no layer of a link, nor is plain http; without any layer there is no link."""
    assert set(layers(linked("precomputed://file:///data/seg", meshes="/data/meshes"))) == {"nuclei"}
    assert linked("precomputed://http://laptop/seg", nuclei=None, meshes=None) is None
    assert linked("precomputed://file:///data/seg", nuclei="precomputed://file:///data/nuclei", meshes="/m") is None


def test_no_password_in_a_link() -> None:
    """A URL that holds one is left out."""
    assert set(layers(linked("precomputed://https://me:secret@host/seg", meshes=None))) == {"nuclei"}


def test_synapses_of_a_cell() -> None:
    """Points in nm stand as annotations in voxels of the view, in a layer of the state itself, each with its id."""
    url = cell_url(
        ViewerLayers(GRAPH, None, None, (4.0, 4.0, 40.0)),
        262144,
        ROOT,
        (700_004, -1_202, 800_020),
        synapses_nm=np.array([[400.0, -800.0, 4000.0], [2.0, 0.0, 0.0]]),
    )
    assert url is not None
    state = json.loads(unquote(urlsplit(url).fragment.removeprefix("!")))
    assert state["layers"][-1] == {
        "type": "annotation",
        "source": "local://annotations",
        "annotations": [
            {"type": "point", "id": "0", "point": [100.0, -200.0, 100.0]},
            {"type": "point", "id": "1", "point": [0.5, 0.0, 0.0]},
        ],
        "name": "synapses",
    }
