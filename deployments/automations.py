"""The automations: what the server does by itself.

They belong to no deployment, since Prefect deletes a deployment's own automations whenever it is deployed again.
"""

from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from deployments.change import Change, changed

Labels = dict[str, str | list[str]]

# Every deployment has this tag, its runs inherit it, and all their events name it.
_OURS: Labels = {"prefect.resource.id": "prefect.tag.somatic"}
_FLOW_RUNS: Labels = {"prefect.resource.id": "prefect.flow-run.*"}
_EXTRACTIONS: list[ResourceSpecification | Labels] = [
    _OURS,
    {"prefect.resource.role": "flow", "prefect.resource.name": "extract"},
]
_EXTRACTIONS_AND_WATCHES: list[ResourceSpecification | Labels] = [
    _OURS,
    {"prefect.resource.role": "flow", "prefect.resource.name": ["extract", "watch"]},
]

SILENCE_S = 1800
"""A run sends a sign of life every 180 s, but nobody hears it while the server is away; back again, it counts that time
too, and would start a second time what is alive. Whoever is found dead in another way need not wait so long."""
RESTARTS = 5
"""An extraction that was killed is started again so often."""
PAUSE_S = 30
"""Before that; a worker reports the same death twice, a few seconds apart."""
_FOR_EVER = timedelta(days=365)
_KILLED = "Killed"


def silent_runs() -> AutomationCore:
    """Make the automation that marks runs Crashed whose worker and pod both died, so that nobody else can.

    A run that ended, or waits to be started again, is not silent.
    """
    return AutomationCore(
        name="somatic: silent runs have crashed",
        description=f"No sign of life for {SILENCE_S} s: worker and pod are gone.",
        tags=["somatic"],
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={
                f"prefect.flow-run.{name}"
                for name in (
                    "heartbeat",
                    "Completed",
                    "Failed",
                    "TimedOut",
                    "Crashed",
                    "Cancelled",
                    "AwaitingRetry",
                    "Scheduled",
                    "Paused",
                    "Suspended",
                )
            },
            match=_FLOW_RUNS,
            match_related=_OURS,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENCE_S),
        ),
        actions=[
            ChangeFlowRunState(
                name=None,
                state=StateType.CRASHED,
                message=f"No sign of life for {SILENCE_S} s; its worker and its pod are gone.",
                force=False,
            )
        ],
    )


def killed_extractions() -> AutomationCore:
    """Make the automation that tells extractions that were killed at work from those that could not begin.

    A shard that crashed is started again by its extraction, which itself has nobody. One that cannot begin, for want of
    its namespace perhaps, would be started for ever: so a crash counts once for each time that the run has begun, and
    not after `RESTARTS` times. (`after` the run was Running would say the same, but loses events with SQLite.)

    The state stays one of type CRASHED, since a final state is all that a worker's second report does not replace.
    """
    return AutomationCore(
        name="somatic: extractions that were killed",
        description="Crashed while it was running, not before: marked, for the next automation.",
        tags=["somatic"],
        trigger=EventTrigger(
            expect={"prefect.flow-run.Crashed"},
            match=_FLOW_RUNS | {"prefect.run-count": [str(number + 1) for number in range(RESTARTS)]},
            match_related=_EXTRACTIONS,
            for_each={"prefect.resource.id", "prefect.run-count"},
            posture=Posture.Reactive,
            threshold=1,
            # It reacts once in this time.
            within=_FOR_EVER,
        ),
        actions=[
            ChangeFlowRunState(
                name=_KILLED,
                state=StateType.CRASHED,
                message=f"It was killed, see the state before this; it is started again in {PAUSE_S} s.",
                force=True,
            )
        ],
    )


def restarted_extractions() -> AutomationCore:
    """Make the automation that starts extractions that were killed again, unless a person does something before.

    It is the same flow run, so that it finds its shards again.
    """
    return AutomationCore(
        name="somatic: killed extractions start again",
        description=f"In {PAUSE_S} s, as the same flow run, which finds its shards again; at most {RESTARTS} times.",
        tags=["somatic"],
        trigger=EventTrigger(
            after={f"prefect.flow-run.{_KILLED}"},
            expect={
                f"prefect.flow-run.{name}"
                for name in (
                    "AwaitingRetry",
                    "Scheduled",
                    "Pending",
                    "Running",
                    "Completed",
                    "Failed",
                    "Cancelling",
                    "Cancelled",
                )
            },
            match=_FLOW_RUNS,
            match_related=_EXTRACTIONS,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=PAUSE_S),
        ),
        actions=[
            ChangeFlowRunState(name="AwaitingRetry", state=StateType.SCHEDULED, message="It was killed.", force=False)
        ],
    )


def failed_extractions(block_id: UUID) -> AutomationCore:
    """Make the automation that tells of extractions that failed or crashed; of a shard only its extraction tells.

    So it does of a look for new versions, since nobody watches that.
    """
    return AutomationCore(
        name="somatic: tell of failed extractions",
        description="Sends why, and where to look.",
        tags=["somatic"],
        trigger=EventTrigger(
            expect={f"prefect.flow-run.{name}" for name in ("Failed", "TimedOut", "Crashed")},
            match=_FLOW_RUNS,
            match_related=_EXTRACTIONS_AND_WATCHES,
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            SendNotification(
                block_document_id=block_id,
                # Of the event: the run itself may be further by now.
                subject="{{ flow_run.name }}: {{ event.resource['prefect.state-name'] }}",
                # A server knows the address of its pages only when PREFECT_UI_URL says it.
                body="{{ event.resource['prefect.state-message'] }}\n"
                "{{ flow_run|ui_url or 'flow run %s'|format(flow_run.id) }}",
            )
        ],
    )


def apply_automation(client: SyncPrefectClient, automation: AutomationCore, *, dry_run: bool) -> Change:
    """Make an automation, or bring the one of this name to it; one that was switched off stays off."""
    what = f"automation {automation.name!r}"
    found = client.read_automations_by_name(automation.name)
    if not found:
        if not dry_run:
            client.create_automation(automation)
        return Change(what, "created")
    before = found[0]
    automation = automation.model_copy(update={"enabled": before.enabled})
    fields = {"description", "tags", "trigger", "actions"}
    have, want = (_sorted(each.model_dump(mode="json", include=fields)) for each in (before, automation))
    details = sorted(field for field in fields if have[field] != want[field])
    if details and not dry_run:
        client.update_automation(before.id, automation)
    return changed(what, details)


def _sorted(value: Any) -> Any:
    """The same value with the lists sorted that were sets."""
    if isinstance(value, dict):
        return {name: _sorted(item) for name, item in value.items() if name != "id"}
    if isinstance(value, list):
        return sorted((_sorted(item) for item in value), key=repr)
    return value
