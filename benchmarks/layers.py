"""Layers as public volumes have them, read over HTTP by `somatic extract`: seconds, requests and bytes per cell.

    .venv/bin/python -m benchmarks.layers [--wait-ms 80] [--cells 3 3 2] [--folder FOLDER]

The same tissue is written twice: in unsharded files, and in shard files laid out as those of minnie65 at mip 3 (chunks
of 128 x 128 x 32 voxels). The nuclei are a uint32 layer without its background files, their meshes legacy fragments. A
server on loopback holds back each answer for some milliseconds. It prints tables in Markdown (docs/performance.md has
them), and ends with an error where `somatic plan` is more than 20 % off, or where the two layouts give other features.
"""

import argparse
import contextlib
import http.server
import json
import multiprocessing
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pandas as pd
from cloudvolume import CloudVolume, chunks
from cloudvolume.datasource.precomputed.common import compressed_morton_code
from cloudvolume.datasource.precomputed.sharding import ShardingSpecification
from cloudvolume.mesh import Mesh

from benchmarks.tissue import TABLE_NM, Tissue, write_tissue

VOXEL_NM = (64, 64, 40)
CHUNK_VX = (128, 128, 32)
BLOCK_VX = (8, 8, 8)
# Of minnie65's flat copies at mip 3.
SHARDING = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "hash": "identity",
    "preshift_bits": 9,
    "minishard_bits": 6,
    "shard_bits": 11,
    "minishard_index_encoding": "gzip",
    "data_encoding": "gzip",
}
NUCLEUS_CHUNK_VX = (512, 512, 64)
MESHES = "mesh_mip_0_err_40"
MOST_OFF = 0.2


@dataclass(frozen=True)
class Extraction:
    """What one extraction took."""

    seconds: float
    requests: int
    bytes: int
    features: pd.DataFrame


def main() -> None:
    """Write the layers, extract, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wait-ms", type=float, default=80.0, help="how long the server holds back each answer")
    parser.add_argument("--cells", type=int, nargs=3, default=(3, 3, 2), help="along x, y, z")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "somatic-benchmark")
    arguments = parser.parse_args()
    n_cells = tuple(arguments.cells)
    tissue = write_tissue(arguments.folder / f"layers-{'x'.join(map(str, n_cells))}", VOXEL_NM, n_cells, CHUNK_VX)
    write_sharded(tissue)
    write_nuclei(tissue)

    wrong = []
    tables = {}
    total = int(np.prod(n_cells))
    print(f"| {total} cells, {arguments.wait_ms:g} ms per request; per cell | workers | s | requests | MB | plan |")
    print("|---|---|---|---|---|---|")
    for layout, layer in (("unsharded", "seg"), ("sharded", "sharded")):
        for workers in (1, 2):
            with (
                tempfile.TemporaryDirectory() as results,
                served(tissue.folder, arguments.wait_ms / 1000) as (url, log),
            ):
                dataset = write_dataset(tissue, f"{url}/{layer}", f"{url}/uint32", Path(results))
                planned = planned_bytes(dataset, Path(results))
                log.send(None)
                log.recv()
                run = extract(dataset, Path(results), workers, log)
            tables[layout, workers] = run.features
            off = planned / run.bytes - 1
            if abs(off) > MOST_OFF:
                wrong.append(f"the plan of the {layout} layer is {off:+.0%} off in bytes")
            print(
                f"| {layout} | {workers} | {run.seconds / total:.2f} | {run.requests / total:.0f} "
                f"| {run.bytes / total / 1e6:.1f} | {planned / total / 1e6:.1f} |"
            )
    first, *others = tables.values()
    if not all(first.equals(other) for other in others):
        wrong.append("features differ between the layouts")
    if wrong:
        sys.exit("; ".join(wrong))


def write_sharded(tissue: Tissue) -> None:
    """Write the segmentation of tissue again, in shard files."""
    folder = tissue.folder / "sharded"
    if (folder / "info").exists():
        return
    source = CloudVolume(tissue.segmentation, progress=False)
    info = json.loads(json.dumps(source.info))
    scale = info["scales"][0]
    scale["sharding"] = SHARDING
    spec = ShardingSpecification.from_dict(SHARDING)
    lower, shape = np.array(source.bounds.minpt), np.array(source.volume_size)
    grid = -(-shape // CHUNK_VX)
    coded = {}
    for index in np.ndindex(*grid.tolist()):
        start = np.array(index) * CHUNK_VX
        stop = np.minimum(start + CHUNK_VX, shape)
        labels = np.asarray(source[tuple(slice(a, b) for a, b in zip(start + lower, stop + lower, strict=True))])
        if labels.any():
            code = compressed_morton_code(np.array(index, dtype=np.uint32), grid.astype(np.uint32))
            coded[int(code)] = chunks.encode(labels, "compressed_segmentation", BLOCK_VX)
    (folder / scale["key"]).mkdir(parents=True)
    for name, content in spec.synthesize_shards(coded).items():
        (folder / scale["key"] / name).write_bytes(content)
    (folder / "info").write_text(json.dumps(info))


def write_nuclei(tissue: Tissue) -> None:
    """Write the nuclei as minnie65 has them: uint32 labels without files of background, meshes in legacy fragments."""
    folder = tissue.folder / "uint32"
    if (folder / MESHES).exists():
        return
    source = CloudVolume(tissue.nucleus_segmentation, progress=False)
    info = CloudVolume.create_new_info(
        num_channels=1,
        layer_type="segmentation",
        data_type="uint32",
        encoding="compressed_segmentation",
        resolution=list(VOXEL_NM),
        voxel_offset=list(source.voxel_offset),
        volume_size=list(source.volume_size),
        chunk_size=NUCLEUS_CHUNK_VX,
        mesh=MESHES,
    )
    layer = CloudVolume(f"precomputed://file://{folder.resolve()}", info=info, progress=False)
    layer.commit_info()
    layer.mesh.meta.commit_info()
    for nucleus_id in tissue.nuclei()["id"]:
        whole = source.mesh.get(int(nucleus_id))
        whole = whole.get(int(nucleus_id)) if isinstance(whole, dict) else whole
        fragments = _fragments(whole.vertices, whole.faces, np.array(NUCLEUS_CHUNK_VX) * VOXEL_NM)
        names = []
        for number, (vertices, faces) in enumerate(fragments):
            names.append(f"{nucleus_id}:0:{number}")
            content = Mesh(vertices, faces.astype(np.uint32), segid=None).to_precomputed()
            (folder / MESHES / names[-1]).write_bytes(content)
        (folder / MESHES / f"{nucleus_id}:0").write_text(json.dumps({"fragments": names}))


def _fragments(vertices: np.ndarray, faces: np.ndarray, chunk_nm: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Faces by the chunk that holds their middle, each part with the vertices that it uses."""
    chunk = np.floor(vertices[faces].mean(axis=1) / chunk_nm).astype(np.int64)
    _, of_chunk = np.unique(chunk, axis=0, return_inverse=True)
    parts = []
    for number in range(of_chunk.max() + 1):
        used, renumbered = np.unique(faces[of_chunk.ravel() == number], return_inverse=True)
        parts.append((vertices[used].astype(np.float32), renumbered.reshape(-1, 3)))
    return parts


