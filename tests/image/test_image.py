"""The image of the Dockerfile, built and run."""

import re
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import httpx
import pandas as pd
import pytest
from conftest import describe_checkout
from container import Container, end, first_process
from namesakes import put_namesakes

pytestmark = pytest.mark.timeout(1800)

_PACKAGES = "opt/somatic/lib/python3.11/site-packages"
_PREFECT_FILE = """
name: somatic
pull: []
deployments:
  - name: image
    entrypoint: flows.extract.extract
    parameters: {dataset: /work/somatic-demo/phantom-files.toml, version: 1, to: /work/by-worker}
    work_pool: {name: image}
"""
_LOAD_FLOWS = """
import deployments, pathlib, yaml
from prefect.flows import load_flow_from_entrypoint
described = yaml.safe_load(pathlib.Path(deployments.__path__[0], "prefect.yaml").read_text())
for deployment in described["deployments"]:
    print(load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False).name)
"""
_IMPORT_ALL = """
import importlib, importlib.metadata
for name in importlib.metadata.packages_distributions():
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        print(name, "needs", error.name)
    except Exception:
        pass
"""


def test_version_names_the_commit(container: Container, commit_before: str) -> None:
    """The image has no .git, and still says which commit it was built of, though others may come meanwhile."""
    said = container.run("somatic", "--version").strip()
    assert said in [
        f"somatic {version('somatic-features')}+g{commit}" for commit in (commit_before, describe_checkout())
    ]


def test_help_without_a_command(container: Container) -> None:
    """Without a command the image tells what there is."""
    assert "Start with: somatic demo" in container.run()


def test_datasets_travel(container: Container) -> None:
    """The datasets that have a name are in the image."""
    assert container.run("somatic", "datasets").startswith("minnie65: ")


@pytest.mark.parametrize("user", ["", "12345:0"])
def test_no_root_and_a_place_to_write(container: Container, user: str) -> None:
    """The user is a number other than 0, and whichever number it is can write where it works and at home."""
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", container.config["User"])
    said = container.run("sh", "-c", "id -u; pwd; mktemp -p . here.XXX; mktemp -p $HOME XXX", user=user)
    assert said.splitlines()[:2] == [(user or container.config["User"]).split(":")[0], "/work"]


def test_prefect_loads_the_flows(container: Container) -> None:
    """The entrypoints of deployments/prefect.yaml are flows, as Prefect loads them, also in a folder of namesakes."""
    folder = container.root / "work/lab"
    folder.mkdir()
    put_namesakes(folder)
    said = container.run("sh", "-c", 'cd /work/lab && exec python -c "$0"', _LOAD_FLOWS)
    assert set(said.split()) == {"extract", "extract-shard", "watch"}


def test_demo_gives_the_same_table(container: Container, demo: str, tmp_path: Path) -> None:
    """The demo's table comes out in the image as it does outside, to the byte."""
    assert "phantom v1: 15 nuclei in " in demo
    assert ": 10 ok, 2 failed, 3 skipped" in demo
    outside = [Path(sys.executable).with_name("somatic"), "demo", "--folder", tmp_path]
    subprocess.run(outside, check=True, capture_output=True)
    (table,) = tmp_path.glob("results/phantom/v1/*/features.parquet")
    inside = container.root / "work/somatic-demo" / table.relative_to(tmp_path)
    assert inside.read_bytes() == table.read_bytes()


