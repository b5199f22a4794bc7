"""The blocks: where Prefect keeps what tasks return, and whom it tells of failures."""

from typing import cast
from urllib.parse import urlsplit
from uuid import UUID

from prefect.blocks.core import Block
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound
from prefect.filesystems import RemoteFileSystem
from prefect.types import SecretDict
from prefect_aws import S3Bucket

from deployments.change import Change, changed

RESULTS_BLOCK = "somatic-results"
WEBHOOK_BLOCK = "somatic-failures"
# Below the place for results. Whoever can write there can run code in the pods, since Prefect reads an object as the
# object itself says that it must be read.
_RESULTS_FOLDER = ".prefect"


def results_block(url: str) -> Block | None:
    """Make the block for what tasks return, below a place for results; None for a folder, where Prefect needs none.

    It holds no credentials: pods have those of their role or of their environment, and so has the endpoint.
    """
    place = urlsplit(url)
    if place.scheme == "s3":
        folder = f"{place.path.strip('/')}/{_RESULTS_FOLDER}".strip("/")
        return S3Bucket(bucket_name=place.netloc, bucket_folder=folder)
    if place.scheme in ("", "file"):
        return None
    return RemoteFileSystem(basepath=f"{url.rstrip('/')}/{_RESULTS_FOLDER}")


def results_environment(block: Block | None, environment: dict[str, str]) -> dict[str, str] | None:
    """Make the environment that tells jobs of that block; None where nothing is left in it."""
    settings = {
        "PREFECT_DEFAULT_RESULT_STORAGE_BLOCK": f"{block.get_block_type_slug()}/{RESULTS_BLOCK}" if block else None,
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json" if block else None,
    }
    return {name: value for name, value in (environment | settings).items() if value is not None} or None


def webhook_block(url: str) -> CustomWebhookNotificationBlock:
    """Make the block that tells of failures: {"text": ...}, which Slack, Mattermost and Teams understand.

    The address is a secret of its own, since whoever knows it can write to that channel.
    """
    return CustomWebhookNotificationBlock(
        name="somatic",
        headers=None,
        cookies=None,
        url="{{ url }}",
        json_data={"text": "{{ subject }}\n{{ body }}"},
        secrets=SecretDict({"url": url}),
    )


def block_id(client: SyncPrefectClient, kind: type[Block], name: str) -> UUID | None:
    """Id of a block, or None where there is none of that name."""
    try:
        return client.read_block_document_by_name(name, kind.get_block_type_slug()).id
    except ObjectNotFound:
        return None


def apply_block(client: SyncPrefectClient, block: Block, name: str, *, dry_run: bool) -> Change:
    """Save a block, unless it stands there already."""
    what = f"block {block.get_block_type_slug()}/{name}"
    if block_id(client, type(block), name) is None:
        if not dry_run:
            block.save(name)
        return Change(what, "created")
    before = cast(Block, type(block).load(name))
    have, want = before.model_dump(), block.model_dump()
    details = [field for field in want if have.get(field) != want[field]]
    if details and not dry_run:
        block.save(name, overwrite=True)
    return changed(what, details)
