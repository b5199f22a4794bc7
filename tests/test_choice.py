"""How many workers there are: as many as cores, unless memory allows fewer or a person wants another number."""

import multiprocessing
import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from somatic.workers import choice
from somatic.workers.choice import Workers, choose_workers
from somatic.workers.isolation import warm_up
from somatic.workers.memory import Budget, usable_cores, worker_memory_bytes

GIB = 2**30
OF_MINNIE65 = worker_memory_bytes(15_000, np.array((64, 64, 40)), (256, 256, 32))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, float], None]:
    """Sets the cores and the free memory of this machine, of two limits the lower one, in GiB."""

    def machine(cores: int, free_gib: float) -> None:
        def budgets(_: object) -> Iterator[Budget]:
            yield Budget(512 * GIB, 100 * GIB, GIB)
            yield Budget(int((free_gib + 3) * GIB), 2 * GIB, GIB)

        monkeypatch.setattr(choice, "usable_cores", lambda: cores)
        monkeypatch.setattr(choice, "memory_budgets", budgets)

    return machine


@pytest.mark.parametrize(
    ("cores", "free_gib", "count", "fitting"), [(64, 31, 34, 34), (4, 31, 4, 34), (64, 0.5, 1, 0), (64, -1, 1, -2)]
)
def test_as_many_as_cores_and_memory_allow(
    cores: int, free_gib: float, count: int, fitting: int, machine: Callable[[int, float], None]
) -> None:
    """64 cores with 31 GiB free measure 34 cells of minnie65 at once, and not 64; one in any case."""
    machine(cores, free_gib)
    workers = choose_workers(OF_MINNIE65)
    assert workers == Workers(count, False, cores, int(free_gib * GIB), OF_MINNIE65)
    assert workers.fitting == max(0, fitting)
    assert (workers.warning() is None) == (count <= fitting)


def test_what_is_said(machine: Callable[[int, float], None]) -> None:
    """One line with what the number was chosen by."""
    machine(64, 31)
    assert choose_workers(OF_MINNIE65).in_words() == "34 on this machine: memory for 34 (33.3 GB free), 64 cores"
    machine(1, 0.5)
    assert choose_workers(OF_MINNIE65).in_words() == "1 on this machine: memory for 0 (537 MB free), 1 core"
    assert choose_workers(OF_MINNIE65, 3).in_words() == "3 as requested: memory for 0 (537 MB free), 1 core"


@pytest.mark.parametrize(("requested", "warned"), [(34, False), (35, True), (64, True)])
def test_more_than_fit_on_request(requested: int, warned: bool, machine: Callable[[int, float], None]) -> None:
    """A person has the last word, and is told what may happen and what to do."""
    machine(64, 31)
    workers = choose_workers(OF_MINNIE65, requested)
    assert workers.count == requested
    warning = workers.warning()
    assert (warning is not None) == warned
    if warning:
        assert re.match(rf"{requested} workers may need [\d.]+ GB of memory and 33.3 GB is free: ", warning)
        assert "use --workers 34" in warning


def test_memory_for_none(machine: Callable[[int, float], None]) -> None:
    """There is nothing to choose then but other programs."""
    machine(64, 0.5)
    warning = choose_workers(OF_MINNIE65).warning()
    assert warning
    assert warning.startswith("1 worker may need ")
    assert "end other programs" in warning
    assert "--workers" not in warning


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a limit that is for this process alone, what it and its children have is not free."""
    assert choose_workers(1).count == usable_cores()
    warm_up("published")
    children = multiprocessing.get_context("forkserver").Process(target=int)
    children.start()
    children.join()
    monkeypatch.setenv("SOMATIC_MEMORY_BYTES", str(4 * GIB))
    free_bytes = choose_workers(1).free_bytes
    # The interpreter with what the tests and the fork server import.
    assert GIB < free_bytes < 0.95 * 4 * GIB - 200 * 2**20
