"""A new version of a whole minnie65 on this machine: 15 % of the cells have another root id, 1 % another soma.

144,000 nuclei and their synapses lie in a CAVE server on this machine with a chunked graph, and the results of version
1 in an S3 server. The flow `extract` takes over what it can of version 2, against a Prefect server. Only measuring a
cell is replaced, by made-up numbers, and CAVE's limit on requests is lifted.

    .venv/bin/python -m benchmarks.new_version [--nuclei 144000]

It takes about half an hour, prints a table in Markdown (docs/scale.md has one), and leaves nothing behind.
"""

import argparse
import contextlib
import hashlib
import os
import tempfile
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

import boto3
import numpy as np
import pandas as pd
import pyarrow as pa
from cloudvolume import CloudVolume

from benchmarks.full_size import FILE_VX, S3, TABLE_NM, VOLUME_UM, VOXEL_NM, Steps, layer_info, made_up, served
from sandbox.cave.server import CaveServer, CaveTable, Datastack, MaterializedVersion
from sandbox.graph.chunked_graph import ChunkedGraph, State
from sandbox.graph.ids import chunks_of, make_ids
from somatic.check import choose_sample
from somatic.features import feature_table, features_versions
from somatic.tables import nuclei_from_raw

FIRST_ROOT = 864_691_130_000_000_000
RE_ROOTED = 0.15
CHANGED = 0.01
LEAVES = 12
"""Supervoxels of a cell in its cutout; a real one has hundreds or thousands."""
SYNAPSES = 10
"""Of a cell in its cutout; a real one has hundreds."""
RADIUS_UM = 15.0
VERSIONS = (datetime(2025, 1, 1, 8, 10, 1, 1), datetime(2025, 4, 1, 8, 10, 1, 1))
TOKEN = "made-up"


