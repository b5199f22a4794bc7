"""Layers in buckets of this machine, as cloud-volume would have put them there, and who may read them."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import boto3

SECRET = "wJalrXUtnFEMI/K7MDENG"


def files_of(folder: Path) -> Iterator[tuple[str, bytes, str]]:
    """Key, content and Content-Encoding of the files of a folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            name = str(path.relative_to(folder))
            yield name.removesuffix(".gz"), path.read_bytes(), "gzip" if name.endswith(".gz") else ""


def put_in_s3(endpoint: str, bucket: str, folder: Path, prefix: str = "lab") -> None:
    """Make a bucket that holds a folder; the server lets anybody read, what is before it decides."""
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket=bucket)
    for key, content, encoding in files_of(folder):
        encoded = {"ContentEncoding": encoding} if encoding else {}
        client.put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=content, ACL="public-read", **encoded)


def is_signed(_path: str, headers: Mapping[str, str]) -> bool:
    """Whether a request says who sends it."""
    return bool(headers.get("authorization"))
