"""report.html: a result set, shown on one page that needs no network."""

import contextlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from somatic.features import COLUMNS, FEATURES_OF_SHAPE, NUMERIC, SCHEMA, columns_of
from somatic.in_words import duration, number_in_words, size_in_words
from somatic.report.cells import MAX_FAILURES, listed_cells
from somatic.report.depth import depth_um
from somatic.report.page import render
from somatic.report.pictures import thumbnail
from somatic.report.plots import density, histogram, label, stored_over_time
from somatic.report.results import MeshOf, Results, read_results, stored_meshes
from somatic.results.changes import CHANGE_WORDS, compare_features, count_changes
from somatic.results.chunks import STAGES
from somatic.results.collect import reasons_of
from somatic.results.flags import CELLS_FOR_MARKS, FLAG_COLUMNS, count_flags, marks, measured_values
from somatic.results.neuroglancer import ViewerLayers, cell_state
from somatic.storage.store import ResultStore

_REPORT = "report.html"
_THUMBNAILS = 100
_AT_ONCE = 16
_UNIT = {column.name: column.unit for column in COLUMNS}
_YES_NO = [column for column in COLUMNS if pa.types.is_boolean(column.type)]
_SOURCES = {"computed": "measured", "carried": "reused"}


def put_report(store: ResultStore, results: Results | None = None) -> str:
    """Write report.html beside a table of features, of the files there.

    Parameters
    ----------
    store : ResultStore
    results : Results, optional
        These files where they are read already.

    Returns
    -------
    str
        Its URL.

    Raises
    ------
    StoreError, StoreUnavailable
        A file could not be read, or the report not written, for good or for now.
    """
    results = results or read_results(store)
    store.put(_REPORT, make_report(results, stored_meshes(results)).encode())
    return store.url_of(_REPORT)


def make_report(results: Results, mesh_of: MeshOf | None = None) -> str:
    """Make the page.

    Parameters
    ----------
    results : Results
    mesh_of : callable, optional
        Gives the meshes of which small pictures are shown; it is called by several threads.

    Returns
    -------
    str
        HTML, with everything in it.
    """
    features, manifest = results.features, results.manifest
    cells = listed_cells(features, results.flags)
    depth = _depth(results)
    found = [name for name in NUMERIC if features[name].null_count < features.num_rows]
    defined = {column.name for column in columns_of(manifest.get("config", {}).get("definitions", ""))}
    n_failed = _number(pc.equal(features["status"], "failed"))
    n_flagged = count_flags(results.flags)
    return render(
        "report.html.jinja",
        title=f"{manifest['dataset']['name']} v{manifest['materialization_version']}",
        n_nuclei=features.num_rows,
        facts=_facts(results),
        software=_software(manifest),
        dataset=json.dumps(manifest["dataset"], indent=2, ensure_ascii=False),
        statuses=_statuses(features),
        reasons=_reasons(features),
        flags=[(column, n_flagged[column.name]) for column in FLAG_COLUMNS],
        yes_no=_yes_no(features),
        marks_from=CELLS_FOR_MARKS,
        histograms=[_histogram(features, name) for name in found],
        empty=[name for name in NUMERIC if name in defined.difference(found)],
        volumes=density(
            _floats(features, "nucleus_volume_um"),
            _floats(features, "soma_volume_um"),
            label("nucleus_volume_um", "um^3"),
            label("soma_volume_um", "um^3"),
            (5.0, 3.6),
        ),
        depths=_depths(features, depth) if depth is not None else None,
        changes=_changes(results.changes, manifest) if results.changes is not None else None,
        cost=_cost(manifest.get("cost")),
        throughput=_throughput(results.provenance),
        n_failed=n_failed,
        n_failures_listed=min(n_failed, MAX_FAILURES),
        cells={
            "rows": cells,
            "thumbnails": _thumbnails(cells, mesh_of) if mesh_of else {},
            "link": _link(results),
        },
    )


