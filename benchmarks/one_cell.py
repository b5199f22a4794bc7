"""One cell, measured the plain way and by somatic, on the same tissue: seconds, memory, bytes, stage by stage.

    .venv/bin/python -m benchmarks.one_cell [--voxel 64 64 40] [--folder FOLDER] [--repeat 3]

Each is measured in a process of its own that has imported what it needs, on one core. It prints tables in Markdown
(docs/performance.md has them) and ends with an error where the two disagree by more than the definitions allow.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from unittest import mock

from benchmarks.tissue import TABLE_NM, Tissue, write_tissue

TOLERANCES = {"volume_um": 0.001, "area_um": 0.005, "fold": 0.02}
"""By what a column's name contains; 1 % for everything else."""
_CENTRE_NM = 2.0
_SYNAPSES = 0.06, 3


@dataclass
class Run:
    """What measuring one cell took above a process that has imported what it needs."""

    row: dict[str, float | None] = field(default_factory=dict)
    cpu_s: dict[str, float] = field(default_factory=dict)
    wall_s: float = 0.0
    peak_bytes: int = 0
    files: int = 0
    bytes: int = 0

    @property
    def total_cpu_s(self) -> float:
        """CPU seconds of all stages."""
        return sum(self.cpu_s.values())

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the CPU seconds inside."""
        begun = time.process_time()
        yield
        self.cpu_s[name] = self.cpu_s.get(name, 0.0) + time.process_time() - begun


def main() -> None:
    """Measure, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voxel", type=int, nargs=3, default=(64, 64, 40), metavar="NM")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "somatic-benchmark")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", choices=("plain", "published", "corrected", "graph"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    voxel_nm = tuple(arguments.voxel)
    tissue = write_tissue(arguments.folder / f"one-{voxel_nm[0]}", voxel_nm, (1, 1, 1))
    graph = write_tissue(arguments.folder / f"one-{voxel_nm[0]}-graph", voxel_nm, (1, 1, 1), as_watershed=True)
    if arguments.only:
        definitions = "corrected" if arguments.only == "corrected" else "published"
        of_tissue = graph if arguments.only == "graph" else tissue
        run = plain(tissue) if arguments.only == "plain" else somatic(of_tissue, definitions)
        print(json.dumps(asdict(run)))
        return
    plain_run = apart("plain")
    # The best of several: what else runs on a machine only ever adds.
    published, corrected, of_graph = (
        min((apart(which) for _ in range(arguments.repeat)), key=lambda run: run.total_cpu_s)
        for which in ("published", "corrected", "graph")
    )
    print_tables(plain_run, published, voxel_nm)
    print_beside("published", published, "corrected", corrected)
    print_beside("flat copy", published, f"graph, {len(graph.leaves()):,} leaves", of_graph)
    wrong = deviations(plain_run.row, published.row)
    if of_graph.row != published.row | {"soma_id": of_graph.row["soma_id"]}:
        wrong.append("the cell on the graph has other numbers")
    if wrong:
        sys.exit("beyond tolerance: " + "; ".join(wrong))


def apart(which: str) -> Run:
    """Run this program again for one of them, with one core to itself."""
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, "-m", "benchmarks.one_cell", *sys.argv[1:], "--only", which]
    answer = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment).stdout
    return Run(**json.loads(answer.splitlines()[-1]))


@contextlib.contextmanager
def watched(run: Run, folder: Path) -> Iterator[None]:
    """Note time, peak of memory above what there is, and files of the tissue that are read."""
    opened: dict[str, int] = {}

    def on_event(event: str, details: tuple) -> None:
        if event == "open" and str(details[0]).startswith(str(folder.resolve())) and Path(details[0]).is_file():
            opened[str(details[0])] = Path(details[0]).stat().st_size

    sys.addaudithook(on_event)
    Path("/proc/self/clear_refs").write_text("5")
    before, begun = peak_bytes(), time.perf_counter()
    yield
    run.wall_s = time.perf_counter() - begun
    run.peak_bytes = peak_bytes() - before
    run.files, run.bytes = len(opened), sum(opened.values())


