"""How many processes measure cells at once on this machine: as many as its cores, unless memory allows fewer."""

from dataclasses import dataclass

import psutil

from somatic.in_words import size_in_words
from somatic.workers.memory import memory_budgets, process_memory_bytes, usable_cores


@dataclass(frozen=True)
class Workers:
    """A number of workers for this machine, and what it was chosen by.

    Attributes
    ----------
    count : int
        How many there will be.
    requested : bool
        Whether a person chose that number.
    cores : int
        Processor cores that this process may use.
    free_bytes : int
        Memory that is free for them.
    worker_bytes : int
        Most memory that one of them needs.
    """

    count: int
    requested: bool
    cores: int
    free_bytes: int
    worker_bytes: int

    @property
    def fitting(self) -> int:
        """How many have enough memory at the same time."""
        return max(0, self.free_bytes // self.worker_bytes)

    def in_words(self) -> str:
        """The number and what it was chosen by, without the word workers."""
        chosen = "as requested" if self.requested else "on this machine"
        cores = "1 core" if self.cores == 1 else f"{self.cores} cores"
        return (
            f"{self.count} {chosen}: memory for {self.fitting} ({size_in_words(max(0, self.free_bytes))} free), {cores}"
        )

    def warning(self) -> str | None:
        """What may happen when memory is too small for them; None when it is not."""
        if self.count <= self.fitting:
            return None
        workers = "1 worker" if self.count == 1 else f"{self.count} workers"
        fewer = f"use --workers {self.fitting}" if self.fitting else "end other programs"
        return (
            f"{workers} may need {size_in_words(self.count * self.worker_bytes)} of memory and "
            f"{size_in_words(max(0, self.free_bytes))} is free: cells that find none are measured again one at a time, "
            f"which takes longer; {fewer}, or give this machine more memory"
        )


def choose_workers(worker_bytes: int, requested: int | None = None) -> Workers:
    """Choose how many workers there will be.

    Parameters
    ----------
    worker_bytes : int
        Most memory that one of them needs (`somatic.workers.memory.worker_memory_bytes`).
    requested : int, optional
        As many as a person asked for; else one per core, or fewer if memory is free for fewer, but at least one.

    Returns
    -------
    Workers
    """
    this = psutil.Process()

    def own_bytes(_: int) -> int:
        return sum(map(process_memory_bytes, [this, *this.children(recursive=True)]))

    free_bytes = min(budget.free_bytes for budget in memory_budgets(own_bytes))
    cores = usable_cores()
    count = requested or max(1, min(cores, free_bytes // worker_bytes))
    return Workers(count, requested is not None, cores, free_bytes, worker_bytes)