def _facts(results: Results) -> list[tuple[str, str]]:
    manifest, provenance = results.manifest, results.provenance
    layers, config = manifest.get("layers", {}), manifest.get("config", {})
    sources = {said: _number(pc.equal(provenance["source"], kind)) for kind, said in _SOURCES.items()}
    fingerprints = {
        part: pc.count_distinct(provenance[f"{part}_fingerprint"]).as_py()
        for part in ("soma", "nucleus")
        if f"{part}_fingerprint" in provenance.column_names
    }
    facts = {
        "Materialization version": f"{manifest['materialization_version']}, of "
        f"{_moment(manifest.get('materialization_timestamp'))}",
        "Definitions": f"{config.get('definitions')}, mip {config.get('mip')}, cutout of "
        f"{config.get('cutout_radius_um')} µm to each side",
        "Segmentation": f"{layers.get('segmentation') or 'not noted'} ({config.get('segmentation_kind')})",
        "Nuclei": layers.get("nuclei") or "no layer",
        "Rows": ", ".join(f"{number:,} {said}" for said, number in sources.items()),
        "Fingerprints": ", ".join(f"{number:,} of {part}" for part, number in fingerprints.items()),
        "Results": results.url,
        "Run": f"{_moment(manifest.get('started'))} to {_moment(manifest.get('finished'))}",
        "Plan": str(manifest.get("plan")),
    }
    versions = pc.value_counts(provenance["soma_version"].drop_null()).to_pylist()
    if len(versions) > 1:
        said = sorted(((one["values"], one["counts"]) for one in versions), reverse=True)
        facts["Somata measured at"] = ", ".join(f"v{version}: {number:,}" for version, number in said)
    return list(facts.items())


def _moment(text: str | None) -> str:
    return f"{text[:19].replace('T', ' ')} UTC" if text else "a moment that is not known"