@pytest.mark.usefixtures("demo")
def test_worker(container: Container, prefect_api_url: str) -> None:
    """A worker in the image says that it is well, runs a deployment of the flow to its end, and ends when told to."""
    environment = {"PREFECT_API_URL": prefect_api_url}
    (container.root / "work/prefect.yaml").write_text(_PREFECT_FILE)
    container.run("prefect", "work-pool", "create", "image", "--type", "process", **environment)
    container.run("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", "/work/prefect.yaml", **environment)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    served = {"PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1", "PREFECT_WORKER_WEBSERVER_PORT": port}
    command = ["prefect", "worker", "start", "--pool", "image", "--with-healthcheck"]
    worker = container.start(*command, **environment, **served)
    try:
        _wait_until_well(f"http://127.0.0.1:{port}/health")
        container.run("prefect", "deployment", "run", "extract/image", "--watch", within_s=600, **environment)
        first_process(worker).send_signal(signal.SIGTERM)
        said, _ = worker.communicate(timeout=120)
    finally:
        end(worker)
    assert "Completed" in said, said
    (table,) = (container.root / "work/by-worker").glob("phantom-files/v1/*/features.parquet")
    assert pd.read_parquet(table)["status"].value_counts().to_dict() == {"ok": 10, "failed": 2, "skipped": 3}


def test_kubernetes_worker_is_there(container: Container) -> None:
    """The image has the worker of a Kubernetes work pool."""
    said = container.run("python", "-c", "from prefect_kubernetes import KubernetesWorker as W; print(W.type)")
    assert said.strip() == "kubernetes"


def test_stops_at_once(container: Container) -> None:
    """SIGTERM reaches a command that does not handle it, though process 1 would not hear it."""
    running = container.start("python", "-c", "import time; print('up', flush=True); time.sleep(60)")
    try:
        assert running.stdout
        assert running.stdout.readline() == "up\n"
        told = time.monotonic()
        first_process(running).send_signal(signal.SIGTERM)
        running.wait(20)
        assert time.monotonic() - told < 5
    finally:
        end(running)


def test_no_secret_and_no_key(container: Container) -> None:
    """No certificate but those that Debian and packages publish, no key, and no token in the environment."""
    root = container.root
    published = ("botocore/cacert.pem", "certifi/cacert.pem", "grpc/_cython/_credentials/roots.pem")
    kept = {"etc/ssl/certs/ca-certificates.crt", *(f"{_PACKAGES}/{name}" for name in published)}
    found = _files(root, re.compile(r"\.(pem|crt|cer|key|p12|pfx)$"))
    assert {name for name in found if not name.startswith("usr/share/ca-certificates/mozilla/")} == kept
    bundle = (root / "etc/ssl/certs/ca-certificates.crt").read_text()
    assert bundle.count("BEGIN CERTIFICATE") == len(list((root / "usr/share/ca-certificates/mozilla").glob("*.crt")))
    assert not _files(root, re.compile(r"(^|/)(\.git|\.env|\.netrc|pip\.conf|credentials|cave-secret\.json)$"))
    assert {line.split("=")[0] for line in container.config["Env"]} == {
        "PATH",
        "HOME",
        "PREFECT_HOME",
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONSAFEPATH",
        "PYTHONUNBUFFERED",
        "DO_NOT_TRACK",
        "SOMATIC_COMMIT",
    }


def test_small(container: Container) -> None:
    """No tool of the build, no cache and no test travels, and all that was left imports."""
    root = container.root
    assert not (root / "build").exists()
    assert not (root / "src").exists()
    assert not list((root / "opt/somatic").glob("**/tests"))
    assert not list((root / _PACKAGES).glob("pip-*"))
    assert not list((root / "var/lib/apt/lists").iterdir())
    lacking = [line for line in container.run("python", "-c", _IMPORT_ALL).splitlines() if " needs " in line]
    assert not [line for line in lacking if line.endswith(("tests", "test"))], lacking
    inside = sum(file.lstat().st_size for file in (root / "opt").rglob("*"))
    assert inside < 1_200_000_000


def _wait_until_well(url: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            if httpx.get(url, timeout=5, trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    raise AssertionError(f"the worker does not answer at {url}")


def _files(root: Path, pattern: re.Pattern[str]) -> set[str]:
    files = (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    return {name for path in files if pattern.search(name := str(path.relative_to(root)))}
