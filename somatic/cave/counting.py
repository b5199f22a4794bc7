"""How many requests this process has sent to CAVE and to the graphs of segmentations, by kind."""

import re
import threading
from collections import Counter
from urllib.parse import urlsplit

_QUERY = re.compile(r"/(?:(?:table|views)/([^/]+)|version/\d+)/query$")
_LEAVES = re.compile(r"/leaves\w*$")
_ROOTS = re.compile(r"/(?:is_latest_roots|roots\w*)$")

_sent: Counter[str] = Counter()
_lock = threading.Lock()


def count_request(url: str) -> None:
    """Count a request that is about to be sent; each attempt is one."""
    kind = request_kind(url)
    with _lock:
        _sent[kind] += 1


def requests_sent() -> Counter[str]:
    """Requests of all threads of this process so far, by kind; a copy."""
    with _lock:
        return _sent.copy()


def request_kind(url: str) -> str:
    """What a request asks for: `rows of <table>`, `leaves` or `roots` of a graph, and else `metadata`."""
    path = urlsplit(url).path
    if found := _QUERY.search(path):
        # A table that refers to another one is joined with it, and only the body says which they are.
        return f"rows of {found[1] or 'joined tables'}"
    if _LEAVES.search(path):
        return "leaves"
    if _ROOTS.search(path):
        return "roots"
    return "metadata"
