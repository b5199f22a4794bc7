"""The synapses of the next chunks are queried while those before are measured, and nobody waits for more than that."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from extracting import Results, command, ended, error_of, run

from sandbox.cave.server import CaveServer
from sandbox.lab import SYNAPSES
from somatic.errors import CaveError, CaveUnavailable, IncompleteExtraction
from somatic.extracting.extraction import Extraction
from somatic.extracting.shards import Shard

pytestmark = pytest.mark.usefixtures("no_report")


def until(true: Callable[[], bool], within_s: float = 60) -> bool:
    """Wait until something is so; whether it came to be."""
    deadline = time.monotonic() + within_s
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    return true()


@dataclass
class Seen:
    """What happens in a shard, each chunk of which is a batch of its own."""

    asked: list[list[int]] = field(default_factory=list)
    """Nuclei of each query."""
    begun: list[int] = field(default_factory=list)
    """How many queries there were when a chunk began to be measured."""
    on_query: Callable[[int], None] = lambda _number: None
    on_chunk: Callable[[int], None] = lambda _number: None


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Looks at queries and chunks, and holds them up on demand."""
    seen, lock = Seen(), threading.Lock()
    batches, synapses_of, extract = Shard.batches, Extraction.synapses_of, Extraction.extract

    def look_at_query(self: Extraction, cells: list[Any]) -> Any:
        with lock:
            seen.asked.append([cell.nucleus_id for cell in cells])
            number = len(seen.asked)
        seen.on_query(number)
        return synapses_of(self, cells)

    def look_at_chunk(self: Extraction, *arguments: Any, **options: Any) -> Iterator[Any]:
        with lock:
            seen.begun.append(len(seen.asked))
            number = len(seen.begun)
        seen.on_chunk(number)
        yield from extract(self, *arguments, **options)

    monkeypatch.setattr(Shard, "batches", lambda self: batches(self, 1))
    monkeypatch.setattr(Extraction, "synapses_of", look_at_query)
    monkeypatch.setattr(Extraction, "extract", look_at_chunk)
    return seen


def test_one_batch_ahead(seen: Seen, cave_dataset: Path, undisturbed: Results, tmp_path: Path) -> None:
    """The first chunk is being measured when the second query is sent, the second one when the third is answered."""
    in_time: list[bool] = []

    def on_chunk(number: int) -> None:
        if number == 1:
            in_time.append(until(lambda: len(seen.asked) >= 2))

    def on_query(number: int) -> None:
        if number == 3:
            in_time.append(until(lambda: len(seen.begun) >= 2))

    seen.on_chunk, seen.on_query = on_chunk, on_query
    assert run(cave_dataset, tmp_path / "results", version=1, workers=1).is_completed()
    assert in_time == [True, True]
    assert len(seen.asked) == len(seen.begun) == 4
    # Never more than one batch ahead.
    assert all(asked <= number + 2 for number, asked in enumerate(seen.begun))
    results = Results(str(tmp_path / "results"))
    assert results.features == undisturbed.features
    assert results.stored == undisturbed.table.index.tolist()


def test_many_workers(seen: Seen, cave_dataset: Path, undisturbed: Results, tmp_path: Path) -> None:
    """With more workers than chunks all of them are at work at once, and each cell has its synapses."""
    in_time: list[bool] = []
    seen.on_chunk = lambda _: in_time.append(until(lambda: len(seen.begun) == 4))
    assert run(cave_dataset, tmp_path / "results", version=1, workers=9).is_completed()
    assert in_time == [True] * 4
    assert Results(str(tmp_path / "results")).features == undisturbed.features


def test_a_query_that_fails_for_now(seen: Seen, cave_dataset: Path, undisturbed: Results, tmp_path: Path) -> None:
    """It costs the cells of its batch only, and the next run measures them."""

    def on_query(number: int) -> None:
        if number > 1 and seen.asked[number - 1] == seen.asked[1]:
            raise CaveUnavailable("CAVE did not answer")

    seen.on_query = on_query
    results = Results(str(tmp_path / "results"))
    error = error_of(run(cave_dataset, results.root, version=1, workers=1))
    assert isinstance(error, IncompleteExtraction)
    assert "CAVE did not answer" in str(error)
    assert len(seen.begun) == 3
    assert set(results.stored) == set(undisturbed.table.index) - set(seen.asked[1])
    seen.on_query = lambda _number: None
    assert run(cave_dataset, results.root, version=1).is_completed()
    assert results.features == undisturbed.features


def test_a_query_that_is_refused(seen: Seen, cave_dataset: Path, tmp_path: Path) -> None:
    """What is measured meanwhile is stored; after that nothing is queried or measured any more."""

    def on_query(number: int) -> None:
        if number == 2:
            raise CaveError("CAVE refused")

    seen.on_chunk = lambda _: until(lambda: len(seen.asked) == 2) and None
    seen.on_query = on_query
    results = Results(str(tmp_path / "results"))
    assert str(error_of(run(cave_dataset, results.root, version=1, workers=1))).startswith("CAVE refused")
    assert len(seen.begun) == 1
    assert set(seen.asked[0]) <= set(results.stored)
    assert not set(seen.asked[1]) & set(results.stored)


def test_ctrl_c_does_not_wait_for_an_answer(cave_dataset: Path, cave: CaveServer, tmp_path: Path) -> None:
    """A query takes minutes; the command ends all the same."""
    cave.slow(f"table/{SYNAPSES}/query", 600.0)
    [query] = cave._faults._faults
    process = command("extract", cave_dataset, "--version", 1, "--to", tmp_path / "results", folder=tmp_path)
    assert until(lambda: process.poll() is not None or query.times == 0, 240)
    os.killpg(process.pid, signal.SIGINT)
    ran = ended(process)
    assert ran.status == 130
    assert ran.error == "stopped; what was measured is kept, and the same command goes on from there"
