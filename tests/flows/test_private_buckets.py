"""A run on a private bucket of S3, with tables, layers and results in it, at the cost of who runs it."""

import json
import uuid
from collections.abc import Mapping
from pathlib import Path

import boto3
import numpy as np
import pytest
import trimesh
from extracting import run
from private_buckets import SECRET, is_signed, put_in_s3
from s3_proxy import S3Proxy
from volumes import ellipsoid, put_nuclei, put_volume

pytestmark = pytest.mark.usefixtures("no_report")

ROOT = 2**62
NUCLEUS = 2**53 + 3
NM = (256.0, 256.0, 200.0)
KEY = "AKIAOFTHEUSER"


def test_a_run_with_credentials(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is read and written with the user's keys, and they are nowhere in what is left."""
    labels = np.where(ellipsoid((64, 64, 64), NM, (4000, 4000, 4000)), ROOT, 0).astype(np.uint64)
    put_volume(tmp_path / "lab" / "seg", labels, gzip=True, file_shape=(16, 16, 16), encoding="compressed_segmentation")
    ball = trimesh.creation.icosphere(3, 2500)
    ball.apply_translation(np.array((32, 32, 32)) * NM)
    bounds = {"lower_nm": (0, 0, 0), "upper_nm": (16_000, 16_000, 12_000)}
    put_nuclei(tmp_path / "lab" / "nuclei", {NUCLEUS: [ball]}, **bounds)
    header = "id,pt_root_id,pt_position_x,pt_position_y,pt_position_z"
    (tmp_path / "lab" / "nuclei.csv").write_text(f"{header}\n{NUCLEUS},{ROOT},32,32,32\n")
    bucket = f"lab-{uuid.uuid4().hex[:8]}"
    put_in_s3(s3_endpoint, bucket, tmp_path / "lab")
    layer = '{{url = "s3://{}/lab/{}", credentials = true, requester_pays = true}}'
    (tmp_path / "volume.toml").write_text(
        f'name = "mine"\nmip = 0\ncutout_radius_um = 6\nsegmentation = {layer.format(bucket, "seg")}\n'
        f'[files]\nnuclei = "s3://{bucket}/lab/nuclei.csv"\nresolution_nm = {list(NM)}\n'
        f"nucleus_segmentation = {layer.format(bucket, 'nuclei')}\n"
    )

    def is_paid(path: str, headers: Mapping[str, str]) -> bool:
        of_a_layer = "/lab/seg/" in path or "/lab/nuclei/" in path
        return is_signed(path, headers) and (not of_a_layer or headers.get("x-amz-request-payer") == "requester")

    with S3Proxy(s3_endpoint) as proxy:
        proxy.allows = is_paid
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        state = run(tmp_path / "volume.toml", f"s3://{bucket}/results", meshes=True)
        assert state.is_completed(), state
        assert any("/lab/seg/" in path for path, _ in proxy.requests)
        assert all(KEY in headers["authorization"] for _, headers in proxy.requests)

    client = boto3.client("s3", endpoint_url=s3_endpoint)
    left = {
        found["Key"]: client.get_object(Bucket=bucket, Key=found["Key"])["Body"].read()
        for found in client.list_objects_v2(Bucket=bucket, Prefix="results/")["Contents"]
    }
    assert not [name for name, content in left.items() if SECRET.encode() in content or KEY.encode() in content]
    [manifest] = [json.loads(content) for name, content in left.items() if name.endswith("manifest.json")]
    assert manifest["counts"]["ok"] == 1
    assert manifest["dataset"]["segmentation"] == {
        "url": f"precomputed://s3://{bucket}/lab/seg",
        "credentials": True,
        "requester_pays": True,
    }
