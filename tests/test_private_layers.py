"""Layers in buckets that refuse unsigned requests: read with the user's credentials, and only when told to."""

import json
import os
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import requests
import trimesh
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from file_server import FileServer, fast_http  # noqa: F401
from private_buckets import SECRET, files_of, is_signed, put_in_s3
from s3_proxy import S3Proxy
from volumes import put_nuclei, put_sharded_volume, put_volume

from somatic.cell import Cell
from somatic.cutout import Segmentation
from somatic.errors import MissingNucleusMesh, RefusedLayer, SegmentationError
from somatic.nucleus import NucleusLayer
from somatic.volume.access import Access
from somatic.workers.isolation import extract_cells_apart
from somatic.workers.measuring import Inputs

LABELS = np.kron(np.random.default_rng(0).integers(1, 4, (13, 10, 8)), np.ones((4, 4, 4), int)).astype(np.uint64)
LABELS[:16, :16, :16] = 0
NUCLEUS = 2**53 + 3
USER = Access(credentials=True)
PAYER = Access(credentials=True, requester_pays=True)

pytestmark = pytest.mark.usefixtures("fast_http")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels gzipped in files and in shards, without those that are empty, and a nucleus."""
    folder = tmp_path_factory.mktemp("private")
    put_volume(folder / "files", LABELS, gzip=True, file_shape=(16, 16, 16), encoding="compressed_segmentation")
    put_sharded_volume(folder / "shards", LABELS)
    put_nuclei(folder / "nuclei", {NUCLEUS: [trimesh.creation.icosphere(2, 5000)]})
    return folder


@pytest.fixture(scope="module")
def s3_bucket(s3_endpoint: str, folder: Path) -> str:
    """Name of a bucket that holds the layers."""
    name = f"private-{uuid.uuid4().hex[:8]}"
    put_in_s3(s3_endpoint, name, folder)
    return name


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Proxy]:
    """The S3 server behind a proxy that refuses requests without a signature; the environment has the credentials."""
    with S3Proxy(s3_endpoint) as proxy:
        proxy.allows = is_signed
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        yield proxy


class Tokens(BaseHTTPRequestHandler):
    """Google's token server: whoever has the key of a service account gets a token."""

    def do_POST(self) -> None:
        """Give a token."""
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"access_token": SECRET, "expires_in": 3600, "token_type": "Bearer"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def service_account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file of credentials as Google gives them out, for a token server on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Tokens)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path_factory.mktemp("google") / "account.json"
    account = {
        "type": "service_account",
        "project_id": "the-project",
        "private_key_id": "1",
        "private_key": key.decode(),
        "client_email": "reader@the-project.iam.gserviceaccount.com",
        "token_uri": f"http://127.0.0.1:{server.server_port}/token",
    }
    path.write_text(json.dumps(account))
    yield path
    server.shutdown()
    server.server_close()


@pytest.fixture
def gs(gs_endpoint: str, folder: Path, service_account: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Proxy]:
    """The same for Google's storage, with the credentials that GOOGLE_APPLICATION_CREDENTIALS names."""
    for key, content, _ in files_of(folder):
        address = f"{gs_endpoint}/upload/storage/v1/b/somatic/o?uploadType=media&name=lab/{key}"
        requests.post(address, data=content, timeout=60).raise_for_status()
    with S3Proxy(gs_endpoint) as proxy:
        proxy.allows = lambda _path, headers: headers.get("authorization") == f"Bearer {SECRET}"
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.endpoint)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(service_account))
        monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
        yield proxy


