"""What is noted of a run beside the results: its retries keep to it, and `somatic status` finds it there."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated

from pydantic import AwareDatetime, Field, TypeAdapter, ValidationError

from somatic.errors import PermanentError, StoreError
from somatic.storage.json_object import LARGEST_BYTES
from somatic.storage.places import set_name
from somatic.storage.store import ResultStore


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
    bases : tuple of str
        Names of the result sets (`v<version>/<config>`) that it reuses (`somatic.results.base.choose_bases`).
    whole : bool
        Whether it planned every nucleus, and not a selection of them.
    memory_bytes : int or None
        Memory for one cell. All attempts and shards of the run decide by it whether a killed cell is done (`Ledger`);
        None where it is not known before the shards run.
    """

    id: str
    version: Annotated[int, Field(ge=0, le=2**53)]
    config: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    plan: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")] | None
    chunks_per_shard: Annotated[int, Field(ge=1)]
    started: AwareDatetime
    bases: tuple[Annotated[str, Field(pattern=r"^v[0-9]+/[0-9a-f]{8}$")], ...] = ()
    whole: bool = False
    memory_bytes: Annotated[int, Field(ge=0, lt=2**63)] | None = None

    def store(self, results: ResultStore) -> ResultStore:
        """Where the results of its version and configuration lie, of those of its dataset."""
        return results.below(set_name(self.version, self.config))

    def check_config(self, config: str) -> None:
        """Check that whoever continues it measures in the same way.

        Raises
        ------
        PermanentError
            `config`, the `Extraction.config_hash` of today, is another one: the dataset file or somatic has changed.
        """
        if config != self.config:
            raise PermanentError(
                f"the extraction {self.id} was started with the configuration {self.config}, and the dataset file or "
                f"the release of somatic has changed since ({config}); start a new one"
            )

    def put(self, results: ResultStore) -> None:
        """Write it beside the results of its dataset.

        Raises
        ------
        StoreError, StoreUnavailable
            It was not written, for good or for now.
        """
        noted = asdict(self) | {"started": self.started.isoformat()}
        results.put(_name(self.id), f"{json.dumps(noted, indent=2)}\n".encode())


_RUN = TypeAdapter(Run)


def load_run(results: ResultStore, run_id: str) -> Run | None:
    """Read a run of a dataset; None when it has not begun yet. What a newer somatic notes besides is passed over.

    Raises
    ------
    StoreError, StoreUnavailable
        It could not be read, for good or for now, or the file is no note of a run.
    """
    name = _name(run_id)
    if not results.exists(name):
        return None
    try:
        run = _RUN.validate_json(results.get(name, largest_bytes=LARGEST_BYTES))
    except ValidationError as error:
        raise StoreError(
            f"{results.url_of(name)} is no note of a run; delete it, which costs nothing that was measured"
        ) from error
    if run.id != run_id:
        # Names of folders are made of it.
        raise StoreError(f"{results.url_of(name)} is the note of another run; delete it")
    return run


def load_runs(results: ResultStore) -> list[Run]:
    """Read all runs of a dataset, the latest first.

    Raises
    ------
    StoreError, StoreUnavailable
        One could not be read, for good or for now, or a file is no note of a run.
    """
    ids = (name.removesuffix(".json") for name in results.names("runs") if name.endswith(".json"))
    found: Iterator[Run | None] = (load_run(results, run_id) for run_id in ids)
    return sorted((run for run in found if run), key=lambda run: run.started, reverse=True)


def _name(run_id: str) -> str:
    return f"runs/{run_id}.json"
