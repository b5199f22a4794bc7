"""A field of cells: a chunk measured by somatic and some of it the plain way, one worker and two, the files of a shard.

    .venv/bin/python -m benchmarks.field [--voxel 64 64 40] [--folder FOLDER] [--plain 1]

It prints tables in Markdown (docs/performance.md has them), and ends with an error where somatic and the plain way
disagree by more than the definitions allow, or where a shard fetches its files more often than it should.
"""

import argparse
import contextlib
import http.server
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np

from benchmarks.one_cell import Run, deviations, print_row, watched
from benchmarks.tissue import RADIUS_UM, TABLE_NM, Tissue, write_tissue
from somatic.cell import Cell, cell_box
from somatic.cutout import Segmentation
from somatic.planning.plan import make_plan
from somatic.tables import nuclei_from_raw, synapses_from_raw
from somatic.volume.cache_folder import cache_folder
from somatic.volume.file_cache import LIMIT_BYTES, FileCache
from somatic.workers.measuring import Inputs

RADIUS_NM = RADIUS_UM * 1000
CELLS_PER_CHUNK = 10
WORKERS = 2
MOST_FETCHED = 1.3
# For the files of a shard only places matter: in fewer voxels, in files as large in nm as those of minnie65 at mip 3.
_COARSE_NM, _COARSE_FILE_VX = (250, 250, 160), (64, 64, 8)
# Of minnie65's files, as `somatic plan` counts.
_BYTES_PER_VOXEL = 0.25


