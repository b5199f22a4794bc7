"""What is noted of a run beside the results: its retries keep to it, and `somatic status` finds it there."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime

from somatic.results.store import ResultStore


@dataclass(frozen=True)
class Run:
    """An extraction that has begun.

    Attributes
    ----------
    id : str
        Of its flow run.
    version : int
        Materialization version.
    config : str
        `Extraction.config_hash`.
    plan : str or None
        Hash of its plan; None until it has one.
    chunks_per_shard : int
        Into what ranges the plan was cut.
    started : datetime
        When its first attempt began, with a time zone.
    base : str or None
        Name of the result set (`v<version>/<config>`) from which it takes rows over.
    whole : bool
        Whether it planned every nucleus, and not a selection of them.
    """

    id: str
    version: int
    config: str
    plan: str | None
    chunks_per_shard: int
    started: datetime
    base: str | None = None
    whole: bool = False

    def store(self, results: ResultStore) -> ResultStore:
        """Where the results of its version and configuration lie, of those of its dataset."""
        return ResultStore(results.url_of(f"v{self.version}/{self.config}"))

    def put(self, results: ResultStore) -> None:
        """Write it beside the results of its dataset."""
        noted = asdict(self) | {"started": self.started.isoformat()}
        results.put(_name(self.id), f"{json.dumps(noted, indent=2)}\n".encode())


def load_run(results: ResultStore, run_id: str) -> Run | None:
    """Read a run of a dataset; None when it has not begun yet.

    Raises
    ------
    StoreError, StoreUnavailable
        It could not be read, for good or for now.
    """
    if not results.exists(_name(run_id)):
        return None
    noted = json.loads(results.get(_name(run_id)))
    return Run(**noted | {"started": datetime.fromisoformat(noted["started"])})


def load_runs(results: ResultStore) -> list[Run]:
    """Read all runs of a dataset, the latest first."""
    ids = (name.removesuffix(".json") for name in results.names("runs") if name.endswith(".json"))
    found: Iterator[Run | None] = (load_run(results, run_id) for run_id in ids)
    return sorted((run for run in found if run), key=lambda run: run.started, reverse=True)


def _name(run_id: str) -> str:
    return f"runs/{run_id}.json"
