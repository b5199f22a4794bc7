"""Numbers and sizes as people read them."""

import pytest

from somatic.in_words import number_in_words, size_in_words


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0"),
        (1e-7, "0.0000001"),
        (0.0123, "0.0123"),
        (4.5, "4.5"),
        (99.95, "100"),
        (212.4, "212"),
        (999.96, "1,000"),
        (2412.3, "2,412"),
        (-3.14159, "-3.14"),
        (float("inf"), "inf"),
    ],
)
def test_numbers(value: float, said: str) -> None:
    """Three digits that mean something, and never an exponent."""
    assert number_in_words(value) == said


@pytest.mark.parametrize(
    ("n_bytes", "said"),
    [(0, "0 B"), (512, "512 B"), (999.7, "1 kB"), (999_700, "1 MB"), (5570, "5.57 kB"), (4e15, "4,000 TB")],
)
def test_sizes(n_bytes: float, said: str) -> None:
    """What rounds to a thousand is one of the next unit."""
    assert size_in_words(n_bytes) == said