@pytest.fixture(params=["s3", "gs"])
def store(request: pytest.FixtureRequest) -> S3Proxy:
    """Either of them."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """Where the layers are in the store of the test."""
    if request.node.callspec.params["store"] == "s3":
        return f"precomputed://s3://{request.getfixturevalue('s3_bucket')}/lab"
    return "precomputed://gs://somatic/lab"


@pytest.mark.parametrize("kind", ["files", "shards"])
def test_labels_are_read_with_credentials(store: S3Proxy, url: str, kind: str) -> None:
    """Every voxel, every request signed, and the file that is not there is background."""
    segmentation = Segmentation(f"{url}/{kind}", 0, access=USER)
    cutout = segmentation.read(segmentation.bounds, 2)
    np.testing.assert_array_equal(cutout.mask.to_array(), LABELS == 2)
    assert cutout.n_unlabelled == 16**3
    assert store.requests
    assert all("authorization" in headers for _, headers in store.requests)
    assert not any("requester" in str(headers) for _, headers in store.requests)


@pytest.mark.usefixtures("store")
def test_nuclei_are_read_with_credentials(url: str) -> None:
    """The mesh, and that another nucleus has none."""
    nuclei = NucleusLayer(f"{url}/nuclei", USER)
    assert nuclei.mesh(NUCLEUS).is_watertight
    with pytest.raises(MissingNucleusMesh):
        nuclei.mesh(NUCLEUS + 1)


def test_credentials_that_are_refused(store: S3Proxy, url: str) -> None:
    """One line, permanent, that names the layer and what to check; tried once, and no secret in it."""
    store.allows = lambda _path, _headers: False
    for layer in (lambda: Segmentation(f"{url}/files", 0, access=USER), lambda: NucleusLayer(f"{url}/nuclei", USER)):
        store.requests.clear()
        with pytest.raises(RefusedLayer, match=r"^[^\n]*HTTP 403[^\n]*credentials[^\n]*$") as caught:
            layer()
        assert url in str(caught.value)
        assert SECRET not in str(caught.value)
        assert len(store.requests) == 1


def test_a_refused_file_is_never_a_hole_with_credentials(store: S3Proxy, url: str) -> None:
    """Whoever may not list a bucket gets 403 for a missing file: that is said, and is not background."""
    segmentation = Segmentation(f"{url}/files", 0, access=USER)
    store.hides_missing = True
    with pytest.raises(RefusedLayer, match="0-16_0-16_0-16 .*HTTP 403.*list its bucket"):
        segmentation.read(segmentation.bounds, 2)


def test_a_busy_store_is_tried_again(store: S3Proxy, url: str) -> None:
    """Four answers of 503 cost nothing but time."""
    segmentation = Segmentation(f"{url}/files", 0, access=USER)
    store.busy, store.refuses = True, 4
    cutout = segmentation.read(segmentation.bounds, 2)
    np.testing.assert_array_equal(cutout.mask.to_array(), LABELS == 2)


@pytest.mark.parametrize("kind", ["files", "shards"])
def test_the_requester_pays(store: S3Proxy, url: str, kind: str) -> None:
    """Every request says so, in the words of the store; without it the store refuses."""
    name, value = ("x-amz-request-payer", "requester") if "s3://" in url else ("x-goog-user-project", "the-project")
    signed = store.allows
    store.allows = lambda path, headers: signed(path, headers) and headers.get(name) == value
    segmentation = Segmentation(f"{url}/{kind}", 0, access=PAYER)
    cutout = segmentation.read(segmentation.bounds, 2)
    np.testing.assert_array_equal(cutout.mask.to_array(), LABELS == 2)
    assert NucleusLayer(f"{url}/nuclei", PAYER).mesh(NUCLEUS).is_watertight
    with pytest.raises(RefusedLayer):
        Segmentation(f"{url}/{kind}", 0, access=USER)


def test_without_credentials_nothing_is_signed(s3: S3Proxy, s3_bucket: str) -> None:
    """A private bucket at a server of one's own, read anonymously: refused, with where to read about credentials."""
    url = f"precomputed://s3://{s3.endpoint}/{s3_bucket}/lab/files"
    with pytest.raises(RefusedLayer, match="private.*docs/datasets.md"):
        Segmentation(url, 0)
    assert all("authorization" not in headers for _, headers in s3.requests)
    s3.allows = lambda _path, headers: "authorization" not in headers
    assert Segmentation(url, 0).label_at(np.array((20, 20, 20)) * (256, 256, 200)) == LABELS[20, 20, 20]


