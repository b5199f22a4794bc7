"""Noting what a flow run has asked of CAVE."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from prefect import get_run_logger
from prefect.runtime import flow_run

from somatic.cave.counting import requests_sent
from somatic.errors import SomaticError
from somatic.extracting.cost import put_requests
from somatic.storage.store import ResultStore


@contextmanager
def noted_requests(store: ResultStore, run_id: str, sent_before: Counter[str]) -> Iterator[None]:
    """However what is inside ends, note how many requests this attempt of the present flow run has sent.

    Parameters
    ----------
    store : ResultStore
        Where the results of the extraction lie.
    run_id : str
        Flow run of the extraction, whose shard this one may be.
    sent_before : Counter
        What this process had sent when the flow run began.
    """
    name = f"{flow_run.id}-{flow_run.run_count or 1}"
    try:
        yield
    finally:
        try:
            put_requests(store, run_id, name, requests_sent() - sent_before)
        except SomaticError as error:
            get_run_logger().warning("the requests of this flow run are not noted: %s", error)
