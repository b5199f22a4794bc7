"""The sandbox's CAVE server, asked through caveclient: answers, traps, tokens and accidents."""

import asyncio
import logging
import socket
import threading
import time
from types import SimpleNamespace
from urllib.parse import urlparse

import numpy as np
import pandas as pd
import pytest
import requests
from caveclient import CAVEclient
from caveclient.base import AuthException

from sandbox.cave import faults
from sandbox.cave.server import CaveServer, CaveTable, Datastack, MaterializedVersion

ROOT = 864_691_130_000_000_000
BOX = [[162229, 129378, 26244], [169729, 136878, 26994]]
TOKEN, POOR_TOKEN, RUDE_TOKEN = "token-of-the-owner", "token-of-a-guest", "token-without-terms"
SYNAPSES = "synapses_pni_2"
NUCLEI = "nucleus_detection_v0"
VIEW = "nucleus_detection_lookup_v1"


pytestmark = [
    pytest.mark.usefixtures("no_home"),
    pytest.mark.filterwarnings("ignore:Discarding nonzero nanoseconds"),  # of caveclient, for versions kept for ever
]


@pytest.fixture(scope="module")
def running_server(datastack):
    """A server with tokens and a small row cap."""
    with CaveServer(
        datastack,
        token=TOKEN,
        row_cap=500,
        unprivileged_tokens=[POOR_TOKEN],
        tokens_without_terms=[RUDE_TOKEN],
    ) as running:
        yield running


@pytest.fixture
def server(running_server):
    """Return the server, in good health."""
    running_server.clear_faults()
    running_server.rate_limit(None)
    return running_server


@pytest.fixture
def client(server):
    """Return a client of version 943."""
    return _client(server, version=943)


@pytest.fixture
def tables(datastack):
    """Return the frames that version 943 was made of."""
    version = datastack.version(943)
    return {name: table.frame for name, table in version.tables.items()}


def _client(server, token=TOKEN, **options):
    return CAVEclient(
        "minnie65_public", server_address=server.url, auth_token=token, write_server_cache=False, **options
    )


def _post(server, path, body=None, token=TOKEN, **params):
    return requests.post(
        f"{server.url}/materialize/api/v3/datastack/minnie65_public/version/{path}/query",
        json=body or {},
        params={"return_pyarrow": "True"} | params,
        headers={"Authorization": f"Bearer {token}", "Accept-Encoding": "zstd"},
        timeout=20,
    )


def _ids(frame):
    return sorted(int(number) for number in frame["id"])


class TestListing:
    """What there is to ask about."""

    def test_versions(self, client):
        """Expired versions are listed only on request, and the latest of the others is the default."""
        assert client.materialize.get_versions() == [661, 943]
        assert client.materialize.get_versions(expired=True) == [661, 943, 1000]
        assert client.materialize.most_recent_version() == 943

    def test_time_of_a_version_without_microseconds(self, client):
        """Midnight sharp still comes with microseconds, without which caveclient cannot read it."""
        assert client.materialize.get_timestamp(943) == pd.Timestamp("2024-01-21", tz="UTC")

    def test_metadata(self, client):
        """Tables and views say their resolution, their segmentation and their schema."""
        table = client.materialize.get_table_metadata(NUCLEI, version=943)
        assert table["voxel_resolution"] == [4.0, 4.0, 40.0]
        assert table["flat_segmentation_source"] == "precomputed://https://example.org/nuclei"
        assert list(client.materialize.get_views(943)) == [VIEW]
        assert client.materialize.get_view_schemas(943)[VIEW]["pt_position"] == {"type": "SpatialPoint"}
        names = [record["table_name"] for record in client.materialize.get_tables_metadata(version=943)]
        assert names == client.materialize.get_tables(version=943)

    def test_segmentation_source_names_this_server(self, client, server):
        """The graph's address is this server, under the name the chunked graph will have."""
        assert client.info.segmentation_source() == f"graphene://{server.url}/segmentation/table/minnie65_public"

    def test_info(self, client):
        """The info service knows the datastack, its image volume and where its local server is."""
        assert client.info.get_datastacks() == ["minnie65_public"]
        assert client.info.get_aligned_volume_info()["name"] == "minnie65_phase3"
        assert client.info.get_datastacks_by_aligned_volume() == ["minnie65_public"]
        assert client.info.get_image_mirrors() == []

    def test_versions_of_the_api_of_the_chunked_graph(self, client):
        """The chunked graph tells its version, so that caveclient can make its client."""
        assert str(client.chunkedgraph.server_version) == "2.21.1"

    def test_version_twice(self, datastack):
        """A datastack with one version number twice is refused."""
        with pytest.raises(ValueError, match="a version twice"):
            Datastack("d", "v", "", [datastack.versions[0], datastack.versions[0]])

    def test_float_ids(self):
        """Ids that are floats have lost digits and are refused by name."""
        frame = pd.DataFrame({"id": [1, 2], "pt_root_id": [float(ROOT), np.nan]})
        version = MaterializedVersion(1, pd.Timestamp("2024-01-01"), tables={"t": CaveTable(frame, (4, 4, 40), "x")})
        with pytest.raises(ValueError, match="table t: column pt_root_id must hold integers"):
            CaveServer(Datastack("d", "v", "", [version]))