def test_a_profile(s3: S3Proxy, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Endpoint and keys of a profile, as the AWS command has them."""
    (tmp_path / "config").write_text(
        f"[profile lab]\nregion = eu-central-1\nendpoint_url = {s3.endpoint}\n"
        f"aws_access_key_id = of-the-lab\naws_secret_access_key = {SECRET}\n"
    )
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    url = f"s3://{s3_bucket}/lab/files"
    assert Segmentation(url, 0, access=USER).label_at(np.array((20, 20, 20)) * (256, 256, 200)) == LABELS[20, 20, 20]
    assert all("Credential=of-the-lab/" in headers["authorization"] for _, headers in s3.requests)
    assert all("/eu-central-1/s3/" in headers["authorization"] for _, headers in s3.requests)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(SegmentationError, match=r"^s3://.*profile \(nobody\)[^\n]*$"):
        Segmentation(url, 0, access=USER)


@pytest.mark.usefixtures("s3")
def test_no_credentials(s3_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One line that says what to set, before anything is requested."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(SegmentationError, match=r"^no credentials for s3://[^\n]*AWS_PROFILE[^\n]*$"):
        Segmentation(f"s3://{s3_bucket}/lab/files", 0, access=USER)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "nothing.json"))
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    with pytest.raises(SegmentationError, match=r"^no credentials for gs://[^\n]*GOOGLE_APPLICATION_CREDENTIALS"):
        Segmentation("gs://somatic/lab/files", 0, access=USER)


def test_a_web_server_with_a_login(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry of ~/.netrc for the host, where the layer says so; else nobody is told who reads."""
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login me password {SECRET}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with FileServer(folder) as server, S3Proxy(server.url().removeprefix("precomputed://")) as proxy:
        url = f"precomputed://{proxy.endpoint}/files"
        proxy.allows = lambda _path, headers: headers.get("authorization", "").startswith("Basic ")
        point = np.array((20, 20, 20)) * (256, 256, 200)
        assert Segmentation(url, 0, access=USER).label_at(point) == LABELS[20, 20, 20]
        proxy.requests.clear()
        with pytest.raises(RefusedLayer, match="not public"):
            Segmentation(url, 0)
        assert [headers.get("authorization") for _, headers in proxy.requests] == [None]


def test_plain_http_gets_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name and a password would travel in plain text."""
    monkeypatch.setattr("requests.adapters.HTTPAdapter.send", lambda *_, **__: pytest.fail("something was sent"))
    with pytest.raises(SegmentationError, match="plain text"):
        Segmentation("precomputed://http://example.org/seg", 0, access=USER)


def test_a_bucket_that_does_not_exist(s3: S3Proxy) -> None:
    """It is not a layer without an info file."""
    with pytest.raises(RefusedLayer, match="NoSuchBucket"):
        Segmentation("s3://no-such-bucket/lab/files", 0, access=USER)
    assert s3.requests


def test_in_a_process_of_its_own(s3: S3Proxy, s3_bucket: str) -> None:
    """A worker finds the credentials in its environment; what it is sent says only that it has to."""
    assert s3.requests == []
    inputs = Inputs(
        f"s3://{s3_bucket}/lab/files",
        0,
        radius_nm=2000,
        materialization_version=0,
        definitions="published",
        nuclei_url=f"s3://{s3_bucket}/lab/nuclei",
        segmentation_access=USER,
        nuclei_access=USER,
    )
    assert SECRET not in repr(inputs)
    cell = Cell(NUCLEUS, 2, (26, 20, 16), (256, 256, 200))
    [result] = extract_cells_apart([cell], inputs)
    assert result.row["nucleus_volume_um"] == pytest.approx(4 / 3 * np.pi * 125, rel=0.1)
    assert result.segmentation_files
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == SECRET
