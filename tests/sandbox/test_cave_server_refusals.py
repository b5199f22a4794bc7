"""The sandbox's CAVE server, asked for what it does not serve: versions, tables, datastacks, columns."""

import re
from dataclasses import replace
from datetime import datetime

import pandas as pd
import pytest
import requests
from cave_asking import NUCLEI, SYNAPSES, TOKEN, VIEW, client_of, post

from sandbox.cave.server import CaveServer, CaveTable, Datastack, MaterializedVersion

pytestmark = [
    pytest.mark.usefixtures("no_home"),
    pytest.mark.filterwarnings("ignore:Discarding nonzero nanoseconds"),  # of caveclient, for versions kept for ever
]
LONG_AGO = datetime(2020, 1, 1)
REFERENCE = "nucleus_ref_neuron_svm"


def ask(server, path, token=TOKEN):
    """Answer to a GET of the materialization engine."""
    url = f"{server.url}/materialize/api/v3/datastack/{path}"
    return requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=20)


def said(answer):
    """Status and message of an answer."""
    return answer.status_code, answer.json()["message"]


@pytest.fixture(scope="module")
def alone(datastack):
    """A server of a datastack with versions of its own: 943, 1000 that is dropped, 1100 that is being made."""
    last = datastack.version(943)
    versions = [
        replace(last, expires_on=LONG_AGO, valid="t"),
        replace(last, number=1000, expires_on=LONG_AGO, valid=False),
        replace(last, number=1100, valid="f", status="RUNNING"),
    ]
    with CaveServer(replace(datastack, versions=versions, parent=None), token=TOKEN) as running:
        yield running


class TestVersions:
    """Versions that cannot be queried, and those that can though their time is over."""

    def test_past_its_expiry(self, alone):
        """A version that is valid is listed and served, whenever it was to expire; it may say so with a letter."""
        [listed] = ask(alone, "minnie65_public/metadata").json()
        assert (listed["valid"], listed["status"]) == ("t", "AVAILABLE")
        assert listed["expires_on"] < "2021"
        assert len(client_of(alone).materialize.query_view(VIEW, materialization_version=943)) == 300

    def test_being_made(self, alone):
        """It is not valid, and its status says so; it is not listed among those that can be queried."""
        assert client_of(alone).materialize.get_versions() == [943]
        listed = ask(alone, "minnie65_public/metadata?expired=True").json()
        assert [(one["version"], one["valid"], one["status"]) for one in listed[1:]] == [
            (1000, False, "EXPIRED"),
            (1100, "f", "RUNNING"),
        ]

    @pytest.mark.parametrize("path", [f"table/{NUCLEI}", f"views/{VIEW}"])
    @pytest.mark.parametrize("version", [1000, 1100])
    def test_no_database(self, alone, version, path):
        """A query is a 500 whose reason stands behind the whole SQL."""
        status, message = said(post(alone, f"{version}/{path}"))
        assert status == 500
        assert message.startswith("Execution failed on sql 'SELECT ")
        assert f'database "minnie65_public__mat{version}" does not exist' in message[200:]

    def test_no_database_for_joins_and_views(self, alone):
        """So is a join; the list of views fails too, while metadata and the list of tables lie elsewhere."""
        tables = [[REFERENCE, "target_id"], [NUCLEI, "id"]]
        assert "does not exist" in said(post(alone, "1000", {"tables": tables}))[1]
        assert "does not exist" in said(ask(alone, "minnie65_public/version/1000/views"))[1]
        for path in ("tables", f"table/{NUCLEI}/metadata", f"views/{VIEW}/metadata"):
            assert ask(alone, f"minnie65_public/version/1000/{path}").status_code == 200

    @pytest.mark.parametrize(
        "path", ["views", f"table/{NUCLEI}/metadata", f"views/{VIEW}/metadata", f"table/{NUCLEI}/count"]
    )
    def test_no_valid_parent(self, server, path):
        """Where a version is a parent's, every address that looks it up says so, but for the list of tables."""
        status, message = said(ask(server, f"minnie65_public/version/1000/{path}"))
        assert (status, "because there is no valid parent" in message) == (500, True)
        # What is asked for without the parent answers as if nothing had happened: here there are no tables left.
        assert ask(server, "minnie65_public/version/1000/tables").status_code == 404


