"""The Jobs that a Kubernetes worker makes of the deployments."""

import asyncio
import copy
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes_validate
import numpy as np
import pytest
from conftest import IMAGE, bring, clean
from kubernetes_validate.utils import all_versions
from packaging.version import Version
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect_kubernetes.worker import KubernetesWorker, KubernetesWorkerJobConfiguration

from deployments.pool import base_job_template
from somatic.dataset import load_dataset
from somatic.workers.memory import worker_memory_bytes

ROOT = Path(__file__).parents[2]
NEWEST = sorted(set(all_versions()), key=Version)[-3:]
PARENT, SHARD, WATCH = "extract/minnie65", "extract-shard/minnie65", "watch/minnie65"
# Measured: `prefect flow-run execute` 90 MiB, the engine with the flow 300 MiB, the fork server 70 MiB of its own.
STARTERS_BYTES = 512 * 2**20
SECRETS = {
    "CAVE_TOKEN": "5ca1ab1e5ca1ab1e5ca1ab1e",
    "AWS_SECRET_ACCESS_KEY": "d0d0cafed0d0cafe",
    "AWS_SESSION_TOKEN": "beefbeefbeef",
}


def job_of(client: SyncPrefectClient, name: str, **job_variables: Any) -> dict[str, Any]:
    """Render the Job of a new run of a deployment, as a worker does."""
    deployment = client.read_deployment_by_name(name)
    parameters = {"version": 1, "plan": "0", "start": 0, "stop": 20, "run": "0"} if name == SHARD else {}
    run = client.create_flow_run_from_deployment(
        deployment.id, parameters=parameters, job_variables=job_variables or None
    )
    pool = client.read_work_pool(deployment.work_pool_name or "")

    async def resolve() -> dict[str, Any]:
        async with get_client() as asynchronous:
            configuration = await KubernetesWorkerJobConfiguration.resolve_for_flow_run(
                run, client=asynchronous, work_pool=pool, worker_name="worker"
            )
        return configuration.job_manifest

    return asyncio.run(resolve())