class TestQueries:
    """Rows, as the model has them."""

    def test_view(self, client, datastack):
        """A view comes back whole, ids exact, a missing root as NA and positions joined to lists."""
        frame = client.materialize.query_view(VIEW)
        truth = datastack.version(943).views[VIEW].frame
        assert frame["pt_root_id"].dtype == "Int64"
        assert frame["pt_root_id"].tolist() == truth["pt_root_id"].tolist()
        assert pd.isna(frame.loc[7, "pt_root_id"])
        assert frame.loc[299, "pt_root_id"] == 864691130000000299
        xyz = truth[[f"pt_position_lookup_{axis}" for axis in "xyz"]].to_numpy()
        np.testing.assert_array_equal(np.stack(frame["pt_position_lookup"]), xyz)

    def test_missing_root_of_a_table(self, client):
        """The split table shows 1 for the same root, but a filter still sees that there is none."""
        frame = client.materialize.query_table(NUCLEI)
        assert frame.loc[frame["id"] == 200007, ["pt_root_id", "pt_supervoxel_id"]].to_numpy().tolist() == [[1, 1]]
        found = client.materialize.query_table(NUCLEI, filter_greater_dict={"pt_root_id": 0})
        assert 200007 not in _ids(found)
        assert len(found) == 300 - 6 - 1

    def test_synapses_in_a_box(self, client, tables):
        """A box in voxels holds its two corners; synapses of other roots and autapses are left out."""
        frame = tables[SYNAPSES]
        inside = (frame["post_pt_root_id"] == ROOT + 4) & (frame["pre_pt_root_id"] != ROOT + 4)
        for axis, low, high in zip("xyz", *BOX, strict=True):
            inside &= (frame[f"post_pt_position_{axis}"] >= low) & (frame[f"post_pt_position_{axis}"] <= high)
        found = client.materialize.synapse_query(post_ids=ROOT + 4, bounding_box=BOX)
        assert _ids(found) == _ids(frame[inside])
        corners = {tuple(corner) for corner in BOX}
        assert corners <= {tuple(int(x) for x in xyz) for xyz in found["post_pt_position"]}

    def test_box_is_in_voxels_whatever_the_resolution(self, client):
        """desired_resolution changes what comes back (nm here), not what the box means."""
        query = {"post_ids": [ROOT + 4], "bounding_box": BOX, "split_positions": True}
        in_voxels = client.materialize.synapse_query(**query)
        in_nm = client.materialize.synapse_query(**query, desired_resolution=[1, 1, 1])
        assert _ids(in_nm) == _ids(in_voxels)
        np.testing.assert_array_equal(in_nm["ctr_pt_position_z"], in_voxels["ctr_pt_position_z"] * 40)
        assert in_nm["ctr_pt_position_z"].dtype == "Int32"

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            ({"filter_greater_dict": {"id": 200_297}}, [200_298, 200_299]),
            ({"filter_greater_equal_dict": {"id": 200_298}}, [200_298, 200_299]),
            ({"filter_less_dict": {"id": 200_002}}, [200_000, 200_001]),
            ({"filter_less_equal_dict": {"id": 200_001}}, [200_000, 200_001]),
            ({"filter_equal_dict": {"pt_root_id": ROOT + 11}}, [200_011]),
            ({"filter_in_dict": {"pt_root_id": [ROOT + 11, ROOT + 13, 5]}}, [200_011, 200_013]),
            ({"filter_in_dict": {"pt_root_id": []}}, []),
            ({"filter_in_dict": {"id": range(200_005, 200_007)}, "limit": 1}, None),
            (
                {"filter_greater_equal_dict": {"id": 200_010}, "filter_less_dict": {"id": 200_012}},
                [200_010, 200_011],
            ),
        ],
    )
    def test_filters(self, client, filters, expected):
        """Each filter keeps the rows that it names, several of them those that pass all."""
        if "filter_in_dict" in filters:
            filters = filters | {
                "filter_in_dict": {column: list(wanted) for column, wanted in filters["filter_in_dict"].items()}
            }
        found = client.materialize.query_view(VIEW, **filters)
        if expected is None:
            assert len(found) == 1
        else:
            assert _ids(found) == expected

    def test_regex(self, client):
        """A regular expression filters strings."""
        found = client.materialize.query_table(
            "nucleus_ref_neuron_svm", filter_regex_dict={"cell_type": "^neu"}, merge_reference=False
        )
        assert len(found) == 75

    def test_selected_columns(self, client):
        """Only the columns asked for come, with the supervoxel of each root before it."""
        found = client.materialize.query_view(VIEW, select_columns=["id", "pt_root_id", "pt_position"])
        assert list(found) == ["id", "pt_supervoxel_id", "pt_root_id", "pt_position"]

    def test_reference_table(self, client, tables):
        """A reference table comes joined with the rows that it means, shared names with a suffix."""
        found = client.materialize.query_table("nucleus_ref_neuron_svm", split_positions=True)
        nuclei = tables[NUCLEI].set_index("id")
        assert (found["target_id"] == found["id_ref"]).all()
        assert found["pt_position_x"].tolist() == nuclei.loc[found["id_ref"], "pt_position_x"].tolist()
        assert len(found) == 75

    def test_join_with_chosen_columns(self, client):
        """A join returns the chosen columns of each table, and those of both under two names."""
        found = client.materialize.join_query(
            [["nucleus_ref_neuron_svm", "target_id"], [NUCLEI, "id"]],
            select_columns={"nucleus_ref_neuron_svm": ["id", "cell_type"], NUCLEI: ["id"]},
            suffixes={"nucleus_ref_neuron_svm": "_type", NUCLEI: "_nucleus"},
            filter_less_dict={NUCLEI: {"id": 200_008}},
            metadata=False,
        )
        assert list(found) == ["id_type", "cell_type", "id_nucleus"]
        assert found["id_nucleus"].tolist() == [200_000, 200_004]

    def test_random_sample(self, client):
        """A random sample has as many rows as asked for, all of them different."""
        found = client.materialize.query_table(SYNAPSES, random_sample=20)
        assert len(set(found["id"])) == 20

    def test_counts(self, client):
        """The count of a table, and of what a filter of a view leaves, is not capped."""
        assert client.materialize.get_annotation_count(SYNAPSES, version=943) == 6000
        count = client.materialize.query_view(VIEW, get_counts=True, filter_less_dict={"id": 200_010}, metadata=False)
        assert count["count"].tolist() == [10]

    def test_rows_that_are_not_valid(self):
        """Rows marked as not valid are never returned, as after a correction."""
        frame = pd.DataFrame({"id": [1, 2, 3], "valid": [True, False, True]})
        version = MaterializedVersion(1, pd.Timestamp("2024-01-01"), tables={"t": CaveTable(frame, (4, 4, 40), "x")})
        with CaveServer(Datastack("minnie65_public", "v", "", [version])) as server:
            assert _ids(_client(server, token="any").materialize.query_table("t")) == [1, 3]

    def test_api_v2(self, server):
        """The older API leaves positions in voxels without saying so, and has no views."""
        url = f"{server.url}/materialize/api/v2/datastack/minnie65_public/version/943"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        rows = requests.post(
            f"{url}/table/{NUCLEI}/query",
            json={"desired_resolution": [1, 1, 1]},
            params={"return_pyarrow": False},
            headers=headers,
            timeout=20,
        )
        assert max(row["pt_position_z"] for row in rows.json()) < 27_000
        assert "dataframe_resolution" not in rows.headers
        assert requests.get(f"{url}/views", headers=headers, timeout=20).status_code == 404