def _software(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [("somatic", str(manifest.get("code_version"))), *sorted(manifest.get("libraries", {}).items())]


def _statuses(features: pa.Table) -> list[tuple[str, int]]:
    return [(status, _number(pc.equal(features["status"], status))) for status in ("ok", "failed", "skipped")]


def _reasons(features: pa.Table) -> list[tuple[str, str, int]]:
    found = []
    for status in ("failed", "skipped"):
        rows = features.filter(pc.equal(features["status"], status)).select(["reason"]).to_pandas()
        found += [(status, reason, number) for reason, number in list(reasons_of(rows).items())[:50]]
    return found


def _yes_no(features: pa.Table) -> list[tuple[Any, int, int, int]]:
    return [
        (
            column,
            _number(features[column.name]),
            _number(pc.invert(features[column.name])),
            features[column.name].null_count,
        )
        for column in _YES_NO
    ]


def _histogram(features: pa.Table, name: str) -> dict[str, Any]:
    values = measured_values(features, name)
    found = marks(values)
    numbers = {"cells": f"{len(values):,}", "without": f"{features.num_rows - len(values):,}"}
    numbers |= {
        "smallest": number_in_words(values.min(), 5),
        "median": number_in_words(float(np.median(values)), 5),
        "largest": number_in_words(values.max(), 5),
    }
    if found:
        numbers |= {"0.1 %": number_in_words(found[0], 5), "99.9 %": number_in_words(found[1], 5)}
    return {
        "name": name,
        "description": SCHEMA.field(name).metadata[b"description"].decode(),
        "plot": histogram(values, name, _UNIT[name], found),
        "numbers": numbers,
    }


def _depth(results: Results) -> npt.NDArray[np.float64] | None:
    pia = results.manifest["dataset"].get("pia")
    if not pia:
        return None
    centres_nm = np.column_stack([_floats(results.features, f"centre_{axis}_nm") for axis in "xyz"])
    return depth_um(centres_nm, pia["point_nm"], pia["down"])


def _depths(features: pa.Table, depth: npt.NDArray[np.float64]) -> list[Markup]:
    names = [name for name in FEATURES_OF_SHAPE if features[name].null_count < features.num_rows]
    return [density(depth, _floats(features, name), "depth (µm)", label(name, _UNIT[name])) for name in names]


def _changes(changes: pa.Table, manifest: Mapping[str, Any]) -> dict[str, Any]:
    compared = compare_features(changes)
    moved = compared[compared["n_different"] > 0]
    return {
        "base": manifest["changes"].get("base"),
        "counts": [(CHANGE_WORDS[name], number) for name, number in count_changes(changes).items()],
        "features": [
            (
                name,
                row["n_different"],
                f"{number_in_words(100 * row['median_rel'])} %",
                f"{number_in_words(100 * row['max_rel'])} %",
                row["worst"],
            )
            for name, row in moved.iterrows()
        ],
    }


def _cost(cost: Mapping[str, Any] | None) -> list[tuple[str, str, str]]:
    if not cost or "full_run" not in cost:
        return []
    full = cost["full_run"]
    return [
        ("cells measured", f"{cost['cells_computed']:,}", f"{full['cells']:,}"),
        ("cells reused", f"{cost['cells_carried']:,}", "0"),
        *(
            (f"{part} {done}", f"{cost[done][part]:,}", "")
            for part in ("somata", "nuclei", "synapses")
            for done in ("measured", "reused")
            if done in cost
        ),
        ("requests to CAVE", f"{sum(cost['requests'].values()):,}", f"{full['requests']:,}"),
        ("segmentation read", size_in_words(cost["segmentation_bytes"]), size_in_words(full["segmentation_bytes"])),
        ("files of it", f"{cost['segmentation_files']:,}", ""),
    ]


def _throughput(provenance: pa.Table) -> dict[str, Any] | None:
    columns = ["finished", "seconds", *(f"seconds_{stage}" for stage in STAGES)]
    measured = provenance.select(columns).filter(
        pc.and_(pc.fill_null(pc.equal(provenance["source"], "computed"), False), pc.is_valid(provenance["seconds"]))
    )
    finished = measured["finished"].drop_null().cast(pa.int64()).to_numpy() / 1e6
    if not len(finished):
        return None
    stages = []
    for name, column in (("all", "seconds"), *((stage, f"seconds_{stage}") for stage in STAGES)):
        seconds = measured[column].drop_null().to_numpy()
        if len(seconds):
            median, high = np.quantile(seconds, (0.5, 0.95))
            stages.append((name, number_in_words(median), number_in_words(high), duration(float(seconds.sum()))))
    return {
        "stages": stages,
        "cells": f"{len(finished):,}",
        "span": duration(float(np.ptp(finished))),
        "rate": number_in_words(len(finished) / (np.ptp(finished) / 60)) if np.ptp(finished) else None,
        "plot": stored_over_time(finished - finished.min()) if np.ptp(finished) else None,
    }


def _link(results: Results) -> dict[str, Any] | None:
    """Viewer, and the state of one cell, of which the page makes those of the others."""
    noted = results.manifest.get("layers", {})
    if not noted.get("segmentation"):
        return None
    layers = ViewerLayers(noted["segmentation"], noted.get("nuclei"), results.meshes_url, noted["resolution_nm"])
    state = cell_state(layers, 0, 0, (0.0, 0.0, 0.0))
    if state is None:
        return None
    return {"viewer": layers.viewer_url, "state": state, "voxel_nm": layers.resolution_nm}


def _thumbnails(cells: list[dict[str, Any]], mesh_of: MeshOf) -> dict[str, str]:
    """Pictures of the first cells that have a soma, by nucleus id; a mesh that cannot be drawn has none."""

    def draw(nucleus_id: int) -> str | None:
        mesh = mesh_of(nucleus_id)
        # Any of the libraries that draw may fail on a mesh that is degenerate.
        with contextlib.suppress(Exception):
            return thumbnail(mesh) if mesh is not None else None
        return None

    ids = [cell["nucleus"] for cell in cells if cell["soma_um3"] is not None][:_THUMBNAILS]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        drawn = zip(ids, pool.map(draw, map(int, ids)), strict=True)
        return {name: picture for name, picture in drawn if picture is not None}


def _floats(features: pa.Table, name: str) -> npt.NDArray[np.float64]:
    """A column as floats, NaN for null."""
    return features[name].cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy()


def _number(mask: pa.ChunkedArray) -> int:
    return pc.sum(mask).as_py() or 0
