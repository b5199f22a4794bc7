"""Fixtures of the tests that read what strangers wrote."""

from collections.abc import Iterator

import pytest
from cage import Cage


@pytest.fixture(scope="session")
def cage() -> Iterator[Cage]:
    """A process with little memory, started when it is first needed."""
    made = Cage()
    yield made
    made.close()
