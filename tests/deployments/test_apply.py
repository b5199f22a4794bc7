"""Bringing everything to a Prefect server, again and again."""

from pathlib import Path
from typing import Any

import pytest
from conftest import EVERYTHING, IMAGE, Deploy, everything_on, prefect
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.schedules import CronSchedule
from prefect.states import Pending
from prefect_kubernetes.worker import KubernetesWorker

from deployments.automations import silent_runs
from deployments.change import Change
from deployments.limits import cave_servers
from somatic.errors import PermanentError
from tasks.limits import SLOTS, SLOTS_PER_S

CAVE_LIMIT = "cave-global-daf-apis-com"


def did(changes: list[Change]) -> dict[str, str]:
    """What became of each thing."""
    return {change.what: change.did for change in changes}


def different(changes: list[Change]) -> dict[str, tuple[str, ...]]:
    """What is not as it was, and in what."""
    return {change.what: change.details for change in changes if change.did != "left"}


def defaults(client: SyncPrefectClient, pool: str = "somatic") -> dict[str, Any]:
    """Values that the pool gives to all jobs."""
    properties = client.read_work_pool(pool).base_job_template["variables"]["properties"]
    return {name: schema["default"] for name, schema in properties.items() if "default" in schema}


def test_twice_is_once(deploy: Deploy, client: SyncPrefectClient) -> None:
    """The first time creates everything, the second finds all of it as it should be and touches nothing."""
    said = {"job_variables": {"image": IMAGE}, "results": "s3://bucket/somatic"}
    assert did(deploy(**said)) == dict.fromkeys(EVERYTHING, "created")
    before = everything_on(client)
    assert did(deploy(**said)) == dict.fromkeys(EVERYTHING, "left")
    assert did(deploy()) == dict.fromkeys(EVERYTHING, "left")
    assert everything_on(client) == before


def test_what_is_there(deployed: Deploy, client: SyncPrefectClient) -> None:  # noqa: ARG001
    """The two flows wait in queues of their own, one extraction of a dataset runs at a time, shards are limited."""
    parent = client.read_deployment_by_name("extract/minnie65")
    shard = client.read_deployment_by_name("extract-shard/minnie65")
    assert (parent.work_queue_name, shard.work_queue_name) == ("extractions", "shards")
    assert parent.parameters["shard_deployment"] == "extract-shard/minnie65"
    assert parent.parameters["to"] == "file:///results"
    assert parent.global_concurrency_limit is not None
    assert parent.global_concurrency_limit.limit == 1
    assert parent.concurrency_options is not None
    assert parent.concurrency_options.collision_strategy == "ENQUEUE"
    assert shard.global_concurrency_limit is None
    assert all(each.enforce_parameter_schema and "somatic" in each.tags for each in (parent, shard))
    assert client.read_work_queue_by_name("shards", "somatic").concurrency_limit == 20
    assert client.read_work_queue_by_name("extractions", "somatic").concurrency_limit is None


def test_the_watch(deployed: Deploy, client: SyncPrefectClient) -> None:  # noqa: ARG001
    """It looks once a day, at a time with its zone, starts extractions as deployed, and never two looks at a time."""
    watch = client.read_deployment_by_name("watch/minnie65")
    [daily] = watch.schedules
    assert isinstance(daily.schedule, CronSchedule)
    assert (daily.schedule.cron, daily.schedule.timezone, daily.active) == ("17 5 * * *", "UTC", True)
    assert watch.parameters == {
        "dataset": "minnie65",
        "to": "file:///results",
        "extract_deployment": "extract/minnie65",
    }
    first, second = (client.create_flow_run_from_deployment(watch.id) for _ in range(2))
    for each in (first, second):
        client.set_flow_run_state(each.id, Pending())
    assert client.read_flow_run(first.id).state_name == "Pending"
    assert client.read_flow_run(second.id).state_name == "Cancelled"


def test_the_schedule_is_the_persons(deployed: Deploy, client: SyncPrefectClient) -> None:
    """Made with the deployment, it stays as a person leaves it: paused, at another time, or gone."""
    watch = client.read_deployment_by_name("watch/minnie65")
    [daily] = watch.schedules
    client.update_deployment_schedule(watch.id, daily.id, active=False, schedule=CronSchedule(cron="0 9 * * 1"))
    assert different(deployed(results="file:///elsewhere"))["deployment watch/minnie65"] == ("parameters",)
    [kept] = client.read_deployment_by_name("watch/minnie65").schedules
    assert isinstance(kept.schedule, CronSchedule)
    assert (kept.id, kept.schedule.cron, kept.active) == (daily.id, "0 9 * * 1", False)
    client.delete_deployment_schedule(watch.id, daily.id)
    deployed(results="file:///results")
    assert client.read_deployment_by_name("watch/minnie65").schedules == []


