"""What a run came to, in words and tables for the summary in Prefect's UI."""

import re
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from somatic.extracting.cost import Cost
from somatic.in_words import number_in_words, size_in_words
from somatic.results.changes import CHANGE_WORDS, compare_features, count_changes

CellUrl = Callable[[int, int, tuple[float, float, float]], str | None]
"""Link to a cell, of nucleus id, root id and centre in nm; None where there is none."""


def cell(text: object) -> str:
    """A text for a cell of a table: on one line, and nothing in it taken for markdown, for HTML or for a border."""
    escaped = re.sub(r"([\\`*_\[\]<>|~])", r"\\\1", str(text))
    return " ".join(escaped.split())


def code(text: object) -> str:
    """A text as code, such as a URL, whatever it holds."""
    line = " ".join(str(text).split())
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence, blank = "`" * (longest + 1), " " * bool(longest)
    return f"{fence}{blank}{line}{blank}{fence}"


def changes_markdown(changes: pa.Table, cell_url: CellUrl) -> list[str]:
    """Lines that say what is different from the earlier version: how many nuclei, and where the features moved most."""
    if not changes.num_rows:
        return ["", "## Changes", "", "Nothing is different from the earlier version."]
    version, later = (changes[f"materialization_version_{when}"][0].as_py() for when in ("before", "after"))
    since = f"version {version}" if version != later else "the earlier table of this version"
    lines = ["", f"## Changes since {since}", "", "| nuclei | |", "|---|---|"]
    lines += [f"| {number:,} | {CHANGE_WORDS[name]} |" for name, number in count_changes(changes).items()]
    features = compare_features(changes)
    one_sided = features["only_results"] + features["only_reference"]
    features = features.assign(one_sided=one_sided, nuclei=features["n_different"] + one_sided)
    features = features[features["nuclei"] > 0]
    if len(features):
        named = pa.array({nucleus_id for worst in features["worst"] for nucleus_id in worst}, pa.int64())
        rows = {row["nucleus_id"]: row for row in changes.filter(pc.is_in(changes["nucleus_id"], named)).to_pylist()}
        lines += ["", "| feature | nuclei | with a value in one version only | largest changes |", "|---|---|---|---|"]
        for name, feature in features.iterrows():
            worst = ", ".join(_change(rows[nucleus_id], str(name), cell_url) for nucleus_id in feature["worst"])
            lines.append(f"| {name} | {feature['nuclei']:,} | {feature['one_sided']:,} | {worst} |")
    return lines


def cost_markdown(cost: Cost) -> list[str]:
    """Lines that say what the run cost, beside what measuring every cell would have taken."""
    full = cost.full_run
    requests = f"{sum(cost.requests.values()):,}"
    if cost.requests:
        requests += f" ({', '.join(f'{number:,} {kind}' for kind, number in cost.requests.items())})"
    basis = "as the cells measured" if full.bytes_from == "computed cells" else "an upper bound"
    return [
        "",
        "## Cost, at least",
        "",
        "| | this run | a full run, about |",
        "|---|---|---|",
        f"| cells measured | {cost.cells_computed:,} | {full.cells:,} |",
        f"| cells reused | {cost.cells_carried:,} | 0 |",
        f"| requests to CAVE | {requests} | {full.requests:,} |",
        f"| segmentation read | {size_in_words(cost.segmentation_bytes)} in {cost.segmentation_files:,} files "
        f"| {size_in_words(full.segmentation_bytes)} ({basis}) |",
        f"| somata | {_parts(cost, 'somata')} | |",
        f"| nuclei | {_parts(cost, 'nuclei')} | |",
        f"| cells with synapses | {_parts(cost, 'synapses')} | |",
    ]


def _parts(cost: Cost, part: str) -> str:
    return f"{getattr(cost.measured, part):,} measured, {getattr(cost.reused, part):,} reused"


def _change(row: dict[str, Any], feature: str, cell_url: CellUrl) -> str:
    """A cell, linked, with the two values of a feature."""
    x, y, z = (row[f"centre_{axis}_nm_after"] for axis in "xyz")
    nucleus_id = row["nucleus_id"]
    url = cell_url(nucleus_id, row["soma_id_after"], (x, y, z))
    cell = f"[{nucleus_id}]({url})" if url else str(nucleus_id)
    before, after = row[f"{feature}_before"], row[f"{feature}_after"]
    if isinstance(before, bool) or not before:
        return f"{cell} {_shown(before)} to {_shown(after)}"
    return f"{cell} {_shown(before)} to {_shown(after)} ({100 * (after - before) / abs(before):+.2g} %)"


def _shown(value: float | bool) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number_in_words(value, digits=6)