@dataclass(frozen=True)
class Cluster:
    """A server with everything on it, and the Job of each deployment, as they are at first."""

    client: SyncPrefectClient
    jobs: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One for all tests of this file."""
    with get_client(sync_client=True) as client:
        clean(client)
        bring(client, job_variables={"image": IMAGE}, results="s3://bucket/somatic")
        yield Cluster(client, {name: job_of(client, name) for name in (PARENT, SHARD, WATCH)})


@pytest.fixture
def jobs(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """The Job of each deployment."""
    return cluster.jobs


def at(job: dict[str, Any], path: str) -> Any:
    """A value of a Job, or None."""
    value: Any = job
    for step in path.split("/"):
        value = value[int(step)] if isinstance(value, list) else value.get(step)
        if value is None:
            return None
    return value


POD, CONTAINER = "spec/template/spec", "spec/template/spec/containers/0"
PLACES: dict[str, tuple[Any, str]] = {
    "image": ("registry.example.org/other:2", f"{CONTAINER}/image"),
    "namespace": ("elsewhere", "metadata/namespace"),
    "service_account_name": ("somebody", f"{POD}/serviceAccountName"),
    "image_pull_policy": ("Always", f"{CONTAINER}/imagePullPolicy"),
    "image_pull_secrets": ([{"name": "registry"}], f"{POD}/imagePullSecrets"),
    "cpu_request": ("1500m", f"{CONTAINER}/resources/requests/cpu"),
    "cpu_limit": ("3", f"{CONTAINER}/resources/limits/cpu"),
    "memory_request": ("7Gi", f"{CONTAINER}/resources/requests/memory"),
    "memory_limit": ("8Gi", f"{CONTAINER}/resources/limits/memory"),
    "ephemeral_storage_request": ("2Gi", f"{CONTAINER}/resources/requests/ephemeral-storage"),
    "ephemeral_storage_limit": ("9Gi", f"{CONTAINER}/resources/limits/ephemeral-storage"),
    "env_from": ([{"configMapRef": {"name": "settings"}}], f"{CONTAINER}/envFrom"),
    "node_selector": ({"disk": "nvme"}, f"{POD}/nodeSelector"),
    "tolerations": ([{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}], f"{POD}/tolerations"),
    "affinity": (
        {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone"}]}},
        f"{POD}/affinity",
    ),
    "priority_class_name": ("low", f"{POD}/priorityClassName"),
    "volumes": ([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}], f"{POD}/volumes"),
    "volume_mounts": ([{"name": "data", "mountPath": "/data"}], f"{CONTAINER}/volumeMounts"),
    "active_deadline_seconds": (3600, f"{POD}/activeDeadlineSeconds"),
    "termination_grace_period_seconds": (90, f"{POD}/terminationGracePeriodSeconds"),
    "pod_security_context": ({"runAsUser": 7}, f"{POD}/securityContext"),
    "container_security_context": ({"readOnlyRootFilesystem": False}, f"{CONTAINER}/securityContext"),
    "annotations": ({"example.org/owner": "lab"}, "spec/template/metadata/annotations"),
    "finished_job_ttl": (60, "spec/ttlSecondsAfterFinished"),
    "backoff_limit": (2, "spec/backoffLimit"),
}
"""A value for each variable, and where Kubernetes looks for it."""
OPTIONAL = ("image_pull_secrets", "node_selector", "tolerations", "affinity", "priority_class_name")


def strictly(job: dict[str, Any]) -> dict[str, Any]:
    """The Job without two fields that Prefect insists on, though a pod has no such fields."""
    job = copy.deepcopy(job)
    for name in ("parallelism", "completions"):
        assert job["spec"]["template"]["spec"].pop(name) == 1
    return job


@pytest.mark.parametrize("version", NEWEST)
def test_jobs_are_valid(jobs: dict[str, dict[str, Any]], version: str) -> None:
    """The Jobs are what Kubernetes takes, without an unknown field but those that Prefect puts there."""
    for job in jobs.values():
        kubernetes_validate.validate(job, version)
        kubernetes_validate.validate(strictly(job), version, strict=True)


def test_every_variable_lands_where_it_should(cluster: Cluster) -> None:
    """Each variable, set for a run, is where Kubernetes looks for it, in its own type; the Job stays valid."""
    job = job_of(cluster.client, SHARD, **{name: value for name, (value, _) in PLACES.items()})
    for name, (value, path) in PLACES.items():
        assert at(job, path) == value, name
        assert type(at(job, path)) is type(value), name
    kubernetes_validate.validate(strictly(job), NEWEST[-1], strict=True)
    ours = base_job_template("kubernetes")["variables"]["properties"].keys()
    elsewhere = {"name", "env", "labels", "command", "stream_output", "cluster_config"}
    watching = {"job_watch_timeout_seconds", "pod_watch_timeout_seconds"}
    assert PLACES.keys() == ours - elsewhere - watching


def test_variables_that_are_not_set_vanish(jobs: dict[str, dict[str, Any]]) -> None:
    """What nobody set is not in the Job at all, and no placeholder is left."""
    for job in jobs.values():
        for name in OPTIONAL:
            assert at(job, PLACES[name][1]) is None, name
        text = json.dumps(job)
        assert "{{" not in text
        assert "null" not in text


def test_environment(cluster: Cluster) -> None:
    """Jobs read their secrets from Kubernetes, keep their files on the scratch volume, and know where results go."""
    bring(cluster.client, job_variables={"env": {"AWS_ENDPOINT_URL": "https://s3.example.org"}})
    job = job_of(cluster.client, PARENT, env={"PREFECT_LOGGING_LEVEL": "DEBUG"})
    environment = {entry["name"]: entry["value"] for entry in at(job, f"{CONTAINER}/env")}
    assert environment["HOME"] == "/tmp"
    assert environment["PREFECT_HOME"].startswith(f"{environment['HOME']}/")
    assert environment["PREFECT_DEFAULT_RESULT_STORAGE_BLOCK"] == "s3-bucket/somatic-results"
    assert environment["PREFECT_RESULTS_DEFAULT_SERIALIZER"] == "json"
    assert environment["AWS_ENDPOINT_URL"] == "https://s3.example.org"
    assert environment["PREFECT_LOGGING_LEVEL"] == "DEBUG"
    assert at(job, f"{CONTAINER}/envFrom") == [
        {"secretRef": {"name": "somatic-cave"}},
        {"secretRef": {"name": "somatic-s3", "optional": True}},
    ]
    mounted = {mount["name"]: mount["mountPath"] for mount in at(job, f"{CONTAINER}/volumeMounts")}
    assert mounted == {volume["name"]: "/tmp" for volume in at(job, f"{POD}/volumes")}


def test_memory_of_a_shard(cluster: Cluster) -> None:
    """A shard asks for what its workers need by the formula of the plan, and the processes that start them; not double.

    minnie65 at mip 3 has voxels of 64 x 64 x 40 nm in files of 256 x 256 x 32.
    """
    dataset = load_dataset("minnie65")
    assert dataset.mip == 3
    a_worker = worker_memory_bytes(dataset.cutout_radius_um * 1000, np.array([64.0, 64.0, 40.0]), (256, 256, 32))
    workers = cluster.client.read_deployment_by_name(PARENT).parameters["workers"]
    needed = workers * a_worker + STARTERS_BYTES
    resources = at(cluster.jobs[SHARD], f"{CONTAINER}/resources")
    asked = int(re.fullmatch(r"(\d+)Gi", resources["requests"]["memory"])[1]) * 2**30  # type: ignore[index]
    assert needed <= asked < 1.5 * needed
    assert resources["limits"]["memory"] == resources["requests"]["memory"]
    assert int(resources["limits"]["cpu"]) == workers


def test_disk(jobs: dict[str, dict[str, Any]]) -> None:
    """A pod is not evicted for what its scratch volume may hold."""
    for job in jobs.values():
        [scratch] = at(job, f"{POD}/volumes")
        limit = at(job, f"{CONTAINER}/resources/limits/ephemeral-storage")
        assert int(limit.removesuffix("Gi")) > int(scratch["emptyDir"]["sizeLimit"].removesuffix("Gi"))


def test_pods_may_do_little(jobs: dict[str, dict[str, Any]]) -> None:
    """The pods keep to Kubernetes' "restricted" standard, cannot write their image, and get no token of the API."""
    for job in jobs.values():
        pod, container = at(job, f"{POD}/securityContext"), at(job, f"{CONTAINER}/securityContext")
        assert pod["runAsNonRoot"] is True
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["allowPrivilegeEscalation"] is False
        assert container["capabilities"] == {"drop": ["ALL"]}
        assert container["readOnlyRootFilesystem"] is True
        assert at(job, f"{POD}/automountServiceAccountToken") is False
        assert at(job, f"{POD}/serviceAccountName") == "somatic-job"


