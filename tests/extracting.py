"""Ways to run the flow and the command, and to look at what they leave."""

import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from prefect import State

from flows.extract import extract
from sandbox import ending
from sandbox.cave.server import MaterializedVersion
from sandbox.phantom.scene import Scene
from somatic.storage.store import ResultStore

SOMATIC = Path(sys.executable).with_name("somatic")
TOKEN = "5ca1ab1e0123456789abcdef5ca1ab1e"
RADIUS_UM = 2.0
"""Small cutouts are fast; what is measured in them is tested elsewhere."""


@dataclass(frozen=True)
class Spot:
    """A cell, and a file of the segmentation that its cutout needs, but no other cutout and no look at a centre."""

    nucleus_id: int
    file: str


def find_spots(scene: Scene) -> list[Spot]:
    """Cells that can be made to fail or to wait, each alone, in the order of their ids."""
    rows = scene.nuclei(1)
    rows = rows[rows["pt_root_id"].fillna(0) > 1]
    centres_nm = rows[[f"pt_position_lookup_{axis}" for axis in "xyz"]].to_numpy() * scene.table_resolution_nm
    reach_nm, voxel_nm = RADIUS_UM * 1000, np.array(scene.voxel_size_nm)

    def overlap(first_nm: np.ndarray, last_nm: np.ndarray, reach_nm: np.ndarray) -> np.ndarray:
        return ((centres_nm + reach_nm > first_nm) & (centres_nm - reach_nm < last_nm)).all(axis=1)

    found = {}
    for path in (scene.folder / "seg_v1").glob("*/*.gz"):
        first_nm, last_nm = np.array(re.findall(r"(-?\d+)-(-?\d+)", path.name), dtype=int).T * voxel_nm
        # A voxel more or less, since the flow rounds in its own way.
        [*sure] = np.flatnonzero(overlap(first_nm, last_nm, reach_nm - voxel_nm))
        [*possible] = np.flatnonzero(overlap(first_nm, last_nm, reach_nm + voxel_nm))
        if len(sure) == 1 and sure == possible and not overlap(first_nm, last_nm, voxel_nm).any():
            found[int(rows["id"].iloc[sure[0]])] = path.name.removesuffix(".gz")
    return [Spot(nucleus_id, name) for nucleus_id, name in sorted(found.items())]


@dataclass(frozen=True)
class Results:
    """What runs left at a place for results, of one version and configuration, which is the only one if left out."""

    root: str
    version: int = 1
    config: str | None = None

    @property
    def store(self) -> ResultStore:
        """Where features.parquet lies."""
        versions = ResultStore(f"{self.root}/phantom")
        config = self.config
        if config is None:
            [config] = versions.names(f"v{self.version}")
        return ResultStore(versions.url_of(f"v{self.version}/{config}"))

    @property
    def features(self) -> bytes:
        """Bytes of the table."""
        return self.store.get("features.parquet")

    @property
    def sha256(self) -> str:
        """Of these bytes."""
        return hashlib.sha256(self.features).hexdigest()

    @property
    def table(self) -> pd.DataFrame:
        """The table, as a user of a laptop reads it, by nucleus id."""
        return pd.read_parquet(self.store.url_of("features.parquet")).set_index("nucleus_id")

    @property
    def provenance(self) -> pd.DataFrame:
        """provenance.parquet by nucleus id."""
        return pd.read_parquet(self.store.url_of("provenance.parquet")).set_index("nucleus_id")

    @property
    def chunks(self) -> dict[str, list[int]]:
        """Name of each chunk file and the nuclei in it."""
        store = self.store
        return {
            name: pq.read_table(store.url_of(f"chunks/{name}"), columns=["nucleus_id"])["nucleus_id"].to_pylist()
            for name in store.names("chunks")
        }

    def rows(self, nucleus_ids: Collection[int]) -> list[dict[str, Any]]:
        """Rows of the chunk files of some nuclei, as they were put there."""
        store = self.store
        tables = [pq.read_table(store.url_of(f"chunks/{name}")) for name in self.chunks]
        return [row for table in tables for row in table.to_pylist() if row["nucleus_id"] in nucleus_ids]

    @property
    def stored(self) -> list[int]:
        """Nuclei of all chunk files, as often as they stand there, sorted."""
        return sorted(nucleus_id for nuclei in self.chunks.values() for nucleus_id in nuclei)


def run(dataset: Path, to: object, **parameters: Any) -> State:
    """Run the flow in this process, with short waits and two workers; give its final state."""
    options = {"workers": 2, "chunk": 3, "meshes": False, "retry_delay_s": 0.05} | parameters
    return extract(str(dataset), to=str(to), **options, return_state=True)


def error_of(state: State) -> BaseException:
    """What a flow run failed with."""
    assert state.is_failed(), state
    return state.result(raise_on_failure=False)


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The error: one line, the last on stderr."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        assert lines[-1].startswith("somatic: "), self.err
        assert "Traceback" not in self.err + self.out, self.err + self.out
        return lines[-1].removeprefix("somatic: ")


def command(*arguments: object, folder: Path, **environment: str | None) -> subprocess.Popen[str]:
    """Start `somatic` in a process group of its own, as a shell does; None takes a variable away."""
    known: dict[str, str | None] = {**os.environ, **environment}
    return ending.start(
        [SOMATIC, *map(str, arguments)],
        cwd=folder,
        env={name: value for name, value in known.items() if value is not None},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str], within_s: float = 120) -> Ran:
    """Wait for the end of a command."""
    try:
        out, err = process.communicate(timeout=within_s)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return Ran(process.returncode, out, err)


def changed(path: Path, *changes: tuple[str, str]) -> Path:
    """The same file with some text replaced; each must be there."""
    text = path.read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    path.write_text(text)
    return path


def without_nuclei(path: Path) -> Path:
    """A dataset file with small cutouts and no layer of nuclei, so that a cell takes a tenth of a second."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("nucleus_segmentation")]
    path.write_text("\n".join(lines) + "\n")
    return changed(path, ("mip = 0\n", f"mip = 0\ncutout_radius_um = {RADIUS_UM}\n"))


def proofread(version: MaterializedVersion, number: int) -> MaterializedVersion:
    """A later version, in which every cell has been edited and has another root id."""

    def edited(table: Any) -> Any:
        roots = table.frame.filter(like="pt_root_id")
        return replace(table, frame=table.frame.assign(**(roots + 1000).where(roots > 1, roots)))

    return replace(
        version,
        number=number,
        time_stamp=version.time_stamp + timedelta(days=90),
        tables={name: edited(table) for name, table in version.tables.items()},
        views={name: edited(view) for name, view in version.views.items()},
    )
