"""Everything that somatic needs on a Prefect server, one thing after the other."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient

from deployments.automations import (
    apply_automation,
    failed_extractions,
    killed_extractions,
    restarted_extractions,
    silent_runs,
)
from deployments.blocks import (
    RESULTS_BLOCK,
    WEBHOOK_BLOCK,
    apply_block,
    block_id,
    results_block,
    results_environment,
    webhook_block,
)
from deployments.change import Change
from deployments.definitions import apply_deployment, apply_results, read_definitions, read_results
from deployments.limits import apply_limit, cave_servers
from deployments.pool import PoolType, apply_pool, apply_queue, defaults_of, read_pool
from somatic.errors import PermanentError

SHARDS_QUEUE = "shards"
_FIRST_SHARDS: dict[PoolType, int] = {"kubernetes": 20, "process": 1}


def apply(
    client: SyncPrefectClient,
    *,
    pool: str,
    pool_type: PoolType,
    job_variables: dict[str, Any],
    results: str | None,
    shards: int | None,
    webhook: str | None,
    dry_run: bool,
) -> Iterator[Change]:
    """Bring a Prefect server to what the files here say; what is None stays as the server has it.

    Parameters
    ----------
    client : SyncPrefectClient
    pool, pool_type : str
        The work pool.
    job_variables : dict
        What variables of all jobs are set to; None brings back what the template says.
    results : str, optional
        Where results go.
    shards : int, optional
        So many shards at most run at once.
    webhook : str, optional
        Address that is told of failed extractions.
    dry_run : bool
        Change nothing.

    Yields
    ------
    Change
        What became of each thing, when it has.

    Raises
    ------
    PermanentError
        Something is missing or cannot be; nothing has been changed.
    """
    existing = read_pool(client, pool, pool_type)
    before = defaults_of(existing) if existing else {}
    if pool_type == "kubernetes" and not job_variables.get("image", before.get("image")):
        raise PermanentError("which image shall the jobs have? Say it once with --image REGISTRY/somatic:TAG")
    results = results or read_results(client)
    check_results(results, pool_type)
    definitions = read_definitions()
    servers = cave_servers(definitions)
    block = results_block(results)
    environment = results_environment(block, job_variables.get("env", before.get("env")) or {})

    yield apply_pool(client, pool, pool_type, existing, job_variables | {"env": environment}, dry_run=dry_run)
    for queue in dict.fromkeys(definition["work_pool"]["work_queue_name"] for definition in definitions):
        limit, first = (shards, _FIRST_SHARDS[pool_type]) if queue == SHARDS_QUEUE else (None, None)
        yield apply_queue(client, pool, queue, limit, first, dry_run=dry_run)
    yield apply_results(client, results, dry_run=dry_run)
    if block is not None:
        yield apply_block(client, block, RESULTS_BLOCK, dry_run=dry_run)
    for definition in definitions:
        yield apply_deployment(client, definition, pool, results, dry_run=dry_run)
    for server in servers:
        yield apply_limit(client, server, dry_run=dry_run)
    for automation in (silent_runs(), killed_extractions(), restarted_extractions()):
        yield apply_automation(client, automation, dry_run=dry_run)

    teller = webhook_block(webhook or "")
    if webhook:
        yield apply_block(client, teller, WEBHOOK_BLOCK, dry_run=dry_run)
    known = block_id(client, type(teller), WEBHOOK_BLOCK)
    if known or webhook:
        # Only in a dry run is there no block yet.
        yield apply_automation(client, failed_extractions(known or UUID(int=0)), dry_run=dry_run)


def check_results(url: str, pool_type: PoolType) -> None:
    """See that what jobs write there outlives them.

    Raises
    ------
    PermanentError
        Says why not.
    """
    if not url:
        raise PermanentError(
            "where shall results go? Say it once with --to, for example --to s3://my-bucket/somatic: what a job writes "
            "to its own disk is gone with it"
        )
    if pool_type == "kubernetes" and not urlsplit(url).scheme:
        raise PermanentError(
            f"results cannot go to {url}, which is gone with the pod: give a URL with --to, such as "
            "s3://my-bucket/somatic, or file:///folder for a volume that the jobs mount"
        )
