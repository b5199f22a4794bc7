"""Paths and URLs as people write them: what is wrong with one that would lead to another place than is meant."""

import os
import re

from fsspec.registry import known_implementations

# What follows is the name of a bucket or a host.
_WITH_A_HOST = {"s3", "s3a", "gs", "gcs", "abfs", "az", "http", "https", "ftp", "sftp", "ssh"}
_NO_NAMES_OF_FOLDERS = _WITH_A_HOST | {"file", "precomputed", "graphene"}
_IN_THIS_PROCESS = {"memory", "data"}
# Two letters at least: C:/folder is a path.
_WORD = r"[A-Za-z][A-Za-z0-9+.-]+"


def url_fault(text: str) -> str | None:
    """Say what is wrong with a path or URL that would lead to another place than is meant.

    A file system takes `s3:/bucket` for a folder `s3:` in the current one, and `~nobody` for one too.

    Parameters
    ----------
    text : str
        A path, or a URL that fsspec or cloud-volume reads.

    Returns
    -------
    str or None
        What is wrong and what to write instead, to follow the text and a colon; it repeats nothing of a text that may
        hold a password. None where nothing is wrong.
    """
    if "\0" in text:
        return "contains a null character"
    word, colon, rest = text.partition(":")
    scheme = word.strip().lower()
    if colon and rest.startswith("//"):
        no_host = scheme in _WITH_A_HOST and not re.match(r"//[^/]", rest)
        misspelt = word != scheme and scheme in known_implementations.keys() | _NO_NAMES_OF_FOLDERS
        return _did_you_mean(text, scheme, rest) if no_host or misspelt else None
    if colon and (scheme in _NO_NAMES_OF_FOLDERS or (re.fullmatch(_WORD, word) and rest.startswith("/"))):
        return _did_you_mean(text, scheme, rest)
    without_colon = re.match(rf"({_WORD})//", text)
    if without_colon and without_colon[1].lower() in _NO_NAMES_OF_FOLDERS:
        return _did_you_mean(text, without_colon[1].lower(), text[without_colon.end() :])
    if os.path.expanduser(text).startswith("~"):  # noqa: PTH111 - pathlib raises where there is no such user
        user = text.partition("/")[0]
        return f"{user} has no home folder; write the whole path, or ./{user} for a folder of this name"
    return None


def results_fault(text: str) -> str | None:
    """`url_fault` of a place for results, which also has to outlive the process."""
    scheme = text.partition(":")[0].strip().lower()
    if f"{scheme}:/" in text.lower() and scheme in _IN_THIS_PROCESS:
        return f"nothing at {scheme}:// outlives the process; choose a folder or a URL such as s3://bucket/folder"
    return url_fault(text)


def _did_you_mean(text: str, scheme: str, rest: str) -> str:
    place = rest.lstrip("/\\")
    if not place:
        return f"names no bucket or host; write {scheme}://NAME"
    if "@" in text:
        return f"not a valid URL; did you mean {scheme}://...?"
    meant = f"not a valid URL; did you mean {scheme}://{'/' if scheme == 'file' else ''}{place}?"
    return meant if "://" in text else f"{meant} (for a folder of this name: ./{text})"
