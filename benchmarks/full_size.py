"""A whole minnie65 on this machine, with made-up measurements: everything else is real.

144,000 nuclei are planned, cut into shards and chunks, written as chunk files to an S3 server on this machine and
collected, by the flow `extract` against a Prefect server. Only measuring a cell is replaced, by made-up numbers.

    .venv/bin/python -m benchmarks.full_size [--nuclei 144000]

It takes about a quarter of an hour, prints a table in Markdown (docs/scale.md has one), and leaves nothing behind.
"""

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import boto3
import httpx
import numpy as np
import pandas as pd
import psutil
from cloudvolume import CloudVolume

from sandbox import ending
from somatic.cell import Cell, empty_row
from somatic.check import choose_sample
from somatic.errors import MissingSegment
from somatic.features import MEASURED, SCHEMA
from somatic.tables import nuclei_from_raw
from somatic.workers.measuring import CellResult, Inputs, failed

VOLUME_UM = (1_150, 780, 880)
TABLE_NM = (4, 4, 40)
VOXEL_NM = (64, 64, 40)
FILE_VX = (64, 64, 64)
FIRST_ROOT = 864_691_130_000_000_000
FAILED_OF = 1000
"""One cell in so many has no voxel in its cutout."""
S3 = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local", "AWS_DEFAULT_REGION": "us-east-1"}