def test_user_of_the_image(jobs: dict[str, dict[str, Any]]) -> None:
    """The pods run as the user that the image has."""
    user = re.findall(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[-1]
    for job in jobs.values():
        context = at(job, f"{POD}/securityContext")
        assert (str(context["runAsUser"]), str(context["runAsGroup"])) == user


def test_no_secret_is_handed_over(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets of whoever deploys, or runs the worker, are in no Job and in nothing on the server."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    client = cluster.client
    bring(client, results="s3://bucket/other")
    said = json.dumps([job_of(client, name) for name in (PARENT, SHARD, WATCH)])
    for thing in (
        *client.read_work_pools(),
        *client.read_deployments(),
        *client.read_block_documents(include_secrets=True),
    ):
        said += thing.model_dump_json()
    assert IMAGE in said
    for name, value in SECRETS.items():
        assert value not in said, name


def test_template_is_prefects_and_more() -> None:
    """Everything of the template of this prefect-kubernetes is in ours, but for three defaults."""
    theirs, ours = KubernetesWorker.get_default_base_job_template(), base_job_template("kubernetes")
    changed = {"namespace": "somatic", "service_account_name": "somatic-job", "finished_job_ttl": 3600}
    for name, default in changed.items():
        theirs["variables"]["properties"][name]["default"] = default
    theirs["job_configuration"].pop("env")  # a constant in ours, to which that of the variables is added
    del theirs["variables"]["description"]
    assert missing(theirs, ours) == []


def missing(theirs: Any, ours: Any, path: str = "") -> list[str]:
    """Where something of theirs is not in ours."""
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        theirs, ours = dict(enumerate(theirs)), dict(enumerate(ours))
    if not (isinstance(theirs, dict) and isinstance(ours, dict)):
        return [] if theirs == ours else [path]
    found = [f"{path}/{name}" for name in theirs if name not in ours]
    for name in theirs.keys() & ours.keys():
        found += missing(theirs[name], ours[name], f"{path}/{name}")
    return found