class TestTraps:
    """What the real servers do and a careless client falls for."""

    def test_truncation_is_only_logged(self, client, caplog):
        """A capped answer looks like any other; a header, which caveclient logs, is the only sign."""
        with caplog.at_level(logging.WARNING, logger="caveclient"):
            found = client.materialize.synapse_query(remove_autapses=False)
        assert len(found) == 500
        assert '201 - "Limited query to 500 rows' in caplog.text

    def test_an_answer_of_exactly_the_cap_warns_too(self, client, caplog):
        """The header comes also when nothing is missing."""
        with caplog.at_level(logging.WARNING, logger="caveclient"):
            found = client.materialize.query_table(SYNAPSES, filter_less_equal_dict={"id": 500})
        assert _ids(found) == list(range(1, 501))
        assert "Limited query to 500 rows" in caplog.text

    def test_a_larger_limit_does_not_help(self, client):
        """A limit beyond the cap is the cap."""
        assert len(client.materialize.query_table(SYNAPSES, limit=6000)) == 500

    def test_paging_by_offset_loses_rows(self, client):
        """Pages by offset overlap and leave rows out; the same page asked twice is the same."""
        pages = [client.materialize.query_table(SYNAPSES, offset=start) for start in range(0, 6000, 500)]
        assert sum(len(page) for page in pages) == 6000
        assert len(set(pd.concat(pages)["id"])) < 6000
        assert client.materialize.query_table(SYNAPSES, offset=500)["id"].tolist() == pages[1]["id"].tolist()

    def test_paging_by_id_is_complete(self, client):
        """Pages by ranges of ids find every row once."""
        pages = [
            client.materialize.query_table(
                SYNAPSES, filter_greater_dict={"id": start}, filter_less_equal_dict={"id": start + 499}
            )
            for start in range(0, 6000, 499)
        ]
        assert sorted(pd.concat(pages)["id"]) == list(range(1, 6001))

    def test_filter_out_is_ignored(self, client):
        """What filter_out_dict names stays in the answer."""
        found = client.materialize.query_view(VIEW, filter_out_dict={"pt_root_id": [0]})
        assert (found["pt_root_id"] == 0).sum() == 6

    @pytest.mark.parametrize("as_list", [False, True])
    def test_root_ids_as_strings(self, client, as_list):
        """A root id as a string does not find its rows, and no error says so."""
        root = str(ROOT + 11)
        found = client.materialize.query_view(VIEW, filter_in_dict={"pt_root_id": [root] if as_list else root})
        assert 200_011 not in _ids(found)
        assert client.materialize.query_view(VIEW, filter_equal_dict={"pt_root_id": root}).empty

    def test_a_string_of_one_root_finds_the_rows_without_root(self, client):
        """Caveclient takes the string for a list; the server then looks for its digits, 0 among them."""
        found = client.materialize.query_view(VIEW, filter_in_dict={"pt_root_id": str(ROOT + 11)})
        assert _ids(found) == list(range(200_000, 200_300, 50))

    def test_compression_follows_what_is_accepted(self, server):
        """Arrow is zstd inside when asked for, plain inside gzip else; JSON keeps ids exact."""
        url = f"{server.url}/materialize/api/v3/datastack/minnie65_public/version/943/views/{VIEW}/query"
        headers = {"Authorization": f"Bearer {TOKEN}", "Accept-Encoding": "gzip"}
        arrow = requests.post(url, json={}, headers=headers, timeout=20)
        assert arrow.headers["Content-Encoding"] == "gzip"
        assert b"\x28\xb5\x2f\xfd" not in arrow.content
        rows = requests.post(url, json={}, params={"return_pyarrow": False}, headers=headers, timeout=20).json()
        assert rows[299]["pt_root_id"] == 864691130000000299
        assert rows[7]["pt_root_id"] is None


