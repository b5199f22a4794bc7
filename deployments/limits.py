"""The limits on requests to CAVE that all jobs share."""

from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.exceptions import ObjectNotFound

from deployments.change import Change
from somatic.dataset import load_dataset
from tasks.limits import SLOTS, SLOTS_PER_S, limit_name


def cave_servers(definitions: list[dict[str, Any]]) -> list[str]:
    """CAVE servers of the datasets that are deployed, each once.

    Raises
    ------
    DatasetError
        There is no such dataset, or its file is wrong.
    """
    names = dict.fromkeys(definition["parameters"]["dataset"] for definition in definitions)
    sources = (load_dataset(name).cave for name in names)
    return list(dict.fromkeys(source.server for source in sources if source))


def apply_limit(client: SyncPrefectClient, server: str, *, dry_run: bool) -> Change:
    """Make the limit for a CAVE server; one that is there stays as it is, since people adapt it to what CAVE grants."""
    name = limit_name(server)
    what = f"limit {name}"
    try:
        client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        if not dry_run:
            client.create_global_concurrency_limit(
                GlobalConcurrencyLimitCreate(name=name, limit=SLOTS, slot_decay_per_second=SLOTS_PER_S)
            )
        return Change(what, "created", (f"{SLOTS} requests at once, {SLOTS_PER_S:g} a second",))
    return Change(what, "left")
