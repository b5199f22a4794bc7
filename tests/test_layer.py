"""Opening a layer: what cannot be opened is one line that says what, where and why, of the right class."""

import json
import re
import socket
from pathlib import Path

import numpy as np
import pytest
from cloudvolume import CloudVolume
from file_server import FileServer, fast_http  # noqa: F401
from volumes import put_sharded_volume, put_volume

from somatic.cutout import Segmentation
from somatic.errors import SegmentationError, SegmentationUnavailable

LABELS = np.ones((20, 20, 20), np.uint64)


def refused(url: str, mip: int = 0) -> str:
    """Text of the permanent error that opening gives; one line, and names the layer."""
    with pytest.raises(SegmentationError) as caught:
        Segmentation(url, mip)
    text = str(caught.value)
    assert "\n" not in text
    assert "\x1b" not in text
    assert url in text
    return text


def test_no_such_layer(tmp_path: Path) -> None:
    """A folder that is not there, and one that holds something else."""
    assert "no Precomputed layer" in refused(f"precomputed://file://{tmp_path}/nothing")
    (tmp_path / "file").write_text("x")
    assert "no Precomputed layer" in refused(f"precomputed://file://{tmp_path}")


def test_no_such_mip(tmp_path: Path) -> None:
    """Those that exist are named, with their resolution."""
    volume = CloudVolume(put_volume(tmp_path, LABELS, resolution_nm=(8, 8, 40)), progress=False)
    volume.add_scale((2, 2, 1))
    volume.commit_info()
    text = refused(f"precomputed://file://{tmp_path}", 3)
    assert "mip 3" in text
    assert "0 (8x8x40 nm), 1 (16x16x40 nm)" in text
    Segmentation(f"precomputed://file://{tmp_path}", 1)


def test_a_layer_that_would_get_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """cloud-files would send a token of this machine to whatever host such a URL names: it is refused before."""
    secrets = tmp_path / ".cloudvolume/secrets"
    secrets.mkdir(parents=True)
    (secrets / "cave-secret.json").write_text('{"token": "secret"}')
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("a host was looked up"))
    assert "not a Precomputed layer" in refused("precomputed://middleauth+https://evil.example/layer")


def test_an_image_is_no_segmentation(tmp_path: Path) -> None:
    """A layer of grey values is refused, whatever its values."""
    assert "'image'" in refused(put_volume(tmp_path, LABELS.astype(np.uint8), layer_type="image"))


@pytest.mark.parametrize(
    "url",
    [
        "n5://file:///a/x",
        "zarr://file:///a/x",
        "precomputed://gopher://host/x",
        "minnie65",
        "nonsense://x",
    ],
)
def test_what_is_not_precomputed(url: str) -> None:
    """Other formats, stores and mere names are refused without asking anybody."""
    assert "Precomputed" in refused(url)


@pytest.mark.parametrize("content", ["", "<html>", "[1]", "{}", '{"scales": []}', "cut"])
def test_a_broken_info_file(tmp_path: Path, content: str) -> None:
    """An info file that does not parse or lacks its parts is permanent."""
    url = put_volume(tmp_path, LABELS)
    info = tmp_path / "info"
    info.write_text(info.read_text()[:100] if content == "cut" else content)
    refused(url)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("data_type", "float32", "float32"),
        ("data_type", "int64", "int64"),
        ("data_type", "banana", "banana"),
        ("num_channels", 3, "3 channels"),
        ("encoding", "jpeg", "jpeg"),
        ("encoding", "fpzip", "fpzip"),
    ],
)
def test_a_layer_that_holds_no_labels(tmp_path: Path, key: str, value: object, text: str) -> None:
    """Types and encodings that cannot hold ids are refused when the layer is opened, not cell by cell."""
    url = put_volume(tmp_path, LABELS)
    info = json.loads((tmp_path / "info").read_text())
    (info["scales"][0] if key == "encoding" else info)[key] = value
    (tmp_path / "info").write_text(json.dumps(info))
    assert text in refused(url)


@pytest.mark.usefixtures("fast_http")
@pytest.mark.parametrize("is_sharded", [False, True])
@pytest.mark.parametrize("on_disk", [True, False])
def test_infos_as_others_write_them(tmp_path: Path, is_sharded: bool, on_disk: bool) -> None:
    """Without what the format lets out, and with a folder named by decimal numbers."""
    labels = np.arange(1, 1 + 20**3, dtype=np.uint64).reshape(20, 20, 20)
    if is_sharded:
        put_sharded_volume(tmp_path / "seg", labels, data_encoding="raw", index_encoding="raw")
    else:
        put_volume(tmp_path / "seg", labels)
    info = json.loads((tmp_path / "seg" / "info").read_text())
    [scale] = info["scales"]
    for key in ("data_encoding", "minishard_index_encoding"):
        scale.get("sharding", {}).pop(key, None)
    del scale["voxel_offset"]
    (tmp_path / "seg" / scale["key"]).rename(tmp_path / "seg" / "256.0x256.0x200.0")
    scale["key"] = "256.0x256.0x200.0"
    (tmp_path / "seg" / "info").write_text(json.dumps({"@type": "neuroglancer_multiscale_volume", **info}))
    with FileServer(tmp_path) as server:
        url = f"precomputed://file://{tmp_path}/seg" if on_disk else server.url("seg")
        segmentation = Segmentation(url, 0)
        for voxel in ((0, 0, 0), (19, 3, 17)):
            assert segmentation.label_at(np.array(voxel) * (256, 256, 200)) == labels[voxel]


@pytest.mark.usefixtures("fast_http")
def test_redirects(tmp_path: Path) -> None:
    """An info file may name another place on the web, of whichever the files are read; no folder, and no circle."""
    put_volume(tmp_path / "seg", LABELS)
    with FileServer(tmp_path) as server:

        def redirected(name: str, target: str) -> str:
            (tmp_path / name).mkdir()
            (tmp_path / name / "info").write_text(json.dumps({"redirect": target}))
            return server.url(name)

        assert Segmentation(redirected("a", server.url("seg")), 0).label_at(np.array((5, 5, 5))) == 1
        assert Segmentation(redirected("b", server.url("a")), 0).label_at(np.array((5, 5, 5))) == 1
        redirected("c", server.url("d"))
        assert "in a circle" in refused(redirected("d", server.url("c")))
        assert "not on the web" in refused(redirected("e", f"precomputed://file://{tmp_path}/seg"))


@pytest.mark.usefixtures("fast_http")
def test_nobody_answers() -> None:
    """A port that nobody listens on may be there again later."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(SegmentationUnavailable, match=re.escape(f"127.0.0.1:{port}")) as caught:
        Segmentation(f"precomputed://http://127.0.0.1:{port}/seg", 0)
    assert "\n" not in str(caught.value)
