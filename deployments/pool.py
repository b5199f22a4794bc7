"""The work pool with its base job template, and its queues."""

import json
from pathlib import Path
from typing import Any, Literal

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

from deployments.change import Change, changed
from somatic.errors import PermanentError

PoolType = Literal["kubernetes", "process"]

_TEMPLATE = Path(__file__).with_name("base-job-template.json")
# Tells a template of ours from the one that a worker makes when it starts before the pool is there.
_OURS = "env_from"


def base_job_template(pool_type: PoolType) -> dict[str, Any]:
    """What a worker makes a job of: for Kubernetes ours, for processes Prefect's own."""
    if pool_type == "process":
        return ProcessWorker.get_default_base_job_template()
    return json.loads(_TEMPLATE.read_text())


def defaults_of(template: dict[str, Any]) -> dict[str, Any]:
    """Values that the job variables of a base job template have when nobody says otherwise."""
    properties = template.get("variables", {}).get("properties", {})
    return {name: schema["default"] for name, schema in properties.items() if schema.get("default") is not None}


def read_pool(client: SyncPrefectClient, name: str, pool_type: PoolType) -> dict[str, Any] | None:
    """Read the base job template of a pool, or None where there is no such pool.

    Raises
    ------
    PermanentError
        The pool is of another type.
    """
    try:
        pool = client.read_work_pool(name)
    except ObjectNotFound:
        return None
    if pool.type != pool_type:
        raise PermanentError(
            f"the work pool {name!r} is of type {pool.type}, not {pool_type}: choose another name with --pool, or "
            f"delete it with: prefect work-pool delete {name}"
        )
    return pool.base_job_template


def apply_pool(
    client: SyncPrefectClient,
    name: str,
    pool_type: PoolType,
    existing: dict[str, Any] | None,
    values: dict[str, Any],
    *,
    dry_run: bool,
) -> Change:
    """Bring a work pool to our base job template.

    What the variables were set to, by an earlier call or in the UI, stays; the rest of the template is ours.

    Parameters
    ----------
    client : SyncPrefectClient
    name, pool_type : str
        The pool.
    existing : dict or None
        Its base job template (`read_pool`).
    values : dict
        What job variables are set to from now on; None brings back what our template says.
    dry_run : bool
        Change nothing.

    Raises
    ------
    PermanentError
        There is no such job variable.
    """
    template = base_job_template(pool_type)
    properties = template["variables"]["properties"]
    if unknown := sorted(values.keys() - properties.keys()):
        raise PermanentError(
            f"a job of type {pool_type} has no variable {unknown[0]!r}; it has {', '.join(properties)}"
        )
    if existing and (pool_type == "process" or _OURS in existing["variables"]["properties"]):
        values = {
            variable: value for variable, value in defaults_of(existing).items() if variable in properties
        } | values
    for variable, value in values.items():
        if value is not None:
            properties[variable]["default"] = value

    if existing is None:
        if not dry_run:
            client.create_work_pool(WorkPoolCreate(name=name, type=pool_type, base_job_template=template))
        return Change(f"work pool {name}", "created", (pool_type,))
    have, want = defaults_of(existing), defaults_of(template)
    details = [variable for variable in properties if have.get(variable) != want.get(variable)]
    if existing != template and not details:
        details = ["base job template"]
    if details and not dry_run:
        client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))
    return changed(f"work pool {name}", details)


def apply_queue(
    client: SyncPrefectClient, pool: str, name: str, limit: int | None, first_limit: int | None, *, dry_run: bool
) -> Change:
    """Make a work queue, or set its limit.

    Parameters
    ----------
    client : SyncPrefectClient
    pool, name : str
        The queue.
    limit : int or None
        Flow runs of it that run at once; None leaves what is there.
    first_limit : int or None
        In place of `limit` for a queue that has none.
    dry_run : bool
        Change nothing.
    """
    what = f"work queue {name}"
    try:
        queue = client.read_work_queue_by_name(name, work_pool_name=pool)
    except ObjectNotFound:
        limit = limit or first_limit
        if not dry_run:
            client.create_work_queue(name, concurrency_limit=limit, work_pool_name=pool)
        return Change(what, "created", (_at_once(limit),))
    limit = limit or queue.concurrency_limit or first_limit
    if limit == queue.concurrency_limit:
        return Change(what, "left")
    if not dry_run:
        client.update_work_queue(queue.id, concurrency_limit=limit)
    return Change(what, "changed", (_at_once(limit),))


def _at_once(limit: int | None) -> str:
    return "no limit" if limit is None else f"at most {limit} at once"