def test_the_form_explains_every_parameter(deployed: Deploy, client: SyncPrefectClient) -> None:  # noqa: ARG001
    """The form of the UI has a type and a description for each parameter of each deployment."""
    for name in ("extract/minnie65", "extract-shard/minnie65", "watch/minnie65"):
        deployment = client.read_deployment_by_name(name)
        properties = deployment.parameter_openapi_schema["properties"]
        assert deployment.parameters.keys() <= properties.keys()
        for parameter, schema in properties.items():
            assert schema.get("description"), (name, parameter)
            assert schema.keys() & {"type", "anyOf"}, (name, parameter)
    assert {"shard_deployment", "chunks_per_shard"} <= client.read_deployment_by_name(
        "extract/minnie65"
    ).parameters.keys()


def test_the_limit_of_cave(deployed: Deploy, client: SyncPrefectClient) -> None:
    """It lets pass what CAVE allows in a minute; what a person makes of it, or of its being on, stays."""
    made = client.read_global_concurrency_limit_by_name(CAVE_LIMIT)
    assert (made.limit, made.slot_decay_per_second, made.active) == (SLOTS, SLOTS_PER_S, True)
    prefect("global-concurrency-limit", "update", CAVE_LIMIT, "--limit", "60", "--slot-decay-per-second", "5")
    client.update_global_concurrency_limit(CAVE_LIMIT, GlobalConcurrencyLimitUpdate(active=False))
    assert different(deployed()) == {}
    kept = client.read_global_concurrency_limit_by_name(CAVE_LIMIT)
    assert (kept.id, kept.limit, kept.slot_decay_per_second, kept.active) == (made.id, 60, 5.0, False)


def test_servers_of_cave(tmp_path: Path) -> None:
    """Each CAVE server has one limit, however many datasets are there; a dataset in files needs none."""
    definitions = [{"parameters": {"dataset": "minnie65"}}] * 2
    common = 'mip = 0\nsegmentation = "/data/segmentation"\n'
    cave = '[cave]\nserver = "{}"\ndatastack = "{}"\nnuclei = {{table = "nuclei"}}\n'
    files = '[files]\nnuclei = "nuclei.csv"\nresolution_nm = [4, 4, 40]\n'
    for name, source in (
        ("a", cave.format("https://cave.example.org", "one")),
        ("b", cave.format("https://cave.example.org", "two")),
        ("c", files),
    ):
        path = tmp_path / f"{name}.toml"
        path.write_text(f'name = "{name}"\n{common}{source}')
        definitions.append({"parameters": {"dataset": str(path)}})
    assert cave_servers(definitions) == ["https://global.daf-apis.com", "https://cave.example.org"]


def test_dry_run(deploy: Deploy, client: SyncPrefectClient) -> None:
    """A dry run says what would be done, and does none of it."""
    said = {"job_variables": {"image": IMAGE}, "results": "s3://bucket/somatic", "webhook": "https://example.org/x"}
    empty = everything_on(client)
    announced = deploy(**said, dry_run=True)
    assert everything_on(client) == empty
    assert deploy(**said) == announced

    said = {"job_variables": {"image": f"{IMAGE}1"}, "results": "s3://bucket/other", "shards": 3}
    before = everything_on(client)
    announced = deploy(**said, dry_run=True)
    assert everything_on(client) == before
    assert different(announced) == {
        "work pool somatic": ("image",),
        "work queue shards": ("at most 3 at once",),
        "variable somatic_results": ("s3://bucket/other",),
        "block s3-bucket/somatic-results": ("bucket_folder",),
        "deployment extract/minnie65": ("parameters",),
        "deployment watch/minnie65": ("parameters",),
    }
    assert deploy(**said) == announced


def test_what_was_said_stays(deployed: Deploy, client: SyncPrefectClient) -> None:
    """What was set stays until something else is said; a variable without a value is as it was at first."""
    tolerations = [{"key": "spot", "operator": "Exists"}]
    deployed(
        job_variables={"tolerations": tolerations, "env": {"AWS_ENDPOINT_URL": "https://s3.example.org"}}, shards=7
    )
    assert different(deployed()) == {}
    assert client.read_work_queue_by_name("shards", "somatic").concurrency_limit == 7
    kept = defaults(client)
    assert kept["image"] == IMAGE
    assert kept["tolerations"] == tolerations
    assert kept["env"]["AWS_ENDPOINT_URL"] == "https://s3.example.org"

    deployed(job_variables={"finished_job_ttl": 60})
    assert defaults(client)["finished_job_ttl"] == 60
    as_at_first = deployed(job_variables={"tolerations": None, "finished_job_ttl": None})
    assert set(different(as_at_first)["work pool somatic"]) == {"tolerations", "finished_job_ttl"}
    assert "tolerations" not in defaults(client)
    assert defaults(client)["finished_job_ttl"] == 3600
    assert different(deployed()) == {}


