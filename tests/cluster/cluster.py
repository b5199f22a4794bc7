"""A Kubernetes cluster, by kubectl: the manifests of deployments/ applied, and accidents of its pods."""

import base64
import json
import subprocess
import time
from pathlib import Path
from string import Template
from typing import Any
from uuid import UUID

NAMESPACE = "somatic"
_MANIFESTS = Path(__file__).parents[2] / "deployments" / "kubernetes"
# By hand: newer clusters make no secret for an account by themselves, older ones know no other token.
_TOKEN = "somatic-worker-token"
_TOKEN_SECRET = {
    "apiVersion": "v1",
    "kind": "Secret",
    "type": "kubernetes.io/service-account-token",
    "metadata": {
        "name": _TOKEN,
        "namespace": NAMESPACE,
        "annotations": {"kubernetes.io/service-account.name": "somatic-worker"},
    },
}


class Cluster:
    """The cluster that KUBECONFIG names, with all rights."""

    def has_namespace(self) -> bool:
        """Whether somebody uses it already."""
        return bool(kubectl("get", "namespace", NAMESPACE, "--ignore-not-found", "--output=name"))

    def runs_processes(self) -> bool:
        """Whether its pods are processes of this machine, as those of ../shared/kube are."""
        runtimes = "jsonpath={.items[*].status.nodeInfo.containerRuntimeVersion}"
        return all(runtime.startswith("process://") for runtime in kubectl("get", "nodes", "-o", runtimes).split())

    def apply(self, **secrets: dict[str, str]) -> None:
        """Apply deployments/kubernetes as docs/cluster.md says, and its templates of secrets with these values."""
        kubectl("apply", "-k", str(_MANIFESTS))
        for name, values in secrets.items():
            filled_in = Template((_MANIFESTS / f"secret-{name}.template.yaml").read_text()).substitute(values)
            kubectl("apply", "--server-side", "-f", "-", stdin=filled_in)

    def put_config_map(self, file: Path) -> str:
        """Make a config map of a file; give its name."""
        kubectl("-n", NAMESPACE, "create", "configmap", file.stem, f"--from-file={file}")
        return file.stem

    def delete(self) -> None:
        """Take all of it away, and wait until it is gone."""
        kubectl("delete", "-k", str(_MANIFESTS), "--ignore-not-found", timeout_s=180)

    def write_worker_kubeconfig(self, path: Path) -> None:
        """Write a kubeconfig of the worker's account, which may do what its role says and no more."""
        kubectl("apply", "-f", "-", stdin=json.dumps(_TOKEN_SECRET))
        deadline = time.monotonic() + 30
        while not (token := self._get("secret", _TOKEN).get("data", {}).get("token")):
            assert time.monotonic() < deadline, "the cluster gives the worker's account no token"
            time.sleep(0.2)
        config = json.loads(kubectl("config", "view", "--raw", "--minify", "--flatten", "--output=json"))
        context = config["contexts"][0]
        context["context"] |= {"user": "worker", "namespace": NAMESPACE}
        config["users"] = [{"name": "worker", "user": {"token": base64.b64decode(token).decode()}}]
        path.touch(mode=0o600)
        path.write_text(json.dumps(config))

    def pod_of(self, flow_run_id: UUID) -> str | None:
        """Name of the pod in which a flow run runs now, if one does."""
        running = [pod for pod in self._of("pods", flow_run_id) if pod["status"].get("phase") == "Running"]
        alive = [pod["metadata"] for pod in running if "deletionTimestamp" not in pod["metadata"]]
        return max(alive, key=lambda pod: pod["creationTimestamp"])["name"] if alive else None

    def job_of(self, flow_run_id: UUID) -> str:
        """Name of the newest Job of a flow run."""
        jobs = [job["metadata"] for job in self._of("jobs", flow_run_id)]
        return max(jobs, key=lambda job: job["creationTimestamp"])["name"]

    def count_jobs(self, flow_run_id: UUID) -> int:
        """How many Jobs there are of a flow run; each start of it makes one."""
        return len(self._of("jobs", flow_run_id))

    def delete_pod(self, name: str) -> None:
        """Delete a pod as a person does, with its time to end."""
        self._end_job_of(name)
        kubectl("-n", NAMESPACE, "delete", "pod", name, "--wait=false")

    def delete_job(self, name: str) -> None:
        """Delete a Job, whose pod goes with it."""
        kubectl("-n", NAMESPACE, "delete", "job", name, "--wait=false")

    def evict(self, name: str) -> None:
        """Evict a pod, as a node that is emptied does."""
        self._end_job_of(name)
        version = "policy/v1" if "policy/v1" in kubectl("api-versions").split() else "policy/v1beta1"
        eviction = {"apiVersion": version, "kind": "Eviction", "metadata": {"name": name, "namespace": NAMESPACE}}
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/eviction"
        kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))

    def _end_job_of(self, pod: str) -> None:
        """Do what Kubernetes itself does from 1.26 on: a Job without retries has failed when its pod is deleted.

        Older ones put another pod into its place, which would run beside the one of Prefect's next Job.
        """
        version = json.loads(kubectl("version", "--output=json"))["serverVersion"]["gitVersion"]
        if tuple(map(int, version.removeprefix("v").split(".")[:2])) >= (1, 26):
            return
        [owner] = self._get("pod", pod)["metadata"]["ownerReferences"]
        job = self._get("job", owner["name"])
        failed = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}
        job["status"] = {"failed": 1, "conditions": [failed], "startTime": job["status"]["startTime"]}
        path = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs/{owner['name']}/status"
        kubectl("replace", "--raw", path, "-f", "-", stdin=json.dumps(job))

    def _get(self, kind: str, name: str) -> dict[str, Any]:
        return json.loads(kubectl("-n", NAMESPACE, "get", kind, name, "--output=json"))

    def _of(self, kind: str, flow_run_id: UUID) -> list[dict[str, Any]]:
        selector = f"--selector=prefect.io/flow-run-id={flow_run_id}"
        return json.loads(kubectl("-n", NAMESPACE, "get", kind, selector, "--output=json"))["items"]


def kubectl(*arguments: str, stdin: str | None = None, timeout_s: float = 60) -> str:
    """Run kubectl; give what it says."""
    command = ["kubectl", *arguments]
    ran = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False)
    if ran.returncode:
        raise RuntimeError(f"kubectl {' '.join(arguments)}: {ran.stderr.strip()}")
    return ran.stdout
