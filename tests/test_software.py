"""Tests of which software made a number."""

from importlib.metadata import version
from pathlib import Path

import pytest

from somatic import software


@pytest.mark.parametrize(("commit", "said"), [("0123456789ab.dirty", "+g0123456789ab.dirty"), ("", ""), (None, "")])
def test_commit_of_an_image(commit: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no checkout, the commit is the one that the image was told of, if it was."""
    monkeypatch.setattr(software, "__file__", str(tmp_path / "somatic" / "software.py"))
    monkeypatch.delenv("SOMATIC_COMMIT", raising=False)
    if commit is not None:
        monkeypatch.setenv("SOMATIC_COMMIT", commit)
    assert software.code_version.__wrapped__() == version("somatic-features") + said


def test_checkout_knows_better_than_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout tells its own commit, whatever an image was told."""
    monkeypatch.setenv("SOMATIC_COMMIT", "0123456789ab")
    assert "0123456789ab" not in software.code_version.__wrapped__()
