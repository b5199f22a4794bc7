"""What else the tables of a CAVE server know, and how they behave in a process."""

import logging
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cave_stack import BIG, N_NUCLEI, SYNAPSE_NM, opened, synapses_by_hand

from sandbox.cave.server import CaveServer


def test_names_of_the_segmentations(server: CaveServer) -> None:
    """The datastack names its segmentation; the dataset, else the table, names that of the nuclei; a view does not."""
    tables = opened(server)
    assert tables.segmentation_source == f"graphene://{server.url}/segmentation/table/tiny"
    assert tables.nucleus_segmentation is None
    assert opened(server, table="nucleus_detection_v0").nucleus_segmentation == "precomputed://file:///nuclei"
    named = opened(server, table="nucleus_detection_v0", nucleus_segmentation="precomputed://file:///mine")
    assert named.nucleus_segmentation == "precomputed://file:///mine"


def test_metadata_are_asked_for_once(server: CaveServer) -> None:
    """However often a resolution is wanted, its table's metadata are one request."""
    tables = opened(server, synapses="synapses")
    before = len(server.requests)
    assert {tables.synapse_resolution_nm for _ in range(5)} == {SYNAPSE_NM}
    assert [request.path.split("/")[-3:] for request in server.requests[before:]] == [["table", "synapses", "metadata"]]


def test_threads_share_one_connection(capped: CaveServer) -> None:
    """Eight threads with one CaveTables each get all of their rows, also where answers are cut."""
    tables = opened(capped, synapses="synapses")
    start = threading.Barrier(8)

    def ask(number: int) -> int:
        start.wait()
        if number % 2:
            return len(tables.nuclei().frame)
        synapses = tables.synapses([BIG], [-1e3, -1e3, -1e3], [1e5, 1e5, 1e5])
        assert synapses is not None
        return len(synapses.frame)

    onto = synapses_by_hand([BIG], np.full(3, -1e3), np.full(3, 1e5), "post_pt")
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == [len(onto), N_NUCLEI] * 4


def test_user_sees_no_chatter(
    capped: CaveServer, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture
) -> None:
    """Cut answers, the owner's notice and timestamps of "never" are neither logged nor warned about nor printed."""
    caplog.set_level(logging.INFO)
    opened(capped, table="nucleus_detection_v0").nuclei()
    opened(capped, view="nucleus_lookup").nuclei()
    assert [record for record in caplog.records if not record.name.startswith("asyncio")] == []
    assert [str(warning.message) for warning in recwarn] == []
    assert capfd.readouterr() == ("", "")


def test_tables_cannot_be_sent_elsewhere(server: CaveServer) -> None:
    """What holds a token does not pickle, so that it cannot become a task's parameter or result; nor is it shown."""
    tables = opened(server)
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(tables)
    assert repr(tables) == f"CaveTables(tiny_public, version 1300, {server.url})"


def test_import_is_light() -> None:
    """Importing somatic.cave.tables does not import caveclient, which takes a second."""
    code = "import sys, somatic.cave.tables; sys.exit('caveclient' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