def main() -> None:
    """Measure, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voxel", type=int, nargs=3, default=(64, 64, 40), metavar="NM")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "somatic-benchmark")
    parser.add_argument("--plain", type=int, default=1, help="cells that are measured the plain way too")
    parser.add_argument("--only", choices=("plain", "somatic"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    voxel_nm = tuple(arguments.voxel)
    tissue = write_tissue(arguments.folder / f"field-{voxel_nm[0]}", voxel_nm, (2, 2, 2))
    if arguments.only:
        runs = plain(tissue, arguments.plain) if arguments.only == "plain" else [somatic(tissue)]
        print(json.dumps([asdict(run) for run in runs]))
        return
    wrong = print_chunk(tissue, apart("plain"), apart("somatic")[0])
    print_workers(tissue)
    shard = write_tissue(arguments.folder / "shard", _COARSE_NM, (6, 5, 5), _COARSE_FILE_VX)
    share = print_files(shard)
    if wrong:
        sys.exit("beyond tolerance: " + "; ".join(wrong))
    if share > MOST_FETCHED:
        sys.exit(f"a shard fetched {share:.2f} times the bytes of its files")


def apart(which: str) -> list[Run]:
    """Run this program again for one of the two, with one core to itself."""
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [sys.executable, "-m", "benchmarks.field", *sys.argv[1:], "--only", which]
    answer = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment).stdout
    return [Run(**run) for run in json.loads(answer.splitlines()[-1])]


def plain(tissue: Tissue, n_cells: int) -> list[Run]:
    """Measure the first cells the plain way."""
    from benchmarks.reference import measure_cell

    runs = []
    for nucleus in tissue.nuclei().head(n_cells).to_dict("records"):
        run = Run()
        with watched(run, tissue.folder):
            run.row = measure_cell(
                nucleus["id"],
                nucleus["pt_root_id"],
                nucleus["pt_position"],
                tissue.segmentation,
                tissue.nucleus_segmentation,
                tissue.synapses(),
                run.stage,
            )
        runs.append(run)
    return runs


def somatic(tissue: Tissue) -> Run:
    """Measure all cells as a chunk is measured; the rows are those of the first ones, by nucleus id."""
    from somatic.workers.ready_published import CellMeasurer

    run, cells = Run(), cells_of(tissue)
    with cache_folder() as folder, watched(run, tissue.folder), run.stage("all"):
        results = list(CellMeasurer(inputs_of(tissue, folder)).all_of(cells))
    for result in results:
        if result.error:
            raise result.error
        for name, value in result.row.items():
            if isinstance(value, int | float):
                run.row[f"{result.row['nucleus_id']} {name}"] = value
    return run


def cells_of(tissue: Tissue) -> list[Cell]:
    """The cells in the order of a plan."""
    nuclei = nuclei_from_raw(tissue.nuclei(), resolution_nm=TABLE_NM, where="the tissue")
    rows = make_plan(nuclei, chunk=CELLS_PER_CHUNK, radius_nm=RADIUS_NM).rows
    ordered = rows.to_dict("records")
    return [Cell(r["nucleus_id"], r["soma_id"], (r["x_vx"], r["y_vx"], r["z_vx"]), TABLE_NM) for r in ordered]


def inputs_of(tissue: Tissue, file_cache: str | None) -> Inputs:
    """What the cells are measured from."""
    return Inputs(
        segmentation_url=tissue.segmentation,
        mip=0,
        radius_nm=RADIUS_NM,
        materialization_version=0,
        definitions="published",
        nuclei_url=tissue.nucleus_segmentation,
        synapses=synapses_from_raw(tissue.synapses(), resolution_nm=TABLE_NM, where="the tissue"),
        file_cache=file_cache,
    )


def print_chunk(tissue: Tissue, plain_runs: list[Run], run: Run) -> list[str]:
    """Print a chunk by cell, and return what lies beyond the tolerances."""
    n_cells = len(tissue.nuclei())
    sizes = " x ".join(map(str, tissue.voxel_nm))
    print(f"| {n_cells} neighbours at {sizes} nm, by cell | plain | somatic | ratio |\n|---|---|---|---|")
    plain_cpu_s = float(np.mean([one.total_cpu_s for one in plain_runs]))
    print_row("**CPU s**", plain_cpu_s, run.total_cpu_s / n_cells, "{:.2f}")
    peak = max(one.peak_bytes for one in plain_runs)
    print_row("**peak memory, MiB**", peak / 2**20, run.peak_bytes / 2**20, "{:.0f}")
    print_row("files read", float(np.mean([one.files for one in plain_runs])), run.files / n_cells, "{:.0f}")
    print_row("MB read", float(np.mean([one.bytes for one in plain_runs])) / 1e6, run.bytes / n_cells / 1e6, "{:.1f}")
    wrong = []
    for number, one in enumerate(plain_runs):
        prefix = f"{tissue.nuclei().iloc[number]['id']} "
        of_cell = {name.removeprefix(prefix): value for name, value in run.row.items() if name.startswith(prefix)}
        wrong += [f"{prefix}{text}" for text in deviations(one.row, of_cell)]
    return wrong


def print_workers(tissue: Tissue) -> None:
    """Print how much more two workers do than one, in processes started as the product starts them."""
    cells = 2 * cells_of(tissue)
    context = multiprocessing.get_context("forkserver")
    wall_s, cpu_s = {}, {}
    for n_workers in (1, WORKERS):
        with cache_folder() as folder:
            ready, answers = context.Barrier(n_workers + 1), context.SimpleQueue()
            arguments = (inputs_of(tissue, folder), cells, ready, answers)
            workers = [context.Process(target=measure_all, args=arguments) for _ in range(n_workers)]
            for worker in workers:
                worker.start()
            ready.wait()
            begun = time.perf_counter()
            cpu_s[n_workers] = sum(answers.get() for _ in workers) / len(cells) / n_workers
            wall_s[n_workers] = (time.perf_counter() - begun) / len(cells) / n_workers
            for worker in workers:
                worker.join()
    print(
        "\n| workers | s a cell | times as many cells | CPU s a cell | times as many by CPU s |\n|---|---|---|---|---|"
    )
    for n in wall_s:
        by_cpu = n * cpu_s[1] / cpu_s[n]
        print(f"| {n} | {wall_s[n]:.2f} | {wall_s[1] / wall_s[n]:.2f} | {cpu_s[n]:.2f} | {by_cpu:.2f} |")


def measure_all(
    inputs: Inputs, cells: list[Cell], ready: Barrier, answers: "multiprocessing.SimpleQueue[float]"
) -> None:
    """Measure cells when all workers are there; answers with the seconds of the processor."""
    from somatic.workers.ready_published import CellMeasurer

    measure = CellMeasurer(inputs)
    ready.wait()
    begun = time.process_time()
    for result in measure.all_of(cells):
        if result.error:
            raise result.error
    answers.put(time.process_time() - begun)


def print_files(tissue: Tissue) -> float:
    """Print how often the files of a shard are fetched by two workers, chunk by chunk, and return the share."""
    cells = cells_of(tissue)
    chunks = [cells[start : start + CELLS_PER_CHUNK] for start in range(0, len(cells), CELLS_PER_CHUNK)]
    with cache_folder() as folder, served(tissue.folder) as (address, asked):
        context = multiprocessing.get_context("forkserver")
        waiting = context.SimpleQueue()
        for chunk in [*chunks, *[None] * WORKERS]:
            waiting.put(chunk)
        # The cache holds as large a part of the tissue as it would of the tissue at 64 x 64 x 40 nm.
        stored = sum(path.stat().st_size for path in (tissue.folder / "seg").rglob("*.gz"))
        n_voxels = Segmentation(tissue.segmentation, 0).bounds.n_voxels * np.prod(np.divide(_COARSE_NM, (64, 64, 40)))
        limit_bytes = int(LIMIT_BYTES * stored / (_BYTES_PER_VOXEL * n_voxels))
        arguments = (f"precomputed://{address}/seg", waiting, folder, limit_bytes)
        workers = [context.Process(target=read_chunks, args=arguments) for _ in range(WORKERS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
            if worker.exitcode:
                sys.exit("a worker failed")
    sizes = {path: size for path, size in asked if not path.endswith(("info", "provenance"))}
    fetched = sum(size for path, size in asked if path in sizes)
    segmentation = Segmentation(tissue.segmentation, 0)
    boxes = [cell_box(cell, RADIUS_NM, segmentation.resolution_nm) for cell in cells]
    n_voxels = sum(box.clipped_to(segmentation.bounds).n_voxels for box in boxes)
    print(f"\n| files of a shard of {len(cells)} cells, {WORKERS} workers | |\n|---|---|")
    print(f"| cutouts over the volume that they cover | {n_voxels / segmentation.bounds.n_voxels:.1f} |")
    print(f"| files | {len(sizes)} |")
    print(f"| requests for them | {sum(Counter(path for path, _ in asked if path in sizes).values())} |")
    print(f"| **bytes fetched over bytes of the files** | {fetched / sum(sizes.values()):.2f} |")
    return fetched / sum(sizes.values())


def read_chunks(url: str, waiting: "multiprocessing.SimpleQueue", folder: str, limit_bytes: int) -> None:
    """Read the cutouts of one chunk after the other, as a worker does."""
    while chunk := waiting.get():
        segmentation = Segmentation(url, 0, cache=FileCache(folder, limit_bytes))
        for cell in chunk:
            segmentation.read(cell_box(cell, RADIUS_NM, segmentation.resolution_nm), cell.root_id)


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """A folder over HTTP on loopback: its address, and the path and bytes of every answer."""
    answered: list[tuple[str, int]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = folder / self.path.lstrip("/")
            zipped = path.with_name(f"{path.name}.gz")
            found = zipped if zipped.exists() else path
            body = found.read_bytes() if found.is_file() else b""
            answered.append((self.path, len(body)))
            self.send_response(200 if found.is_file() else 404)
            if found == zipped:
                self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", answered
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    multiprocessing.get_context("forkserver").set_forkserver_preload(["somatic.workers.ready_published"])
    main()