class TestErrors:
    """Statuses and texts; those that were recorded are replayed elsewhere."""

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("943/views/nope", "No row was found for one()"),
            (
                f"1000/views/{VIEW}",
                "404 Not Found: version 1000 not found in minnie65_public because there is no valid parent",
            ),
            (
                "943/table/nope",
                "404 Not Found: Analysis table 'nope' not found for version 943 in datastack minnie65_public",
            ),
        ],
    )
    def test_queries_that_fail_with_500(self, server, path, message):
        """Unknown names and expired versions are 500; only the message tells."""
        answer = _post(server, path)
        assert (answer.status_code, answer.json()["message"]) == (500, message)

    @pytest.mark.parametrize(
        "body",
        [
            {"filter_equal_dict": {VIEW: {"nope": 1}}},
            {"filter_equal_dict": {"nope": {"id": 1}}},
            {"filter_equal_dict": {VIEW: {"pt_position": 1}}},
            {"filter_spatial_dict": {VIEW: {"id": [[0, 0, 0], [1, 1, 1]]}}},
            {"filter_spatial_dict": {VIEW: {"pt_position": [[0, 0, 0], [5, 5, 0]]}}},
            {"filter_regex_dict": {VIEW: {"id": "1"}}},
            {"select_columns": ["nope"]},
        ],
    )
    def test_malformed_queries(self, server, body):
        """A query that cannot be answered as asked is a 500 with a message, never some rows."""
        answer = _post(server, f"943/views/{VIEW}", body)
        assert answer.status_code == 500
        assert answer.json()["message"]

    def test_unknown_addresses(self, server):
        """An address that no service has is 404, an unknown datastack of the materialization engine 500."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        assert requests.get(f"{server.url}/nope", headers=headers, timeout=20).status_code == 404
        url = f"{server.url}/materialize/api/v3/datastack/nope/versions"
        answer = requests.get(url, headers=headers, timeout=20)
        assert answer.status_code == 500
        assert "404 Client Error" in answer.json()["message"]


class TestTokens:
    """Who may ask."""

    @pytest.mark.parametrize(
        ("token", "status", "error"),
        [
            (None, 401, "invalid_token"),
            ("wrong", 401, "invalid_token"),
            (POOR_TOKEN, 403, "missing_permission"),
        ],
    )
    def test_caveclient_is_turned_away(self, server, token, status, error):
        """No client can be made without a token that may view the datastack."""
        with pytest.raises(requests.HTTPError) as caught:
            _client(server, token=token)
        assert caught.value.response.status_code == status
        assert caught.value.response.json()["error"] == error

    def test_queries_are_behind_the_gate_too(self, server):
        """A query with a wrong token is 401, with one that may not 403, and nothing is looked up before."""
        assert _post(server, f"9999/views/{VIEW}", token="wrong").status_code == 401
        assert _post(server, f"9999/views/{VIEW}", token=POOR_TOKEN).status_code == 403

    def test_terms_not_accepted(self, server):
        """Whoever has not accepted the terms gets the address of the form, which caveclient would open."""
        answer = _post(server, f"943/views/{VIEW}", token=RUDE_TOKEN)
        assert answer.status_code == 403
        assert answer.json()["error"] == "missing_tos"
        assert answer.json()["data"]["tos_form_url"].startswith(server.url)

    def test_what_a_token_without_permission_sees(self, server):
        """A known token without permission sees an empty list of datastacks."""
        url = f"{server.url}/info/api/v2/datastacks"
        headers = {"Authorization": f"Bearer {POOR_TOKEN}"}
        assert requests.get(url, headers=headers, timeout=20).json() == []

    def test_versions_of_services_are_public(self, server):
        """The versions of the services need no token."""
        for path in ("info/version", "materialize/version", "materialize/api/versions"):
            assert requests.get(f"{server.url}/{path}", timeout=20).status_code == 200

    def test_redirect_to_login(self, datastack):
        """On request, whoever comes without a token is sent to a login page, and caveclient says so."""
        with (
            CaveServer(datastack, token=TOKEN, redirects_to_login=True) as server,
            pytest.raises(AuthException, match="not setup a token"),
        ):
            _client(server, token=None)

    def test_no_token_in_what_is_kept(self, server, client):
        """Tokens stand neither in the record of requests nor in the server's repr."""
        client.materialize.get_versions()
        assert TOKEN not in repr(server.requests) + repr(server) + repr(vars(server))