def main() -> None:
    """Run it and print what it came to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nuclei", type=int, default=144_000)
    volume = Volume(parser.parse_args().nuclei)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        endpoint = stack.enter_context(served("moto_server", "-H", "127.0.0.1", "-p", "{port}", answers="/moto-api"))
        os.environ |= S3 | {
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "AWS_ENDPOINT_URL": endpoint,
            "CAVE_TOKEN": TOKEN,
        }
        command = ("prefect", "server", "start", "--host", "127.0.0.1", "--port", "{port}")
        server = stack.enter_context(served(*command, answers="/api/health"))
        os.environ |= {
            "PREFECT_API_URL": f"{server}/api",
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
            "PREFECT_LOGGING_LEVEL": "WARNING",
        }
        boto3.client("s3").create_bucket(Bucket="new-version")
        cave = stack.enter_context(CaveServer(volume.datastack(folder), token=TOKEN))
        dataset = write_dataset(folder, cave.url)
        volume.put_results_of_version_1(dataset, "s3://new-version/somatic")
        n_asked = len(cave.requests)
        steps = extract_version_2(dataset, "s3://new-version/somatic")
        print_table(steps, Counter(_kind(request.path) for request in cave.requests[n_asked:]))
        volume.check(dataset, "s3://new-version/somatic")


class Volume:
    """Cells, each with a soma of its own, at two versions."""

    def __init__(self, n_nuclei: int) -> None:
        rng = np.random.default_rng(0)
        self.ids = 200_000 + np.arange(n_nuclei)
        upper_vx = np.array(VOLUME_UM) * 1000 // np.array(TABLE_NM)
        self.centres_vx = rng.integers(0, upper_vx, (n_nuclei, 3))
        self.re_rooted = rng.random(n_nuclei) < RE_ROOTED
        self.changed = self.re_rooted & (rng.random(n_nuclei) < CHANGED / RE_ROOTED)
        first = np.uint64(FIRST_ROOT) + np.arange(n_nuclei).astype(np.uint64)
        self.roots = (first, first + self.re_rooted.astype(np.uint64) * np.uint64(n_nuclei))
        # All of a cell lies in the chunk of its centre.
        chunks = self.centres_vx * np.array(TABLE_NM) // (np.array(VOXEL_NM) * FILE_VX)
        order = np.lexsort(chunks.T)
        same = np.r_[False, (np.diff(chunks[order], axis=0) == 0).all(axis=1)]
        place = np.arange(n_nuclei) - np.maximum.accumulate(np.where(same, 0, np.arange(n_nuclei)))
        number = np.empty(n_nuclei, dtype=np.int64)
        number[order] = place
        self.cell_of_leaf = np.repeat(np.arange(n_nuclei), LEAVES)
        within = np.tile(np.arange(LEAVES), n_nuclei) + number[self.cell_of_leaf] * LEAVES + 1
        self.leaves = make_ids(1, chunks[self.cell_of_leaf], within)

    def datastack(self, folder: Path) -> Datastack:
        """Tables of both versions, and the graph."""
        order = np.argsort(self.leaves)
        cells, leaves = self.cell_of_leaf[order], self.leaves[order]
        level2 = make_ids(2, chunks_of(leaves), np.ones(len(leaves), dtype=np.int64))
        # In a changed cell one supervoxel belongs to another root.
        torn_off = self.changed[cells] & np.r_[True, np.diff(cells) != 0]
        second = np.where(torn_off, self.roots[1][cells] + np.uint64(2 * len(self.ids)), self.roots[1][cells])
        info = layer_info()
        self._write_centres(folder, info)
        moments = [moment.replace(tzinfo=UTC) - timedelta(days=30) for moment in VERSIONS]
        states = [State(moments[0], self.roots[0][cells], level2), State(moments[1], second, level2)]
        graph = ChunkedGraph(info, f"file://{folder}/watershed", FILE_VX, leaves, states)
        versions = [
            MaterializedVersion(
                number,
                moment,
                is_merged=True,
                tables={
                    "nuclei": CaveTable(self._nuclei(roots), TABLE_NM, "nucleus_detection"),
                    "synapses": CaveTable(self._synapses(roots), TABLE_NM, "synapse"),
                },
            )
            for number, (moment, roots) in enumerate(zip(VERSIONS, self.roots, strict=True), 1)
        ]
        return Datastack("made-up", "made-up", "graphene://{server}/segmentation/table/g", versions, graph=graph)

    def put_results_of_version_1(self, dataset: Path, to: str) -> None:
        """Write a table and its provenance as measuring every cell would leave them."""
        from somatic.dataset import load_dataset
        from somatic.extracting.chunk import cells_of
        from somatic.extracting.extraction import Extraction
        from somatic.extracting.fingerprints import synapse_hash
        from somatic.planning.plan import make_plan
        from somatic.results.chunks import chunk_row
        from somatic.results.manifest import put_manifest
        from somatic.results.table import PROVENANCE_SCHEMA
        from somatic.storage.parquet import parquet_bytes
        from somatic.synapses import synapses_in_cutout
        from somatic.tables import synapses_from_raw

        extraction = Extraction.open(load_dataset(dataset), 1, to, with_meshes=False)
        nuclei = nuclei_from_raw(self._nuclei(self.roots[0]), resolution_nm=TABLE_NM, where="made-up nuclei")
        plan = make_plan(nuclei, radius_nm=extraction.radius_nm)
        synapses = synapses_from_raw(self._synapses(self.roots[0]), resolution_nm=TABLE_NM, where="made-up synapses")
        cells = cells_of(plan.rows, plan.resolution_nm)
        leaves = np.sort(self.leaves.reshape(-1, LEAVES), axis=1)
        rows = []
        for cell, result in zip(cells, made_up(cells, extraction.inputs(None)), strict=True):
            known = extraction.soma_fingerprint(replace(cell, leaves=leaves[cell.nucleus_id - self.ids[0]]))
            near = synapses_in_cutout(synapses, cell.root_id, cell.centre_nm, extraction.radius_nm)
            origin = {"soma_version": 1, "soma_fingerprint": known, "synapse_hash": synapse_hash(near)}
            failure = type(result.error).__name__ if result.error else None
            row = chunk_row(result.row, centre_vx=cell.centre_vx, attempt=1, error_class=failure, origin=origin)
            rows.append(row | features_versions() | {"code_version": "", "materialization_version": 1})
        rows.sort(key=lambda row: row["nucleus_id"])
        features = parquet_bytes(feature_table(rows))
        extraction.store.put("features.parquet", features)
        extraction.store.put("provenance.parquet", parquet_bytes(pa.Table.from_pylist(rows, schema=PROVENANCE_SCHEMA)))
        extraction.store.put("nuclei.parquet", parquet_bytes(pa.table({"nucleus_id": self.ids})))
        n = len(rows)
        counts = {"queried": n, "nuclei": n, "failed_transient": 0}
        stated = {"features.parquet": hashlib.sha256(features).hexdigest()}
        put_manifest(extraction.store, {"counts": counts, "sha256": stated, "config": extraction.config})

    def check(self, dataset: Path, to: str) -> None:
        """Check that exactly the cells were measured that changed, and those with another root id that had failed."""
        from somatic.dataset import load_dataset
        from somatic.extracting.extraction import Extraction

        store = Extraction.open(load_dataset(dataset), 2, to).store
        provenance = pd.read_parquet(store.url_of("provenance.parquet")).set_index("nucleus_id")
        computed = provenance.index[provenance["source"] == "computed"]
        failed = self.ids[self.ids % 1000 == 0]
        again = set(self.ids[self.changed]) | set(np.intersect1d(failed, self.ids[self.re_rooted]))
        assert set(computed) == again, (len(computed), len(again))
        print(f"\n{len(computed):,} cells measured, {len(provenance) - len(computed):,} reused")

    def _nuclei(self, roots: np.ndarray) -> pd.DataFrame:
        position = {f"pt_position_{axis}": self.centres_vx[:, n] for n, axis in enumerate("xyz")}
        return pd.DataFrame({"id": self.ids, "pt_root_id": roots.astype(np.int64), **position})

    def _synapses(self, roots: np.ndarray) -> pd.DataFrame:
        rng = np.random.default_rng(1)
        of_cell = np.repeat(np.arange(len(self.ids)), SYNAPSES)
        reach_vx = (RADIUS_UM * 500 / np.array(TABLE_NM)).astype(int)
        at = self.centres_vx[of_cell] + rng.integers(-reach_vx, reach_vx, (len(of_cell), 3))
        positions = {
            f"{name}_{axis}": at[:, n]
            for name in ("ctr_pt_position", "post_pt_position")
            for n, axis in enumerate("xyz")
        }
        ids = 1 + np.arange(len(of_cell))
        return pd.DataFrame(
            {"id": ids, "pre_pt_root_id": 5, "post_pt_root_id": roots[of_cell].astype(np.int64), **positions}
        )

    def _write_centres(self, folder: Path, info: dict) -> None:
        """Write as much of the watershed as the check of the segmentation looks at."""
        layer = CloudVolume(f"file://{folder}/watershed", info=info, non_aligned_writes=True, fill_missing=True)
        layer.commit_info()
        for roots in self.roots:
            nuclei = nuclei_from_raw(self._nuclei(roots), resolution_nm=TABLE_NM, where="made-up nuclei")
            for row in choose_sample(nuclei).itertuples():
                x, y, z = (np.array([row.x_vx, row.y_vx, row.z_vx]) * TABLE_NM // VOXEL_NM).tolist()
                # Not the first, which an edit may have torn off.
                leaf = self.leaves.reshape(-1, LEAVES)[row.nucleus_id - self.ids[0], -1]
                layer[x : x + 1, y : y + 1, z : z + 1] = np.full((1, 1, 1, 1), leaf, np.uint64)


def write_dataset(folder: Path, server: str) -> Path:
    """Write the dataset file."""
    path = folder / "newversion.toml"
    path.write_text(
        f'name = "newversion"\nmip = 0\nsegmentation = "graphene://{server}/segmentation/table/g"\n'
        f'[cave]\nserver = "{server}"\ndatastack = "made-up"\nnuclei = {{table = "nuclei"}}\nsynapses = "synapses"\n'
    )
    return path


def extract_version_2(dataset: Path, to: str) -> Steps:
    """Run the flow with everything real but the measuring, and without a limit on requests."""
    import somatic.extracting.extraction
    from flows.extract import extract
    from flows.listening import Listener, heard_by
    from somatic.cave import calls

    class Steadily(Steps):
        def on_step(self, name: str) -> None:
            # A step that tells how far it is stays one.
            if not self.names or name.split(":")[0] != self.names[-1]:
                super().on_step(name.split(":")[0])

    with (
        Steadily() as steps,
        mock.patch.object(somatic.extracting.extraction, "extract_cells_apart", made_up),
        mock.patch.object(calls.RateLimiter, "wait"),
    ):
        listener = Listener(on_step=steps.on_step, on_estimate=lambda *_: steps.on_step("measuring (made up)"))
        with heard_by(listener):
            extract(str(dataset), version=2, to=to, meshes=False, workers=2)
    return steps


def print_table(steps: Steps, requests: Counter[str]) -> None:
    """Print time and memory by step, then what CAVE was asked."""
    print("| step | seconds | peak memory of the process, servers included |\n|---|---|---|")
    for name, begun, ended, peak in zip(steps.names, steps.started, steps.started[1:], steps.peak_bytes, strict=False):
        print(f"| {name} | {ended - begun:.1f} | {peak / 2**20:.0f} MiB |")
    print("\n| asked of CAVE | requests |\n|---|---|")
    for kind, number in requests.most_common():
        print(f"| {kind} | {number:,} |")


def _kind(path: str) -> str:
    for kind in ("leaves", "is_latest_roots", "roots_binary", "synapses/query", "nuclei/query"):
        if path.endswith(kind):
            return kind
    return "all else"


if __name__ == "__main__":
    main()
