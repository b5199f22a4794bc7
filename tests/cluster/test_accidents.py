"""Extractions on a cluster, whatever dies: every cell once, nothing measured twice but what was in hand."""

import pytest
from extracting import Results
from lab import Extraction, Lab

DATABASE = "sqlite"
pytestmark = pytest.mark.timeout(600)


def check_table(extraction: Extraction, undisturbed: Results) -> None:
    """See that every nucleus stands in one chunk file, and that the table is that of an undisturbed run."""
    assert extraction.results.stored == undisturbed.stored
    assert extraction.results.features == undisturbed.features


def test_normal(lab: Lab, undisturbed: Results) -> None:
    """Each shard is one Job, each cell is measured once, and the table is that of one machine to the last byte."""
    extraction = lab.extract()
    state = extraction.ended()
    assert state.is_completed(), extraction.story()
    check_table(extraction, undisturbed)
    assert set(extraction.measured().values()) == {1}
    shards = extraction.shards()
    assert [(run.parameters["start"], run.parameters["stop"]) for run in shards] == [(0, 6), (6, 12)]
    assert [lab.cluster.count_jobs(run.id) for run in (extraction.run, *shards)] == [1, 1, 1]