def test_what_people_did_in_the_ui_stays(deployed: Deploy, client: SyncPrefectClient) -> None:
    """A schedule, a pause and an automation that was switched off survive, though the parameters change."""
    deployment = client.read_deployment_by_name("extract/minnie65")
    client.create_deployment_schedules(deployment.id, [(CronSchedule(cron="0 3 * * 1"), True)])
    client.pause_deployment(deployment.id)
    [automation] = client.read_automations_by_name(silent_runs().name)
    client.pause_automation(automation.id)
    client.update_work_queue(client.read_work_queue_by_name("shards", "somatic").id, concurrency_limit=5)

    assert different(deployed(results="file:///elsewhere"))
    after = client.read_deployment_by_name("extract/minnie65")
    assert after.parameters["to"] == "file:///elsewhere"
    assert after.id == deployment.id
    assert after.paused
    assert [schedule.schedule.cron for schedule in after.schedules] == ["0 3 * * 1"]  # type: ignore[union-attr]
    [same] = client.read_automations_by_name(silent_runs().name)
    assert (same.id, same.enabled) == (automation.id, False)
    assert client.read_work_queue_by_name("shards", "somatic").concurrency_limit == 5


def test_a_pool_that_a_worker_made(deploy: Deploy, client: SyncPrefectClient) -> None:
    """A worker that started first made the pool with Prefect's own template: it gets ours, with our values."""
    template = KubernetesWorker.get_default_base_job_template()
    client.create_work_pool(WorkPoolCreate(name="somatic", type="kubernetes", base_job_template=template))
    deploy(job_variables={"image": IMAGE}, results="file:///results")
    now = defaults(client)
    assert now["namespace"] == "somatic"
    assert now["env_from"][0] == {"secretRef": {"name": "somatic-cave"}}
    assert different(deploy()) == {}


def test_changed_by_hand(deployed: Deploy, client: SyncPrefectClient) -> None:
    """What no longer is as the files say is brought back, and named."""
    pool = client.read_work_pool("somatic")
    manifest = pool.base_job_template["job_configuration"]["job_manifest"]
    del manifest["spec"]["template"]["spec"]["containers"][0]["envFrom"]
    client.update_work_pool("somatic", WorkPoolUpdate(base_job_template=pool.base_job_template))
    [automation] = client.read_automations_by_name(silent_runs().name)
    client.delete_automation(automation.id)
    client.delete_global_concurrency_limit_by_name(CAVE_LIMIT)
    assert different(deployed()) == {
        "work pool somatic": ("base job template",),
        f"limit {CAVE_LIMIT}": ("30 requests at once, 2.5 a second",),
        f"automation {automation.name!r}": (),
    }
    assert different(deployed()) == {}


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({}, "--image"),
        ({"job_variables": {"image": IMAGE}}, "--to"),
        ({"job_variables": {"image": IMAGE}, "results": "/data"}, "gone with the pod"),
        ({"job_variables": {"image": IMAGE, "nodes": 3}, "results": "s3://bucket"}, "no variable 'nodes'"),
        ({"job_variables": {"image": IMAGE}, "results": "s3://bucket", "pool": "laptop"}, "of type process"),
    ],
)
def test_what_cannot_be(deploy: Deploy, client: SyncPrefectClient, said: dict[str, Any], says: str) -> None:
    """What is missing or cannot be is told before anything is changed."""
    client.create_work_pool(WorkPoolCreate(name="laptop", type="process"))
    before = everything_on(client)
    with pytest.raises(PermanentError) as error:
        deploy(**said)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert everything_on(client) == before


def test_from_a_cluster_to_one_machine(deployed: Deploy, client: SyncPrefectClient) -> None:
    """The same file serves processes of one machine: another pool, the same deployments, results in a folder."""
    changes = different(deployed(pool="here", pool_type="process", results="/data/somatic"))
    assert changes["work pool here"] == ("process",)
    for name in ("extract", "watch"):
        assert set(changes[f"deployment {name}/minnie65"]) == {"parameters", "work_pool_name"}
    assert client.read_deployment_by_name("extract-shard/minnie65").work_pool_name == "here"
    assert client.read_work_queue_by_name("shards", "here").concurrency_limit == 1
    assert "env" not in defaults(client, "here")
    with pytest.raises(PermanentError, match="--to"):
        deployed()  # the cluster again, which cannot have the folder
