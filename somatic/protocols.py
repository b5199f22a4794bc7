"""Which URLs a file may name; a stranger may have written it."""

from collections.abc import Collection
from urllib.parse import urlsplit

BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "abfs")
READABLE = ("http", "https", *BUCKETS)
"""Protocols of tables, beside files of this machine. Of fsspec's others some start programs, keep copies or carry
passwords."""


def protocol_of(place: str) -> str:
    """Protocol of a URL, `file` of a path."""
    return place.partition("://")[0] if "://" in place else "file"


def protocol_fault(place: str, protocols: Collection[str]) -> str | None:
    """What keeps a path or URL from being used, for a sentence that begins with it; None where nothing does.

    Parameters
    ----------
    place : str
        A path, or a URL of whatever kind.
    protocols : collection of str
        Those that are meant beside `file`.
    """
    protocol = protocol_of(place)
    expected = f"expected a path or {', '.join(f'{one}://' for one in protocols)}"
    if "::" in protocol:
        return f"is a chain of protocols; {expected}"
    if protocol != "file" and protocol not in protocols:
        return f"has the protocol {protocol}://; {expected}"
    try:
        has_password = protocol != "file" and "@" in urlsplit(place).netloc
    except ValueError as error:
        return f"is not a valid URL ({error})"
    if has_password:
        return "holds a user or password; credentials do not belong in a URL"
    if protocol == "file" and "://" in place.removeprefix("file://"):
        return f"has two protocols; {expected}"
    return None
