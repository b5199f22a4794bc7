"""What tests ask the sandbox's CAVE server, and with which tokens."""

import requests
from caveclient import CAVEclient

ROOT = 864_691_130_000_000_000
BOX = [[162229, 129378, 26244], [169729, 136878, 26994]]
TOKEN, POOR_TOKEN, RUDE_TOKEN = "token-of-the-owner", "token-of-a-guest", "token-without-terms"
SYNAPSES = "synapses_pni_2"
NUCLEI = "nucleus_detection_v0"
VIEW = "nucleus_detection_lookup_v1"


def client_of(server, token=TOKEN, **options):
    """A client of caveclient, with a token."""
    return CAVEclient(
        "minnie65_public", server_address=server.url, auth_token=token, write_server_cache=False, **options
    )


def post(server, path, body=None, token=TOKEN, **params):
    """Answer to a query, as it travels."""
    return requests.post(
        f"{server.url}/materialize/api/v3/datastack/minnie65_public/version/{path}/query",
        json=body or {},
        params={"return_pyarrow": "True"} | params,
        headers={"Authorization": f"Bearer {token}", "Accept-Encoding": "zstd"},
        timeout=20,
    )


def ids(frame):
    """Ids of a frame, sorted."""
    return sorted(int(number) for number in frame["id"])
