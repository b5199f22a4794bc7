"""The Prefect server of the tests, empty before each of them, and ways to bring the deployments to it."""

import json
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

os.environ |= {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}  # before Prefect is imported

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.schemas.automations import AutomationCore
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect.testing.cli import invoke_and_assert

from deployments.apply import apply
from deployments.change import Change

IMAGE = "registry.example.org/lab/somatic:0.1.0"
Deploy = Callable[..., list[Change]]
EVERYTHING = [
    "work pool somatic",
    "work queue extractions",
    "work queue shards",
    "variable somatic_results",
    "block s3-bucket/somatic-results",
    "deployment extract/minnie65",
    "deployment extract-shard/minnie65",
    "deployment watch/minnie65",
    "limit cave-global-daf-apis-com",
    "automation 'somatic: silent runs have crashed'",
    "automation 'somatic: extractions that were killed'",
    "automation 'somatic: killed extractions start again'",
]
"""What a deployment for a cluster brings."""


@pytest.fixture(scope="session", autouse=True)
def _prefect(prefect_api_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let this process, and commands that it starts, use the server of the tests."""
    home = tmp_path_factory.mktemp("prefect-home")
    with (
        temporary_settings({PREFECT_API_URL: prefect_api_url, PREFECT_HOME: home}),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("PREFECT_API_URL", prefect_api_url)
        patch.setenv("PREFECT_HOME", str(home))
        yield


def clean(client: SyncPrefectClient) -> None:
    """Take everything off the server that a deployment brings there."""
    for pool in client.read_work_pools():
        client.delete_work_pool(pool.name)
    for deployment in client.read_deployments():
        client.delete_deployment(deployment.id)
    for automation in client.read_automations():
        client.delete_automation(automation.id)
    for block in client.read_block_documents():
        client.delete_block_document(block.id)
    for variable in client.read_variables():
        client.delete_variable_by_name(variable.name)
    for limit in client.read_global_concurrency_limits(limit=200):
        client.delete_global_concurrency_limit_by_name(limit.name)


def bring(client: SyncPrefectClient, pool: str = "somatic", pool_type: str = "kubernetes", **said: Any) -> list[Change]:
    """Bring everything to the server; what is not said is as it was."""
    nothing = {"job_variables": {}, "results": None, "shards": None, "webhook": None, "dry_run": False}
    return list(apply(client, pool=pool, pool_type=pool_type, **(nothing | said)))  # type: ignore[arg-type]


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    """A client of the server, which has nothing on it."""
    with get_client(sync_client=True) as client:
        clean(client)
        yield client


@pytest.fixture
def deploy(client: SyncPrefectClient) -> Deploy:
    """`bring` with the client."""
    return partial(bring, client)


@pytest.fixture
def deployed(deploy: Deploy) -> Deploy:
    """The same, after a first time, so that nothing needs to be said."""
    deploy(job_variables={"image": IMAGE}, results="file:///results")  # a block would take a second
    return deploy


def hasten(client: SyncPrefectClient, automation: AutomationCore) -> None:
    """Bring an automation to the least time that Prefect takes, ten seconds."""
    [there] = client.read_automations_by_name(automation.name)
    trigger = there.trigger.model_copy(update={"within": timedelta(seconds=10)})
    client.update_automation(there.id, automation.model_copy(update={"trigger": trigger}))


def prefect(*arguments: str) -> None:
    """Run the command `prefect` in this process, which is seconds faster than in one of its own; it must end well."""
    invoke_and_assert(list(arguments), expected_code=0)


def everything_on(client: SyncPrefectClient) -> str:
    """All that the server says, without when something was looked at."""
    things = [
        *client.read_work_pools(),
        *(client.read_work_queues(work_pool_name=pool.name) for pool in client.read_work_pools()),
        *client.read_deployments(),
        *client.read_automations(),
        *client.read_block_documents(include_secrets=True),
        *client.read_variables(),
        *client.read_global_concurrency_limits(limit=200),
    ]
    dumped = [[one.model_dump(mode="json") for one in (each if isinstance(each, list) else [each])] for each in things]
    return json.dumps(dumped, default=str)
