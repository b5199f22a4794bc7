"""The deployments of prefect.yaml."""

from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    DeploymentUpdate,
    VariableCreate,
    VariableUpdate,
)
from prefect.client.schemas.objects import ConcurrencyOptions
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

from deployments.change import Change, changed

PREFECT_YAML = Path(__file__).with_name("prefect.yaml")
RESULTS_VARIABLE = "somatic_results"
_RESULTS = f"{{{{ prefect.variables.{RESULTS_VARIABLE} }}}}"


def read_definitions() -> list[dict[str, Any]]:
    """Read the deployments of prefect.yaml, as they stand there, each with the pull steps of all."""
    content = yaml.safe_load(PREFECT_YAML.read_text())
    return [{"pull": content["pull"]} | definition for definition in content["deployments"]]


def read_results(client: SyncPrefectClient) -> str:
    """Read where results go; empty where nobody has said."""
    variable = client.read_variable_by_name(RESULTS_VARIABLE)
    return str(variable.value) if variable else ""


def apply_results(client: SyncPrefectClient, url: str, *, dry_run: bool) -> Change:
    """Remember where results go, for this call and later ones."""
    what, before = f"variable {RESULTS_VARIABLE}", client.read_variable_by_name(RESULTS_VARIABLE)
    if before is None:
        if not dry_run:
            client.create_variable(VariableCreate(name=RESULTS_VARIABLE, value=url))
        return Change(what, "created", (url,))
    if before.value == url:
        return Change(what, "left")
    if not dry_run:
        client.update_variable(VariableUpdate(name=RESULTS_VARIABLE, value=url))
    return Change(what, "changed", (url,))


def apply_deployment(
    client: SyncPrefectClient, definition: dict[str, Any], pool: str, results: str, *, dry_run: bool
) -> Change:
    """Make a deployment as prefect.yaml says; one that is there keeps its schedules, and whether it is paused.

    The schedules of prefect.yaml are those that it begins with.

    Parameters
    ----------
    client : SyncPrefectClient
    definition : dict
        Of prefect.yaml.
    pool : str
        The work pool, whatever prefect.yaml calls it.
    results : str
        Where results go.
    dry_run : bool
        Change nothing.
    """
    flow: Flow[..., Any] = load_flow_from_entrypoint(definition["entrypoint"], use_placeholder_flow=False)
    wanted = {
        "description": definition["description"],
        "tags": definition["tags"],
        "entrypoint": definition["entrypoint"],
        "parameters": {
            name: results if value == _RESULTS else value for name, value in definition["parameters"].items()
        },
        "parameter_openapi_schema": parameter_schema(flow).model_dump(exclude_unset=True),
        "enforce_parameter_schema": definition["enforce_parameter_schema"],
        "concurrency_limit": definition.get("concurrency_limit"),
        "work_pool_name": pool,
        "work_queue_name": definition["work_pool"]["work_queue_name"],
        "job_variables": definition["work_pool"]["job_variables"],
        "pull_steps": definition["pull"],
    }
    name, schedules = f"{flow.name}/{definition['name']}", definition.get("schedules", [])
    try:
        before = client.read_deployment_by_name(name)
    except ObjectNotFound:
        if not dry_run:
            flow_id = client.create_flow_from_name(flow.name)
            client.create_deployment(
                flow_id,
                definition["name"],
                schedules=[_schedule(schedule) for schedule in schedules],
                **_with_limit(wanted),
            )
        return Change(f"deployment {name}", "created", tuple(f"{one['cron']} {one['timezone']}" for one in schedules))
    have = _as_wanted(before)
    details = [field for field, value in wanted.items() if have[field] != value]
    if details and not dry_run:
        client.update_deployment(before.id, DeploymentUpdate(**_with_limit(wanted)))
    return changed(f"deployment {name}", details)


def _schedule(fields: dict[str, Any]) -> DeploymentScheduleCreate:
    cron = CronSchedule(cron=fields["cron"], timezone=fields["timezone"])
    return DeploymentScheduleCreate(schedule=cron, active=fields["active"], slug=fields["slug"])


def _with_limit(wanted: dict[str, Any]) -> dict[str, Any]:
    limit = wanted["concurrency_limit"]
    if limit is None:
        return wanted
    options = ConcurrencyOptions(**{name: value for name, value in limit.items() if name != "limit"})
    return wanted | {"concurrency_limit": limit["limit"], "concurrency_options": options}


def _as_wanted(deployment: DeploymentResponse) -> dict[str, Any]:
    fields = deployment.model_dump(mode="json")
    limit = deployment.global_concurrency_limit
    if limit is not None:
        options = deployment.concurrency_options
        fields["concurrency_limit"] = {"limit": limit.limit} | (
            options.model_dump(mode="json", exclude_none=True) if options else {}
        )
    return fields