def peak_bytes() -> int:
    """Most memory that this process has held since that was last forgotten."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def plain(tissue: Tissue) -> Run:
    """Measure the first cell the plain way."""
    from benchmarks.reference import measure_cell

    run = Run()
    nucleus, synapses = tissue.nuclei().iloc[0], tissue.synapses()
    with watched(run, tissue.folder):
        run.row = measure_cell(
            int(nucleus["id"]),
            int(nucleus["pt_root_id"]),
            nucleus["pt_position"],
            tissue.segmentation,
            tissue.nucleus_segmentation,
            synapses,
            run.stage,
        )
    return run


def somatic(tissue: Tissue, definitions: str) -> Run:
    """Measure the first cell as the product does."""
    from somatic.cell import Cell
    from somatic.tables import synapses_from_raw
    from somatic.workers.measuring import Inputs

    if definitions == "corrected":
        from somatic.workers.ready_corrected import CellMeasurer
    else:
        from somatic.workers.ready_published import CellMeasurer
    run = Run()
    nucleus = tissue.nuclei().iloc[0]
    x, y, z = nucleus["pt_position"].tolist()
    leaves = tissue.leaves() if len(tissue.leaves()) > 1 else None
    cell = Cell(int(nucleus["id"]), int(nucleus["pt_root_id"]), (x, y, z), TABLE_NM, leaves=leaves)
    synapses = synapses_from_raw(tissue.synapses(), resolution_nm=TABLE_NM, where="the tissue")
    inputs = Inputs(
        tissue.segmentation, 0, 15_000, 0, definitions, tissue.nucleus_segmentation, synapses.onto([cell.root_id])
    )
    # The stages that the product tells apart anyway, in seconds of the processor.
    with mock.patch("somatic.cell.perf_counter", time.process_time), watched(run, tissue.folder):
        begun = time.process_time()
        result = CellMeasurer(inputs)(cell)
        run.cpu_s = result.seconds
        run.cpu_s["opening and the rest"] = time.process_time() - begun - run.total_cpu_s
    if result.error:
        raise result.error
    run.row = {name: value for name, value in result.row.items() if isinstance(value, int | float)}
    return run


def deviations(plain_row: Mapping[str, float | None], row: Mapping[str, float | None]) -> list[str]:
    """What of a row lies beyond the tolerances of the definitions."""
    wrong = []
    for name, expected in plain_row.items():
        found = row.get(name)
        if expected is None or found is None:
            near = expected == found
        elif name.endswith("_nm") and "_center_" in name:
            near = abs(found - expected) < _CENTRE_NM
        elif name == "soma_synapse_number":
            near = abs(found - expected) <= max(_SYNAPSES[0] * expected, _SYNAPSES[1])
        elif name == "soma_synapse_density_um":
            near = True
        else:
            allowed = next((share for part, share in TOLERANCES.items() if part in name), 0.01)
            near = abs(found - expected) <= allowed * abs(expected)
        if not near:
            wrong.append(f"{name} {found} instead of {expected}")
    return wrong


def print_tables(plain_run: Run, run: Run, voxel_nm: tuple[int, ...]) -> None:
    """Print the plain way and the product, and how many times less it takes."""
    print(f"| one cell at {' x '.join(map(str, voxel_nm))} nm | plain | somatic | ratio |\n|---|---|---|---|")
    for stage in dict.fromkeys([*plain_run.cpu_s, *run.cpu_s]):
        print_row(f"{stage}, CPU s", plain_run.cpu_s.get(stage, 0.0), run.cpu_s.get(stage, 0.0), "{:.2f}")
    print_row("**all, CPU s**", plain_run.total_cpu_s, run.total_cpu_s, "{:.2f}")
    print_row("all, s", plain_run.wall_s, run.wall_s, "{:.2f}")
    print_row("**peak memory, MiB**", plain_run.peak_bytes / 2**20, run.peak_bytes / 2**20, "{:.0f}")
    print_row("files read", plain_run.files, run.files, "{:.0f}")
    print_row("MB read", plain_run.bytes / 1e6, run.bytes / 1e6, "{:.1f}")
    print("\n| column | plain | somatic | deviation |\n|---|---|---|---|")
    for name, expected in plain_run.row.items():
        found = run.row.get(name)
        if expected is not None and found is not None:
            off = f"{found - expected:+.2f} nm" if "_center_" in name else f"{found / expected - 1:+.3%}"
            print(f"| {name} | {expected:.6g} | {found:.6g} | {off} |")


def print_beside(name: str, run: Run, other_name: str, other: Run) -> None:
    """Print two runs of the product on the same cell."""
    print(f"\n| the same cell | {name} | {other_name} | ratio |\n|---|---|---|---|")
    for stage, seconds in run.cpu_s.items():
        print(f"| {stage}, CPU s | {seconds:.2f} | {other.cpu_s[stage]:.2f} | |")
    for what, one, two, form in (
        ("**all, CPU s**", run.total_cpu_s, other.total_cpu_s, "{:.2f}"),
        ("**peak memory, MiB**", run.peak_bytes / 2**20, other.peak_bytes / 2**20, "{:.0f}"),
    ):
        print(f"| {what} | {form.format(one)} | {form.format(two)} | {two / one:.2f} |")


def print_row(what: str, plain_value: float, value: float, form: str) -> None:
    """Print one line of the table."""
    ratio = f"{plain_value / value:.1f}" if value and plain_value else ""
    print(f"| {what} | {form.format(plain_value)} | {form.format(value)} | {ratio} |")


if __name__ == "__main__":
    main()
