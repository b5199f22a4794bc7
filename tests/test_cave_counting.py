"""Counting requests by kind."""

import threading
from collections import Counter

import pytest

from somatic.cave.counting import count_request, request_kind, requests_sent

MATERIALIZE = "https://minnie.microns-daf.com/materialize/api/v3/datastack/minnie65_public/version/661"
GRAPH = "https://minnie.microns-daf.com/segmentation"
NUCLEI = "nucleus_detection_lookup_v1"
FLAGS = "return_pyarrow=True&arrow_format=True&split_positions=True&direct_sql_pandas=True"
# As caveclient was recorded, and those to the graph as `somatic.cave.graph` sends them.
KINDS = {
    "https://global.daf-apis.com/info/version": "metadata",
    "https://global.daf-apis.com/info/api/v2/datastack/full/minnie65_public": "metadata",
    "https://minnie.microns-daf.com/materialize/version": "metadata",
    f"{MATERIALIZE}/table/nucleus_detection_v0/metadata": "metadata",
    f"{MATERIALIZE}/views/{NUCLEI}/schema": "metadata",
    f"{MATERIALIZE}/views/{NUCLEI}/query?{FLAGS}": f"rows of {NUCLEI}",
    f"{MATERIALIZE}/views/{NUCLEI}/query?{FLAGS}&count=True": f"rows of {NUCLEI}",
    f"{MATERIALIZE}/table/synapses_pni_2/query?{FLAGS}": "rows of synapses_pni_2",
    f"{MATERIALIZE}/query?{FLAGS}": "rows of joined tables",
    f"{GRAPH}/table/minnie65_public/info": "metadata",
    f"{GRAPH}/api/v1/table/minnie65_public/node/864691135122292345/leaves?bounds=0-1_0-1_0-1": "leaves",
    f"{GRAPH}/api/v1/table/minnie65_public/is_latest_roots?timestamp=1.5": "roots",
    f"{GRAPH}/api/v1/table/minnie65_public/roots_binary": "roots",
}


@pytest.mark.parametrize(("url", "kind"), KINDS.items())
def test_kinds(url: str, kind: str) -> None:
    """What is asked for is seen from the path."""
    assert request_kind(url) == kind


def test_counting_from_several_threads() -> None:
    """None is lost, and a copy that was taken stays as it is."""
    before = requests_sent()

    def ask() -> None:
        for url in KINDS:
            for _ in range(100):
                count_request(url)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {kind: 800 * number for kind, number in Counter(KINDS.values()).items()}
    assert requests_sent() - before == expected
