"""The report of a whole minnie65 on this machine, of made-up measurements: how long, how large, how fast it opens.

    .venv/bin/python -m benchmarks.full_report [--nuclei 144000] [--keep FOLDER]

It opens the page in headless Chromium where there is one (docs/scale.md has the numbers).
"""

import argparse
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.full_size import FAILED_OF, FIRST_ROOT, VOLUME_UM
from somatic.features import COLUMNS, SCHEMA, features_versions
from somatic.report.overview import put_report
from somatic.results.flags import put_flags
from somatic.results.manifest import make_manifest, put_manifest
from somatic.results.table import PROVENANCE_SCHEMA
from somatic.storage.parquet import parquet_bytes
from somatic.storage.store import ResultStore

STARTED = datetime(2026, 1, 1, tzinfo=UTC)


def main() -> None:
    """Write the files of a result set and its report, and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nuclei", type=int, default=144_000)
    parser.add_argument("--keep", metavar="FOLDER", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        store = ResultStore(str(arguments.keep or name))
        put_results(store, arguments.nuclei)
        started = time.perf_counter()
        report = Path(put_report(store))
        print(f"written in {time.perf_counter() - started:.1f} s, {report.stat().st_size / 1e6:.2f} MB: {report}")


def put_results(store: ResultStore, n_nuclei: int, failed_of: int = FAILED_OF) -> None:
    """Write the files of a result set with made-up numbers.

    Parameters
    ----------
    store : ResultStore
    n_nuclei : int
        Rows of the table.
    failed_of : int
        One cell in so many has failed.
    """
    features = made_up_features(n_nuclei, failed_of)
    store.put("features.parquet", parquet_bytes(features))
    store.put("provenance.parquet", parquet_bytes(made_up_provenance(features)))
    put_flags(store, features)
    n_failed = -(-n_nuclei // failed_of)
    full_run = {"cells": n_nuclei, "requests": n_nuclei, "segmentation_bytes": 27_000_000 * n_nuclei}
    put_manifest(
        store,
        make_manifest(
            dataset={
                "name": "fullsize",
                "pia": {"point_nm": [0.0, 0.0, 0.0], "down": [0.0871557427, 0.9961946981, 0.0]},
            },
            materialization_version=1300,
            materialization_timestamp=STARTED,
            config={"definitions": "published", "mip": 3, "cutout_radius_um": 15.0, "segmentation_kind": "flat"},
            config_hash="0123abcd",
            layers={
                "segmentation": "precomputed://gs://iarpa_microns/minnie/minnie65/seg_m1300",
                "nuclei": "precomputed://s3://bossdb-open-data/iarpa_microns/minnie/minnie65/nuclei",
                "resolution_nm": [4, 4, 40],
            },
            plan_hash="0123456789abcdef",
            counts={"nuclei": n_nuclei, "ok": n_nuclei - n_failed, "failed": n_failed, "failed_transient": 0},
            files={},
            started=STARTED,
            finished=STARTED + timedelta(hours=3),
            cost={
                "requests": {"leaves": n_nuclei},
                "cells_computed": n_nuclei,
                "cells_carried": 0,
                "segmentation_files": 1000 * n_nuclei,
                "segmentation_bytes": full_run["segmentation_bytes"],
                "full_run": full_run,
            },
        ),
    )


def made_up_features(n_nuclei: int, failed_of: int = FAILED_OF) -> pa.Table:
    """A table of features: log-normal numbers, every so manieth cell failed."""
    rng = np.random.default_rng(0)
    failed = np.arange(n_nuclei) % failed_of == 0
    roots = FIRST_ROOT + np.arange(n_nuclei)
    known = {
        "nucleus_id": pa.array(200_000 + np.arange(n_nuclei)),
        "soma_id": pa.array(roots),
        "materialization_version": pa.array(np.full(n_nuclei, 1300)),
        "definitions": pa.array(["published"] * n_nuclei),
        "status": pa.array(np.where(failed, "failed", "ok").tolist()),
        "reason": pa.array(
            [
                f"root id {root} has no voxel in the cutout" if bad else None
                for root, bad in zip(roots, failed, strict=True)
            ]
        ),
        "n_nuclei_in_segment": pa.array(np.ones(n_nuclei, dtype=np.int64)),
    }
    for axis, size_um in zip("xyz", VOLUME_UM, strict=True):
        known[f"centre_{axis}_nm"] = pa.array(rng.uniform(0, 1000 * size_um, n_nuclei))
    columns = []
    for column in COLUMNS:
        if column.name in known:
            columns.append(known[column.name])
        elif pa.types.is_boolean(column.type):
            columns.append(pa.array(rng.random(n_nuclei) < 0.1, mask=failed))
        elif pa.types.is_integer(column.type):
            columns.append(pa.array(rng.poisson(60, n_nuclei), mask=failed))
        else:
            columns.append(pa.array(500 * rng.lognormal(sigma=0.4, size=n_nuclei), mask=failed))
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def made_up_provenance(features: pa.Table) -> pa.Table:
    """Provenance of a table of features, every cell computed within three hours."""
    rng = np.random.default_rng(1)
    n_rows = features.num_rows
    finished = STARTED.timestamp() + np.sort(rng.uniform(0, 10_800, n_rows))
    known = {
        "nucleus_id": features["nucleus_id"],
        "soma_id": features["soma_id"],
        "source": pa.array(["computed"] * n_rows),
        "attempt": pa.array(np.ones(n_rows, dtype=np.int64)),
        "transient": pa.array(np.zeros(n_rows, dtype=bool)),
        "finished": pa.array((1e6 * finished).astype(np.int64)).cast(pa.timestamp("us", tz="UTC")),
        "soma_version": pa.array(np.full(n_rows, 1300)),
        "soma_fingerprint": pa.array([f"{number:016x}" for number in range(n_rows)]),
        **{name: pa.array(np.full(n_rows, version)) for name, version in features_versions().items()},
        "code_version": pa.array(["0.1.0"] * n_rows),
    }
    columns = []
    for field in PROVENANCE_SCHEMA:
        if field.name in known:
            columns.append(known[field.name])
        elif field.name.startswith("seconds"):
            columns.append(pa.array(rng.gamma(2, 0.3, n_rows)))
        else:
            columns.append(pa.nulls(n_rows, field.type))
    return pa.Table.from_arrays(columns, schema=PROVENANCE_SCHEMA)


if __name__ == "__main__":
    main()