def write_dataset(tissue: Tissue, segmentation: str, nuclei: str, folder: Path) -> Path:
    """Write a dataset file of the tissue with its layers behind a server."""
    path = folder / "tissue.toml"
    tables = tissue.folder.resolve()
    path.write_text(
        f'name = "tissue"\nmip = 0\nsegmentation = "{segmentation}"\n\n[files]\n'
        f'nuclei = "{tables}/nuclei.parquet"\nsynapses = "{tables}/synapses.parquet"\n'
        f'resolution_nm = {list(TABLE_NM)}\nnucleus_segmentation = "{nuclei}"\n'
    )
    return path


def planned_bytes(dataset: Path, results: Path) -> float:
    """Bytes of segmentation that `somatic plan` promises."""
    said = _somatic("plan", str(dataset), "--to", str(results / "results"))
    number, unit = re.search(r"reading\s.*?([\d.,]+) (kB|MB|GB)", said).groups()  # type: ignore[union-attr]
    return float(number.replace(",", "")) * {"kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]


def extract(dataset: Path, results: Path, workers: int, log: Connection) -> Extraction:
    """Extract all cells; requests and bytes are those that the server saw."""
    begun = time.perf_counter()
    said = _somatic("extract", str(dataset), "--to", str(results / "results"), "--workers", str(workers))
    seconds = time.perf_counter() - begun
    log.send(None)
    answers = log.recv()
    features = pd.read_parquet(said.splitlines()[-1])
    if not (features["status"] == "ok").all():
        sys.exit(f"cells failed: {features['reason'].dropna().iloc[0]}")
    return Extraction(seconds, len(answers), sum(size for path, size in answers if "/uint32" not in path), features)


def _somatic(*arguments: str) -> str:
    command = [Path(sys.executable).with_name("somatic"), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(done.stdout)
    return done.stdout


@contextlib.contextmanager
def served(folder: Path, wait_ms: float) -> Iterator[tuple[str, Connection]]:
    """Serve a folder over HTTP in a process of its own.

    Yields
    ------
    str
        Cloudpath of the folder.
    Connection
        For anything sent it answers with path and bytes of each answer since the last time.
    """
    here, there = multiprocessing.Pipe()
    server = multiprocessing.Process(target=_serve, args=(folder, wait_ms / 1000, there), daemon=True)
    server.start()
    try:
        yield f"precomputed://http://127.0.0.1:{here.recv()}", here
    finally:
        server.terminate()
        server.join()


def _serve(folder: Path, wait_s: float, parent: Connection) -> None:
    import threading

    answered: list[tuple[str, int]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            time.sleep(wait_s)
            path = folder / self.path.lstrip("/")
            zipped = path.with_name(f"{path.name}.gz")
            found = zipped if zipped.exists() else path
            body, status = (found.read_bytes(), 200) if found.is_file() else (b"", 404)
            if status == 200 and (part := self.headers.get("Range")):
                first, last = part.removeprefix("bytes=").split("-")
                body, status = body[int(first) : int(last) + 1], 206
            answered.append((self.path, len(body)))
            self.send_response(status)
            if found == zipped and body:
                self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 128
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Ignore clients that disconnect."""

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    parent.send(server.server_port)
    while True:
        parent.recv()
        seen = answered.copy()
        answered.clear()
        parent.send(seen)


if __name__ == "__main__":
    main()