def main() -> None:
    """Run it and print what it came to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nuclei", type=int, default=144_000)
    n_nuclei = parser.parse_args().nuclei
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        endpoint = stack.enter_context(served("moto_server", "-H", "127.0.0.1", "-p", "{port}", answers="/moto-api"))
        settings = {
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # As in deployments/helm/prefect-server.yaml.
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
        }
        os.environ |= settings | S3
        command = ("prefect", "server", "start", "--host", "127.0.0.1", "--port", "{port}")
        server = stack.enter_context(served(*command, answers="/api/health"))
        os.environ |= {
            "AWS_ENDPOINT_URL": endpoint,
            "PREFECT_API_URL": f"{server}/api",
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
            "PREFECT_LOGGING_LEVEL": "WARNING",
        }
        bucket = boto3.client("s3")
        bucket.create_bucket(Bucket="full-size")
        dataset = write_dataset(folder, n_nuclei)
        print_table(extract_all(dataset, "s3://full-size/somatic"), bucket)


@contextlib.contextmanager
def served(*command: str, answers: str) -> Iterator[str]:
    """A server of this environment on loopback, until it answers; yields its address."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    program = Path(sys.executable).with_name(command[0])
    arguments = [argument.format(port=port) for argument in command[1:]]
    process = ending.start([program, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(address + answers, timeout=5, trust_env=False).is_success:
                    break
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def write_dataset(folder: Path, n_nuclei: int) -> Path:
    """Write nuclei in a volume of the size of minnie65, and as much of its segmentation as the check looks at."""
    rng = np.random.default_rng(0)
    upper_vx = np.array(VOLUME_UM) * 1000 // np.array(TABLE_NM)
    raw = pd.DataFrame(
        {
            "id": 200_000 + np.arange(n_nuclei),
            "pt_root_id": FIRST_ROOT + np.arange(n_nuclei),
            "pt_position": rng.integers(0, upper_vx, (n_nuclei, 3)).tolist(),
        }
    )
    raw.to_parquet(folder / "nuclei.parquet")
    info = layer_info()
    layer = CloudVolume(
        f"precomputed://file://{folder}/segmentation", info=info, non_aligned_writes=True, fill_missing=True
    )
    layer.commit_info()
    nuclei = nuclei_from_raw(raw, resolution_nm=TABLE_NM, where="made-up nuclei")
    for row in choose_sample(nuclei).itertuples():
        centre_nm = np.array([row.x_vx, row.y_vx, row.z_vx]) * TABLE_NM
        x, y, z = (centre_nm // VOXEL_NM).tolist()
        layer[x : x + 1, y : y + 1, z : z + 1] = np.full((1, 1, 1, 1), row.root_id, np.uint64)
    dataset = folder / "fullsize.toml"
    dataset.write_text(
        f'name = "fullsize"\nmip = 0\nsegmentation = "precomputed://file://{folder}/segmentation"\n'
        f'[files]\nnuclei = "nuclei.parquet"\nresolution_nm = {list(TABLE_NM)}\n'
    )
    return dataset


def layer_info() -> dict[str, Any]:
    """Info of a segmentation of the size of minnie65."""
    return CloudVolume.create_new_info(
        num_channels=1,
        layer_type="segmentation",
        data_type="uint64",
        encoding="compressed_segmentation",
        resolution=VOXEL_NM,
        voxel_offset=(0, 0, 0),
        volume_size=(np.array(VOLUME_UM) * 1000 // np.array(VOXEL_NM)).tolist(),
        chunk_size=FILE_VX,
    )


def made_up(cells: list[Cell], inputs: Inputs, **_: Any) -> Iterator[CellResult]:
    """Stand in for `somatic.workers.isolation.extract_cells_apart`: numbers that depend on the nucleus alone."""
    for cell in cells:
        if cell.nucleus_id % FAILED_OF == 0:
            yield failed(cell, inputs, MissingSegment(f"root id {cell.root_id} has no voxel in the cutout"))
            continue
        row, random_number = empty_row(cell, 0, "published"), random.Random(cell.nucleus_id).random
        for name in MEASURED:
            kind = str(SCHEMA.field(name).type)
            row[name] = {"double": 1000 * random_number(), "int64": 7, "bool": True}[kind]
        row["status"] = "ok"
        yield CellResult(row, {"read": random_number()})


class Steps:
    """Time and peak memory of each step of an extraction in this process."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.started: list[float] = []
        self.peak_bytes: list[int] = []
        self._end = threading.Event()

    def on_step(self, name: str) -> None:
        """Begin a step."""
        self.names.append(name)
        self.started.append(time.perf_counter())
        self.peak_bytes.append(0)

    def __enter__(self) -> "Steps":
        self.on_step("start")
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.started.append(time.perf_counter())

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._end.wait(0.05):
            self.peak_bytes[-1] = max(self.peak_bytes[-1], process.memory_info().rss)


def extract_all(dataset: Path, to: str) -> Steps:
    """Run the flow with everything real but the measuring."""
    import somatic.extracting.extraction
    from flows.extract import extract
    from flows.listening import Listener, heard_by

    with Steps() as steps, mock.patch.object(somatic.extracting.extraction, "extract_cells_apart", made_up):
        listener = Listener(
            on_step=steps.on_step,
            on_estimate=lambda *_: steps.on_step("measuring (made up), writing chunk files"),
        )
        with heard_by(listener):
            extract(str(dataset), to=to, meshes=False, workers=2)
    return steps


def print_table(steps: Steps, bucket: Any) -> None:
    """Print time and memory by step, then what the server and the bucket hold."""
    print("| step | seconds | peak memory of the process |\n|---|---|---|")
    for name, begun, ended, peak in zip(steps.names, steps.started, steps.started[1:], steps.peak_bytes, strict=False):
        print(f"| {name} | {ended - begun:.1f} | {peak / 2**20:.0f} MiB |")
    recorded = read_recorded()
    print("\n| on Prefect's server | number |\n|---|---|")
    for what, number in sorted(recorded.items()):
        print(f"| {what} | {number:,} |")
    objects: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for page in bucket.get_paginator("list_objects_v2").paginate(Bucket="full-size"):
        for found in page["Contents"]:
            name = found["Key"].split("/", 4)[-1]
            kind = name.partition("/")[0]
            objects[kind] += 1
            sizes[kind] += found["Size"]
    print("\n| in the bucket | objects | bytes |\n|---|---|---|")
    for kind, number in sorted(objects.items()):
        print(f"| {kind} | {number:,} | {sizes[kind]:,} |")


def read_recorded() -> Counter[str]:
    """Count flow runs and task runs by state, when the server has recorded all that it was told."""
    from flows.own_server import send_what_is_left

    send_what_is_left()
    api, before = os.environ["PREFECT_API_URL"], Counter({"": -1})
    while True:
        recorded = Counter[str]()
        for kind in ("flow", "task"):
            for state in ("COMPLETED", "FAILED", "RUNNING", "PENDING", "CRASHED"):
                chosen = {f"{kind}_runs": {"state": {"type": {"any_": [state]}}}}
                number = httpx.post(f"{api}/{kind}_runs/count", json=chosen, timeout=60, trust_env=False).json()
                recorded[f"{kind} runs {state.lower()}"] = number
        if recorded == before:
            return +recorded
        before = recorded
        time.sleep(10)


if __name__ == "__main__":
    main()
