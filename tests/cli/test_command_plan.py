"""`somatic plan`."""

import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from command_line import TOKEN, Run, changed, start

from cli.showing import layer_in_words
from sandbox.cave.server import CaveServer
from sandbox.lab import datastack
from sandbox.phantom.scene import Scene
from somatic.dataset import load_dataset


def said(out: str) -> dict[str, str]:
    """The lines of a plan by their names, the title under its own."""
    title, *lines = out.splitlines()
    return {"title": title} | {line[:14].strip(): line[14:].strip() for line in lines}


def test_plan(cave_toml: Path, cave: CaveServer, scene: Scene, tmp_path: Path) -> None:
    """What an extraction takes is said, and nothing is written, neither results nor anything else."""
    asked = len(cave.requests)
    # In a process of its own, since threads of other tests may write into this home.
    ran = start("plan", cave_toml, "--version", 1, "--to", "results", "--chunk", 1, folder=tmp_path).ended(within_s=120)
    asked = len(cave.requests) - asked
    assert (ran.status, ran.err) == (0, "the token of CAVE goes to 127.0.0.1 only\n")
    plan = said(ran.out)
    assert plan["title"] == "phantom v1: 2 cells"
    assert plan["segmentation"] == scene.segmentation_url(1)
    assert plan["results"].startswith(f"{tmp_path}/results/phantom/v1/")
    assert plan["done already"] == "0 cells"
    assert plan["to measure"] == "2 cells in 2 chunks (1 shard)"
    assert plan["to skip"] == "1 nucleus without a root id or position"
    [requests] = re.findall(r"about (\d+) requests", plan["CAVE"])
    # Planning asks for all but the synapses of the two chunks.
    assert abs(int(requests) - 2 - asked) <= 3
    assert re.fullmatch(r"at most about \d+(\.\d+)? [kM]B of segmentation", plan["reading"])
    assert re.fullmatch(r"\d+ MB a worker", plan["memory"])
    assert re.fullmatch(r"\d+ on this machine: memory for \d+ \([\d.]+ [MG]B free\), \d+ cores?", plan["workers"])
    assert max(map(len, ran.out.splitlines()[3:])) <= 80
    # Folders that cloud-volume makes in a home when it is imported.
    assert {path.name for path in tmp_path.iterdir()} <= {".cloudvolume", ".cloudfiles"}


def test_version_past_its_expiry_date(run: Run, scene: Scene, cave: CaveServer, cave_toml: Path) -> None:
    """It is the latest as long as CAVE serves it, and one line warns."""
    stack = datastack(scene)
    stack.versions[1] = replace(stack.versions[1], expires_on=datetime(2020, 1, 1, 12))
    with CaveServer(stack, token=TOKEN) as server:
        Path("past.toml").write_text(cave_toml.read_text().replace(cave.url, server.url))
        ran = run("plan", "past.toml")
    assert ran.status == 0
    assert said(ran.out)["title"].startswith("phantom v2: ")
    assert ran.err.splitlines() == [
        "the token of CAVE goes to 127.0.0.1 only",
        "phantom v2 expired on 2020-01-01 12:00 UTC; CAVE still serves it, but may drop it at any moment",
    ]


def test_numbers_of_one(run: Run, files_toml: Path, cell_id: int) -> None:
    """One of a thing is said as one of a thing."""
    Path("one.txt").write_text(f"{cell_id}\n")
    plan = said(run("plan", files_toml, "--nuclei", "one.txt").out)
    assert plan["title"] == "tables v1: 1 cell"
    assert plan["to measure"] == "1 cell in 1 chunk (1 shard)"
    assert plan["to skip"] == "0 nuclei without a root id or position"
    assert plan["CAVE"] == "not used"


@pytest.mark.parametrize(
    ("options", "cells", "skipped"),
    [([], 2, 1), (["--limit", 1], 0, 1), (["--limit", 2], 1, 1), (["--sample", 3], 2, 1), (["--limit", 99], 2, 1)],
)
def test_choosing(run: Run, files_toml: Path, options: list[object], cells: int, skipped: int) -> None:
    """--limit takes the first by id, of which the first has no root here; --sample any; neither more than there are."""
    plan = said(run("plan", files_toml, *options).out)
    assert plan["title"] == f"tables v1: {cells} cell" + "s" * (cells != 1)
    assert plan["to skip"].startswith(f"{skipped} nucle")
    assert (plan["to measure"] == "nothing") == (cells == 0)


def test_a_longer_radius_reads_more(run: Run, files_toml: Path, tmp_path: Path) -> None:
    """The bytes and the memory that are announced grow with the cutout."""

    def number(text: str) -> float:
        value, unit = re.findall(r"([\d.]+) ([kMG]?B)", text)[0]
        return float(value) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]

    small = said(run("plan", files_toml).out)
    large = said(run("plan", changed(files_toml, tmp_path, ("cutout_radius_um = 5", "cutout_radius_um = 15"))).out)
    assert number(large["reading"]) > number(small["reading"])
    assert number(large["memory"]) > number(small["memory"])
    assert large["results"] != small["results"]


def test_layers_that_are_read_with_credentials(tmp_path: Path) -> None:
    """Who spends money or shows credentials is told so before anything is read."""
    (tmp_path / "volume.toml").write_text(
        'name = "a"\nmip = 0\nsegmentation = {url = "s3://lab/seg", credentials = true}\n[files]\nnuclei = "n.csv"\n'
        "resolution_nm = [1, 1, 1]\n"
        'nucleus_segmentation = {url = "gs://lab/nuclei", credentials = true, requester_pays = true}\n'
    )
    dataset = load_dataset(tmp_path / "volume.toml")
    urls = [f"precomputed://{place}" for place in ("s3://lab/seg", "gs://lab/nuclei", "s3://lab/other")]
    assert [layer_in_words(url, dataset) for url in urls] == [
        f"{urls[0]} (with your credentials)",
        f"{urls[1]} (with your credentials, and you pay for the requests)",
        urls[2],
    ]
