"""The sandbox's CAVE server, asked through caveclient: tokens, accidents, and how it lives and ends."""

import asyncio
import socket
import threading
import time
from types import SimpleNamespace
from urllib.parse import urlparse

import pytest
import requests
from cave_asking import NUCLEI, POOR_TOKEN, ROOT, RUDE_TOKEN, SYNAPSES, TOKEN, VIEW, client_of, post
from caveclient.base import AuthException

from sandbox.cave import faults
from sandbox.cave.server import CaveServer

pytestmark = [
    pytest.mark.usefixtures("no_home"),
    pytest.mark.filterwarnings("ignore:Discarding nonzero nanoseconds"),  # of caveclient, for versions kept for ever
]


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
            client_of(server, token=token)
        assert caught.value.response.status_code == status
        assert caught.value.response.json()["error"] == error

    def test_queries_are_behind_the_gate_too(self, server):
        """A query with a wrong token is 401, with one that may not 403, and nothing is looked up before."""
        assert post(server, f"9999/views/{VIEW}", token="wrong").status_code == 401
        assert post(server, f"9999/views/{VIEW}", token=POOR_TOKEN).status_code == 403

    def test_terms_not_accepted(self, server):
        """Whoever has not accepted the terms gets the address of the form, which caveclient would open."""
        answer = post(server, f"943/views/{VIEW}", token=RUDE_TOKEN)
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
            client_of(server, token=None)

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
        assert client_of(server).materialize.api_version == 2

    def test_faults_until_further_notice(self, server):
        """A fault without a number of times lasts until it is cleared."""
        server.fail("/views/", message="oops", times=None)
        assert [post(server, f"943/views/{VIEW}").status_code for _ in range(3)] == [500] * 3
        server.clear_faults()
        assert post(server, f"943/views/{VIEW}").status_code == 200

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
        waiting = threading.Thread(target=lambda: answers.append(post(server, f"943/views/{VIEW}")))
        waiting.start()
        assert _until(lambda: waits == [30])
        assert post(server, f"943/table/{NUCLEI}").status_code == 200
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
            post(server, f"943/table/{SYNAPSES}")
        assert server.requests[-1].status is None
        assert post(server, f"943/table/{SYNAPSES}").status_code == 200

    def test_rate_limit(self, server, monkeypatch):
        """Beyond its limit at an endpoint a user gets the hidden 429, elsewhere not, and the window passes."""
        clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)
        monkeypatch.setattr(faults, "time", clock)
        server.rate_limit(2)
        answers = [post(server, f"943/views/{VIEW}") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 500]
        assert answers[2].json()["message"] == "429 Too Many Requests: 2 per 1 minute"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        url = f"{server.url}/materialize/api/v3/datastack/minnie65_public"
        metadata = f"{url}/version/943/views/{VIEW}/metadata"
        for address, statuses in ((f"{url}/versions", [200] * 3), (metadata, [200, 200, 500])):
            found = [requests.get(address, headers=headers, timeout=20).status_code for _ in range(3)]
            assert found == statuses
        assert post(server, f"943/table/{NUCLEI}").status_code == 200
        clock.now += 59
        assert post(server, f"943/views/{VIEW}").status_code == 500
        clock.now += 1
        assert post(server, f"943/views/{VIEW}").status_code == 200
        server.rate_limit(None)
        assert [post(server, f"943/views/{VIEW}").status_code for _ in range(4)] == [200] * 4

    def test_rate_limit_of_fast_queries(self, server):
        """Where there is one, versions and the metadata of tables have a limit of their own, each for itself."""
        server.rate_limit(None, fast_per_minute=1)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        url = f"{server.url}/materialize/api/v3/datastack/minnie65_public"
        for path in (
            "versions",
            "metadata",
            "version/943",
            "version/943/tables",
            f"version/943/table/{NUCLEI}/metadata",
        ):
            answers = [requests.get(f"{url}/{path}", headers=headers, timeout=20) for _ in range(2)]
            assert [answer.status_code for answer in answers] == [200, 500]
            assert answers[1].json()["message"] == "429 Too Many Requests: 1 per 1 minute"
        assert [post(server, f"943/views/{VIEW}").status_code for _ in range(3)] == [200] * 3


class TestLife:
    """The server as a part of a process."""

    def test_many_at_once(self, server):
        """Concurrent queries are all answered, each is noted once, and the record is a copy."""
        before = len(server.requests)
        threads = [threading.Thread(target=post, args=(server, f"943/views/{VIEW}")) for _ in range(20)]
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
