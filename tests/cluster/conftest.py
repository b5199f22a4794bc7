"""A cluster with the manifests of deployments/, and beside it all that an extraction needs.

Everything that pods talk to listens on loopback of this machine: Prefect's server, S3, CAVE, the segmentation. So pods
must share the network of this machine, as those of ../shared/kube do, and their image must have this checkout.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from cluster import NAMESPACE, Cluster
from extracting import TOKEN, Results, Spot, changed, command, ended, find_spots, without_nuclei
from file_server import FileServer
from lab import Extraction, Lab, Worker, deploy
from postgres import postgres
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect_server import PrefectServer
from s3_proxy import S3Proxy

from sandbox.cave.server import CaveServer
from sandbox.lab import datastack, write_cave_dataset
from sandbox.phantom.scene import Scene


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The cluster that KUBECONFIG names, where nobody uses our namespace."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG names no cluster; ../shared/kube/up starts one, then: make test-cluster")
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is missing: apt-get install kubernetes-client")
    cluster = Cluster()
    if cluster.has_namespace():
        pytest.fail(
            f"the cluster has a namespace {NAMESPACE} already, which these tests make and delete; if it is a leftover: "
            "kubectl delete -k deployments/kubernetes"
        )
    return cluster


@pytest.fixture(scope="session")
def scene(phantom: Any) -> Scene:
    """The whole phantom; SOMATIC_SCENE names a folder that keeps it from one session to the next."""
    return phantom.scene


@pytest.fixture(scope="session")
def cave(scene: Scene) -> Iterator[CaveServer]:
    """The scene behind a CAVE server that wants the token."""
    with CaveServer(datastack(scene), token=TOKEN) as server:
        yield server


@pytest.fixture(scope="session")
def bucket(scene: Scene) -> Iterator[FileServer]:
    """The layers of the scene over HTTP, with faults on demand."""
    with FileServer(scene.folder) as server:
        yield server


@pytest.fixture(scope="session")
def dataset(scene: Scene, cave: CaveServer, bucket: FileServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scene behind CAVE, the segmentation over HTTP."""
    path = write_cave_dataset(scene, cave.url, tmp_path_factory.mktemp("dataset") / "phantom.toml")
    return changed(without_nuclei(path), *((scene.segmentation_url(n), bucket.url(f"seg_v{n}")) for n in (1, 2)))


@pytest.fixture(scope="session")
def undisturbed(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Version 1 of the scene, extracted on this machine by the command."""
    folder = tmp_path_factory.mktemp("undisturbed")
    own = {"HOME": str(folder), "CAVE_TOKEN": TOKEN, "PREFECT_HOME": str(folder / "prefect"), "PREFECT_API_URL": None}
    arguments = ("--version", 1, "--to", folder / "results", "--chunk", 1, "--workers", 2)
    ran = ended(command("extract", dataset, *arguments, folder=folder, **own))
    assert ran.status == 0, ran.err
    return Results(str(folder / "results"))


@pytest.fixture(scope="module")
def whole_lab(
    cluster: Cluster,
    scene: Scene,
    cave: CaveServer,
    bucket: FileServer,
    dataset: Path,
    s3_endpoint: str,
    s3_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Lab]:
    """A lab for the tests of a module.

    Its server has Postgres, as on a cluster: with SQLite Prefect drops an event that it cannot note while the database
    is locked, and then no automation hears of it.
    """
    folder = tmp_path_factory.mktemp("lab")
    with ExitStack() as stack:
        server = PrefectServer(folder, stack.enter_context(postgres()))
        server.start()
        stack.callback(server.stop)
        known = {PREFECT_API_URL: server.url, PREFECT_HOME: folder / "home"}
        stack.enter_context(temporary_settings(known))
        s3 = stack.enter_context(S3Proxy(s3_endpoint))
        stack.callback(cluster.delete)
        cluster.apply(cave={"CAVE_TOKEN": TOKEN}, s3={"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"})
        cluster.put_config_map(dataset)
        client = stack.enter_context(get_client(sync_client=True))
        deploy(client, server.url, dataset, s3_url, s3.endpoint)
        kubeconfig = folder / "worker.kubeconfig"
        cluster.write_worker_kubeconfig(kubeconfig)
        worker = Worker(kubeconfig, server.url, folder)
        worker.start()
        stack.callback(worker.stop)
        yield Lab(client, cluster, server, worker, cave, bucket, s3, s3_url, find_spots(scene))


@pytest.fixture
def lab(whole_lab: Lab) -> Iterator[Lab]:
    """The lab, in which nothing is wrong yet."""
    yield whole_lab
    whole_lab.repair()
    whole_lab.end_all()


@pytest.fixture(scope="module")
def held(undisturbed: Results, whole_lab: Lab) -> tuple[int, Spot]:
    """A chunk in the middle of the first shard, and the one cell in it, which can be made to wait."""
    [name] = undisturbed.store.names("plans")
    plan = pd.read_parquet(undisturbed.store.url_of(f"plans/{name}")).set_index("nucleus_id")
    chunks = {int(plan.loc[spot.nucleus_id, "chunk"]): spot for spot in whole_lab.spots}
    chunk = min(number for number in chunks if number >= 2)
    return chunk, chunks[chunk]


@pytest.fixture
def extraction(lab: Lab, held: tuple[int, Spot]) -> Extraction:
    """An extraction whose first shard is in the middle of its work, and waits there until `Lab.repair`."""
    lab.hold(held[1])
    extraction = lab.extract()
    extraction.until(lambda: lab.is_held(held[1]))
    return extraction
