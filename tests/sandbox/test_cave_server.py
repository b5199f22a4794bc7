"""The sandbox's CAVE server, asked through caveclient: answers, traps and errors."""

import logging

import numpy as np
import pandas as pd
import pytest
import requests
from cave_asking import BOX, NUCLEI, ROOT, SYNAPSES, TOKEN, VIEW, client_of, ids, post

from sandbox.cave.server import CaveServer, CaveTable, Datastack, MaterializedVersion

pytestmark = [
    pytest.mark.usefixtures("no_home"),
    pytest.mark.filterwarnings("ignore:Discarding nonzero nanoseconds"),  # of caveclient, for versions kept for ever
]


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
        assert 200007 not in ids(found)
        assert len(found) == 300 - 6 - 1

    def test_synapses_in_a_box(self, client, tables):
        """A box in voxels holds its two corners; synapses of other roots and autapses are left out."""
        frame = tables[SYNAPSES]
        inside = (frame["post_pt_root_id"] == ROOT + 4) & (frame["pre_pt_root_id"] != ROOT + 4)
        for axis, low, high in zip("xyz", *BOX, strict=True):
            inside &= (frame[f"post_pt_position_{axis}"] >= low) & (frame[f"post_pt_position_{axis}"] <= high)
        found = client.materialize.synapse_query(post_ids=ROOT + 4, bounding_box=BOX)
        assert ids(found) == ids(frame[inside])
        corners = {tuple(corner) for corner in BOX}
        assert corners <= {tuple(int(x) for x in xyz) for xyz in found["post_pt_position"]}

    def test_box_is_in_voxels_whatever_the_resolution(self, client):
        """desired_resolution changes what comes back (nm here), not what the box means."""
        query = {"post_ids": [ROOT + 4], "bounding_box": BOX, "split_positions": True}
        in_voxels = client.materialize.synapse_query(**query)
        in_nm = client.materialize.synapse_query(**query, desired_resolution=[1, 1, 1])
        assert ids(in_nm) == ids(in_voxels)
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
            assert ids(found) == expected

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
            assert ids(client_of(server, token="any").materialize.query_table("t")) == [1, 3]

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
        assert ids(found) == list(range(1, 501))
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
        assert 200_011 not in ids(found)
        assert client.materialize.query_view(VIEW, filter_equal_dict={"pt_root_id": root}).empty

    def test_a_string_of_one_root_finds_the_rows_without_root(self, client):
        """Caveclient takes the string for a list; the server then looks for its digits, 0 among them."""
        found = client.materialize.query_view(VIEW, filter_in_dict={"pt_root_id": str(ROOT + 11)})
        assert ids(found) == list(range(200_000, 200_300, 50))

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
        answer = post(server, path)
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
        answer = post(server, f"943/views/{VIEW}", body)
        assert answer.status_code == 500
        assert answer.json()["message"]

    def test_unknown_address(self, server):
        """An address that no service has is 404."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        assert requests.get(f"{server.url}/nope", headers=headers, timeout=20).status_code == 404
