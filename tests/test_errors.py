"""`somatic.errors`: what others say, made into one line."""

import pytest

from somatic.errors import one_line, typed_line


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("", ""),
        ("a word\n\tand  another\r\n", "a word and another"),
        ("\x1b[91mred\x1b[0m", "red"),
        (ValueError("no\nnumber"), "no number"),
        (ValueError(), "ValueError"),
        (KeyError("size"), "'size'"),
    ],
)
def test_one_line(said: Exception | str, line: str) -> None:
    """Blanks are joined, colours left out; an error without a text is called by its type."""
    assert one_line(said) == line


def test_a_long_text_is_cut() -> None:
    """To 200 characters, the last of which say that there is more."""
    assert one_line("x" * 200) == "x" * 200
    assert one_line("x" * 201) == "x" * 197 + "..."


def test_with_the_type() -> None:
    """It stands before the text, and alone where there is none."""
    assert typed_line(ValueError("no\nnumber")) == "ValueError: no number"
    assert typed_line(ValueError()) == "ValueError"