class TestTables:
    """Tables that cannot be read, or not as asked."""

    @pytest.mark.parametrize(
        ("permission", "why"),
        [
            ("PRIVATE", "The table can only be read by its owner"),
            ("GROUP", "You cannot read this table because you do not share a common group"),
        ],
    )
    def test_private(self, datastack, permission, why):
        """Of a table of somebody else's the metadata can be read, its rows not: a 401 inside a 500; nor can a join."""
        last = datastack.version(943)
        private = replace(last.tables[NUCLEI], read_permission=permission)
        versions = [replace(last, tables={**last.tables, NUCLEI: private})]
        with CaveServer(replace(datastack, versions=versions), token=TOKEN) as server:
            metadata = ask(server, f"minnie65_public/version/943/table/{NUCLEI}/metadata")
            assert metadata.json()["read_permission"] == permission
            tables = [[REFERENCE, "target_id"], [NUCLEI, "id"]]
            for path, body in ((f"943/table/{NUCLEI}", {}), ("943", {"tables": tables})):
                status, message = said(post(server, path, body))
                assert (status, message.startswith(f"401 Unauthorized: Unauthorized: {why}")) == (500, True)
            assert post(server, f"943/table/{SYNAPSES}").status_code == 200

    @pytest.mark.parametrize("resolution", [(0, 0, 0), (0, 4, 40), (float("nan"), 4, 40)])
    def test_resolution_that_is_none(self, resolution):
        """Positions are multiplied by what is no number, which the database does not know; other columns come."""
        frame = pd.DataFrame({"id": [1, 2], "pt_position_x": [1, 2], "pt_position_y": [1, 2], "pt_position_z": [1, 2]})
        tables = {"t": CaveTable(frame, resolution, "x")}
        stack = Datastack("minnie65_public", "v", "", [MaterializedVersion(943, LONG_AGO, tables=tables)])
        with CaveServer(stack, token=TOKEN) as server:
            status, message = said(post(server, "943/table/t"))
            assert (status, bool(re.search(r'column "(nan|inf)" does not exist', message))) == (500, True)
            assert post(server, "943/table/t", {"select_columns": ["id"]}).status_code == 200
            assert post(server, "943/table/t", {"desired_resolution": [4, 4, 40]}).status_code == (
                500 if resolution[0] != 0 else 200
            )

    def test_columns_of_a_join(self, client):
        """Columns without a table are taken from one that has them, so that of two ids one is missing."""
        tables = {"select_columns": ["id", "target_id", "pt_root_id"]}
        found = client.materialize.query_table(REFERENCE, **tables)
        assert list(found) == ["id", "pt_supervoxel_id", "pt_root_id", "target_id"]
        assert found["id"].tolist() == found["target_id"].tolist()

    def test_reference_to_rows_that_are_gone(self, datastack):
        """A join leaves out whose row is not valid any more, and whose never was; the table alone has them."""
        last = datastack.version(943)
        nuclei = last.tables[NUCLEI].frame
        nuclei = nuclei.assign(valid=nuclei["id"] != 200_004)
        references = last.tables[REFERENCE].frame.copy()
        references.loc[0, "target_id"] = 5
        tables = {
            NUCLEI: replace(last.tables[NUCLEI], frame=nuclei),
            REFERENCE: replace(last.tables[REFERENCE], frame=references),
        }
        with CaveServer(replace(datastack, versions=[replace(last, tables=tables)]), token=TOKEN) as server:
            materialize = client_of(server).materialize
            joined = materialize.query_table(REFERENCE)
            assert len(materialize.query_table(REFERENCE, merge_reference=False)) == 75
            counted = materialize.query_table(REFERENCE, merge_reference=False, get_counts=True)
            assert counted["count"].tolist() == [75]
        assert set(references["id"]) - set(joined["id"]) == {1, 5}


class TestDatastacks:
    """A datastack of another name."""

    def test_with_tokens(self, server):
        """Nobody knows whose permission it takes, and that is a 400, for the info service and for tables."""
        for url in ("info/api/v2/datastack/full/nope", "materialize/api/v3/datastack/nope/versions"):
            for token, status, error in ((TOKEN, 400, "invalid_table_id"), ("wrong", 401, "invalid_token")):
                headers = {"Authorization": f"Bearer {token}"}
                answer = requests.get(f"{server.url}/{url}", headers=headers, timeout=20)
                assert (answer.status_code, answer.json()["error"]) == (status, error)

    def test_without_tokens(self, datastack):
        """The info service says 404, the materialization engine wraps that into a 500."""
        with CaveServer(datastack) as server:
            assert requests.get(f"{server.url}/info/api/v2/datastack/full/nope", timeout=20).status_code == 404
            status, message = said(ask(server, "nope/versions"))
            assert (status, "404 Client Error" in message) == (500, True)
