"""Paths and URLs that would lead to another place than is meant."""

from pathlib import Path

import pytest

from somatic.urls import results_fault, url_fault


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("s3:/bucket/x", "s3://bucket/x"),
        ("s3//bucket/x", "s3://bucket/x"),
        ("s3:bucket/x", "s3://bucket/x"),
        ("s3:///bucket/x", "s3://bucket/x"),
        ("S3://bucket/x", "s3://bucket/x"),
        (" s3://bucket/x", "s3://bucket/x"),
        ("s3 ://bucket/x", "s3://bucket/x"),
        ("gs:/bucket", "gs://bucket"),
        ("GS:/bucket", "gs://bucket"),
        ("gs//bucket", "gs://bucket"),
        ("file:/data/x", "file:///data/x"),
        ("FILE:///data/x", "file:///data/x"),
        ("https:/host/x", "https://host/x"),
        ("Https://host/x", "https://host/x"),
        ("precomputed:/gs://bucket/x", "precomputed://gs://bucket/x"),
        ("graphene:https://host/x", "graphene://https://host/x"),
        ("middleauth+https:/host/x", "middleauth+https://host/x"),
        ("s3:\\\\bucket", "s3://bucket"),
    ],
)
def test_a_url_that_is_misspelt(text: str, meant: str) -> None:
    """It is not taken for a folder of this name, and what is meant is named."""
    for fault in (url_fault(text), results_fault(text)):
        assert fault
        assert fault.startswith(f"not a valid URL; did you mean {meant}?")


@pytest.mark.parametrize("text", ["s3:", "s3:/", "s3://", "https://", "gs:///"])
def test_a_url_of_nothing(text: str) -> None:
    """A URL without a bucket or host says that it lacks one."""
    assert "names no bucket or host; write " in (url_fault(text) or "")


def test_what_may_be_a_password_is_not_repeated() -> None:
    """Credentials in a URL stay out of the message, also where the URL is misspelt."""
    assert url_fault("s3:/key:hunter2@bucket/x") == "not a valid URL; did you mean s3://...?"


@pytest.mark.parametrize("text", ["memory://x", "MEMORY://x", "memory:/x", "memory:///x", "data:/x"])
def test_a_place_that_does_not_last(text: str) -> None:
    """Results are refused where nothing would be left of them."""
    assert "outlives the process; choose a folder or a URL such as s3://" in (results_fault(text) or "")


def test_homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The home of this user is a place, that of a user who does not exist would be a folder named after it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert url_fault("~/x") is None
    assert url_fault("~") is None
    fault = url_fault("~nobody-at-all/x")
    assert fault == (
        "~nobody-at-all has no home folder; write the whole path, or ./~nobody-at-all for a folder of this name"
    )


@pytest.mark.parametrize(
    "text",
    [
        *("results", "./results", "../results", "/data/results", "a/b", "results//x", "root//x", "data//x", "s3/x", ""),
        *("C:/results", "run:1/x", "2024-05-01T10:00/x", "./s3:/bucket", "./~somebody", "data:2024/x", "memory/x"),
        *("s3://bucket", "s3://bucket/x//y", "s3a://bucket/x", "gs://bucket/x", "https://host/x?a=b:/c", "abfs://c/x"),
        *("file:///data/x", "file://data/x", "local://data", "hdfs:///x", "sftp://host/x", "tables with spaces.csv"),
        *("precomputed://gs://bucket/x", "graphene://https://host/x", "precomputed://middleauth+https://host/x"),
    ],
)
def test_places_as_they_are_written(text: str) -> None:
    """Folders with colons or doubled slashes, and URLs of every kind, are taken as they are."""
    assert url_fault(text) is None
    assert results_fault(text) is None