def _until(happened, within_s=30):
    """Whether something comes to pass."""
    deadline = time.monotonic() + within_s
    while not (so := happened()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return so


class TestAccidents:
    """What goes wrong on demand."""

    def test_a_500_that_hides_a_429(self, server, client):
        """A failure comes as often as asked for, caveclient does not retry it, and then all is well."""
        message = "429 Too Many Requests: 200 per 1 minute"
        server.fail(f"{SYNAPSES}/query", status=500, message=message, times=2)
        for _ in range(2):
            with pytest.raises(requests.HTTPError, match=message) as caught:
                client.materialize.synapse_query(post_ids=ROOT + 4)
            assert caught.value.response.json()["code"] == 500
        assert len(client.materialize.synapse_query(post_ids=ROOT + 4)) == 28
        statuses = [seen.status for seen in server.requests if seen.path.endswith(f"{SYNAPSES}/query")]
        assert statuses[-3:] == [500, 500, 200]

    def test_a_gateway_that_fails_is_retried_by_caveclient(self, server, client):
        """A 502 is a page of HTML, and caveclient itself asks again."""
        materialize = client.materialize
        server.fail("/versions", status=502, message="Bad Gateway")
        assert materialize.get_versions() == [661, 943]
        assert [seen.status for seen in server.requests[-2:]] == [502, 200]

    def test_a_failed_probe_downgrades_the_api(self, server):
        """One failed look at the versions of the API, and caveclient silently uses the old one."""
        server.fail("/materialize/api/versions", message="oops")
        assert _client(server).materialize.api_version == 2

    def test_faults_until_further_notice(self, server):
        """A fault without a number of times lasts until it is cleared."""
        server.fail("/views/", message="oops", times=None)
        assert [_post(server, f"943/views/{VIEW}").status_code for _ in range(3)] == [500] * 3
        server.clear_faults()
        assert _post(server, f"943/views/{VIEW}").status_code == 200

    def test_slow(self, server, monkeypatch):
        """A slow answer takes its time and lets others through meanwhile; a time limit of the client ends it."""
        waits, over = [], threading.Event()

        async def sleep(seconds):
            waits.append(seconds)
            while not over.is_set():
                await asyncio.sleep(0.01)

        monkeypatch.setattr(faults, "asyncio", SimpleNamespace(sleep=sleep))
        server.slow("/views/", seconds=30, times=2)
        answers = []
        waiting = threading.Thread(target=lambda: answers.append(_post(server, f"943/views/{VIEW}")))
        waiting.start()
        assert _until(lambda: waits == [30])
        assert _post(server, f"943/table/{NUCLEI}").status_code == 200
        assert answers == []
        over.set()
        waiting.join()
        assert answers[0].status_code == 200
        over.clear()
        url = f"{server.url}/materialize/api/v3/datastack/minnie65_public/version/943/views/{VIEW}/query"
        with pytest.raises(requests.ReadTimeout):
            requests.post(url, json={}, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=0.2)
        over.set()
        assert _until(lambda: server.requests[-1].status == 499)
        assert waits == [30, 30]

    def test_hang_up(self, server):
        """The connection dies after half of the body; the next answer is whole."""
        server.hang_up(f"{SYNAPSES}/query")
        with pytest.raises(requests.exceptions.ChunkedEncodingError, match="IncompleteRead"):
            _post(server, f"943/table/{SYNAPSES}")
        assert server.requests[-1].status is None
        assert _post(server, f"943/table/{SYNAPSES}").status_code == 200

    def test_rate_limit(self, server, monkeypatch):
        """Beyond its limit a user gets the hidden 429, others and cheap requests do not, and the window passes."""
        clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)
        monkeypatch.setattr(faults, "time", clock)
        server.rate_limit(2)
        answers = [_post(server, f"943/views/{VIEW}") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 500]
        assert answers[2].json()["message"] == "429 Too Many Requests: 2 per 1 minute"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        url = f"{server.url}/materialize/api/v3/datastack/minnie65_public"
        assert requests.get(f"{url}/versions", headers=headers, timeout=20).status_code == 200
        metadata = requests.get(f"{url}/version/943/views/{VIEW}/metadata", headers=headers, timeout=20)
        assert metadata.status_code == 500
        clock.now += 59
        assert _post(server, f"943/views/{VIEW}").status_code == 500
        clock.now += 1
        assert _post(server, f"943/views/{VIEW}").status_code == 200
        server.rate_limit(None)
        assert [_post(server, f"943/views/{VIEW}").status_code for _ in range(4)] == [200] * 4


class TestLife:
    """The server as a part of a process."""

    def test_many_at_once(self, server):
        """Concurrent queries are all answered, each is noted once, and the record is a copy."""
        before = len(server.requests)
        threads = [threading.Thread(target=_post, args=(server, f"943/views/{VIEW}")) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [seen.status for seen in server.requests[before:]] == [200] * 20
        server.requests.clear()
        assert len(server.requests) == before + 20

    def test_stop_frees_the_port(self, datastack):
        """After the end nobody listens, also when a slow answer was under way, and the thread is gone."""
        threads = set(threading.enumerate())
        server = CaveServer(datastack).start()
        server.slow("/info/version", seconds=30)
        with pytest.raises(requests.ReadTimeout):
            requests.get(f"{server.url}/info/version", timeout=0.2)
        start = time.monotonic()
        server.stop()
        assert time.monotonic() - start < 5
        assert "cave-sandbox" not in {thread.name for thread in set(threading.enumerate()) - threads}
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", urlparse(server.url).port), timeout=1)

    def test_on_loopback_only(self, server):
        """The server listens on 127.0.0.1."""
        assert urlparse(server.url).hostname == "127.0.0.1"
