"""Manifests and Helm values: valid, and in agreement with each other and with what else is here."""

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deployments.definitions import read_definitions
from deployments.pool import base_job_template, defaults_of

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "deployments" / "kubernetes"
GIB = 2**30


def documents(*names: str) -> list[dict[str, Any]]:
    """What stands in manifests."""
    return [document for name in names for document in yaml.safe_load_all((MANIFESTS / name).read_text())]


def resources() -> list[str]:
    """What `kubectl apply -k` applies."""
    return yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())["resources"]


def helm(chart: str) -> dict[str, Any]:
    """Our values for a chart."""
    return yaml.safe_load((ROOT / "deployments" / "helm" / f"{chart}.yaml").read_text())


def memory(quantity: str) -> int:
    """Bytes of a quantity."""
    number, unit = re.fullmatch(r"(\d+)([MG]i)", quantity).groups()  # type: ignore[union-attr]
    return int(number) * {"Mi": 2**20, "Gi": GIB}[unit]


def cores(quantity: str) -> float:
    """Cores of a quantity."""
    return float(quantity.removesuffix("m")) / (1000 if quantity.endswith("m") else 1)


@pytest.mark.parametrize("path", sorted(MANIFESTS.glob("*.yaml")), ids=lambda path: path.name)
def test_manifests_are_valid(path: Path) -> None:
    """Every manifest is what Kubernetes takes, without an unknown field."""
    for document in documents(path.name):
        if document["kind"] != "Kustomization":
            kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_the_worker_may_do_no_more_than_it_must() -> None:
    """Jobs of its own namespace, and looking at their pods; no secret, nothing of the cluster."""
    by_kind = {document["kind"]: document for document in documents("worker.yaml")}
    allowed = {
        (group, resource): set(rule["verbs"])
        for rule in by_kind["Role"]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    look = {"get", "list", "watch"}
    assert allowed == {
        ("", "pods"): look,
        ("", "pods/log"): look,
        ("", "pods/status"): look,
        ("", "events"): look,
        ("batch", "jobs"): look | {"create", "update", "patch", "delete"},
    }
    assert by_kind["RoleBinding"]["subjects"][0]["name"] == by_kind["ServiceAccount"]["metadata"]["name"]
    assert by_kind["RoleBinding"]["roleRef"]["name"] == by_kind["Role"]["metadata"]["name"]


def test_names_agree() -> None:
    """Namespace, service accounts and secrets have one name in the template, the manifests and the Helm values."""
    template, worker = defaults_of(base_job_template("kubernetes")), helm("prefect-worker")
    applied = documents(*resources())
    names = {(document["kind"], document["metadata"]["name"]) for document in applied}
    assert {document["metadata"].get("namespace", "somatic") for document in applied} == {template["namespace"]}
    assert ("Namespace", template["namespace"]) in names
    assert ("ServiceAccount", template["service_account_name"]) in names
    assert ("ServiceAccount", worker["serviceAccount"]["name"]) in names
    secrets = documents("secret-cave.template.yaml", "secret-s3.template.yaml")
    assert [{"name": secret["metadata"]["name"]} for secret in secrets] == [
        {"name": source["secretRef"]["name"]} for source in template["env_from"]
    ]
    assert {definition["work_pool"]["name"] for definition in read_definitions()} == {
        worker["worker"]["config"]["workPool"]
    }


def test_secrets_are_templates() -> None:
    """No template of a secret has a value in it."""
    for document in documents("secret-cave.template.yaml", "secret-s3.template.yaml"):
        assert document["stringData"]
        for name, value in document["stringData"].items():
            assert value == f"${{{name}}}"


def test_prefect_has_one_version() -> None:
    """Server and worker have the Prefect that is locked for the jobs."""
    locked = re.search(r"^prefect==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)[1]  # type: ignore[index]
    server, worker = helm("prefect-server"), helm("prefect-worker")
    assert server["global"]["prefect"]["image"]["prefectTag"].startswith(f"{locked}-")
    assert worker["worker"]["image"]["prefectTag"].startswith(f"{locked}-")


def test_quota_has_room() -> None:
    """The quota holds as many shards as run at once, their parent, a look for versions and the worker; hardly more."""
    [quota] = documents("quota.yaml")
    hard = quota["spec"]["hard"]
    parent, shard, watch = (definition["work_pool"]["job_variables"] for definition in read_definitions())
    worker = helm("prefect-worker")["worker"]["resources"]
    shards = 20
    for kind, of_worker in (("requests", "requests"), ("limits", "limits")):
        name = "memory_request" if kind == "requests" else "memory_limit"
        total = shards * memory(shard[name]) + sum(memory(one[name]) for one in (parent, watch))
        total += memory(worker[of_worker]["memory"])
        assert total <= memory(hard[f"{kind}.memory"]) < 1.2 * total
    total_cores = shards * cores(shard["cpu_request"]) + cores(worker["requests"]["cpu"])
    total_cores += sum(cores(one["cpu_request"]) for one in (parent, watch))
    assert total_cores <= cores(hard["requests.cpu"]) < 1.2 * total_cores
