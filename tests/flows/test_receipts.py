"""What Prefect keeps of chunks where `somatic deploy` gave it a place: receipts for people, and no second ledger."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest
from extracting import Results, run
from prefect.settings import PREFECT_DEFAULT_RESULT_STORAGE_BLOCK, temporary_settings

from deployments.blocks import RESULTS_BLOCK, results_block

pytestmark = pytest.mark.usefixtures("no_report")


@pytest.fixture
def place(s3_url: str) -> Iterator[str]:
    """A place for results in a bucket, with the block for it, as in the jobs of a cluster."""
    url = f"{s3_url}/{uuid.uuid4().hex}"
    block = results_block(url)
    assert block
    block.save(RESULTS_BLOCK, overwrite=True)
    with temporary_settings({PREFECT_DEFAULT_RESULT_STORAGE_BLOCK: f"s3-bucket/{RESULTS_BLOCK}"}):
        yield url


def stored(url: str) -> dict[str, bytes]:
    """Name and content of what Prefect keeps below a place for results."""
    place = urlsplit(url)
    bucket = boto3.resource("s3").Bucket(place.netloc)
    prefix = f"{place.path.strip('/')}/.prefect/"
    return {
        found.key.removeprefix(prefix): found.get()["Body"].read() for found in bucket.objects.filter(Prefix=prefix)
    }


def test_a_receipt_a_chunk(place: str, dataset: Path, undisturbed: Results) -> None:
    """Each chunk has one, JSON, named by dataset, version, configuration and cells; the table is the same."""
    assert run(dataset, place).is_completed()
    results = Results(place)
    assert results.features == undisturbed.features
    receipts = stored(place)
    config = results.store.url.rpartition("/")[2]
    of_cells = {name for name, nuclei in results.chunks.items() if len(nuclei) == 3 and not is_skipped(results, nuclei)}
    assert set(receipts) == {f"phantom-v1-{config}-{name.removesuffix('.parquet')}" for name in of_cells}
    counted = [json.loads(json.loads(content)["result"]) for content in receipts.values()]
    assert sorted(count["chunk"] for count in counted) == [0, 1, 2, 3]
    assert sum(count.get("ok", 0) for count in counted) == 11
    assert sum(count.get("failed", 0) for count in counted) == 1
    for content in receipts.values():
        assert json.loads(content)["metadata"]["serializer"]["type"] == "json"


def is_skipped(results: Results, nuclei: list[int]) -> bool:
    """Whether these are nuclei without a root."""
    return bool((results.table.loc[nuclei, "status"] == "skipped").all())


def test_receipts_decide_nothing(place: str, dataset: Path, undisturbed: Results) -> None:
    """A chunk file that was deleted is measured again although there is a receipt; one without a receipt is done."""
    assert run(dataset, place).is_completed()
    results = Results(place)
    gone = next(name for name, nuclei in results.chunks.items() if not is_skipped(results, nuclei))
    place_of = urlsplit(results.store.url)
    bucket = boto3.resource("s3").Bucket(place_of.netloc)
    bucket.Object(f"{place_of.path.strip('/')}/chunks/{gone}").delete()
    assert run(dataset, place).is_completed()
    assert gone in results.chunks
    assert results.features == undisturbed.features

    before = results.chunks
    prefix = f"{urlsplit(place).path.strip('/')}/.prefect/"
    bucket.objects.filter(Prefix=prefix).delete()
    assert run(dataset, place).is_completed()
    assert results.chunks == before
    assert stored(place) == {}


def test_a_place_that_does_not_answer_costs_receipts_only(
    dataset: Path, undisturbed: Results, tmp_path: Path, s3_endpoint: str
) -> None:
    """Where Prefect cannot write a receipt, the chunk is stored all the same and the run is complete."""
    assert s3_endpoint
    block = results_block("s3://no-such-bucket-for-receipts/somatic")
    assert block
    block.save("somatic-nowhere", overwrite=True)
    with temporary_settings({PREFECT_DEFAULT_RESULT_STORAGE_BLOCK: "s3-bucket/somatic-nowhere"}):
        state = run(dataset, tmp_path / "results")
    assert state.is_completed(), state
    assert Results(str(tmp_path / "results")).features == undisturbed.features
