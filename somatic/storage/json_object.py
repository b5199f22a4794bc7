"""JSON files of a store that hold one object each."""

from collections.abc import Sequence
from functools import reduce
from operator import getitem
from typing import Any

from somatic.errors import StoreError
from somatic.strict_json import load_json

LARGEST_BYTES = 2**22
"""Of a file that is read as JSON; ours have a thousandth of that."""


def object_from_json(data: bytes, where: str, what: str, *needed: Sequence[str]) -> dict[str, Any]:
    """Object of a JSON file.

    Parameters
    ----------
    data : bytes
        Content of the file.
    where : str
        The file, as it is called in an error.
    what : str
        What it should be, and what to do where it is not: "list of nuclei; delete it".
    needed : sequence of str
        What must be in it, each as the keys that lead there.

    Raises
    ------
    StoreError
        The file holds no such object.
    """
    try:
        found = load_json(data)
        for keys in needed:
            reduce(getitem, keys, found)
        if not isinstance(found, dict):
            raise TypeError(f"a {type(found).__name__}")
    except (ValueError, LookupError, TypeError) as error:
        raise StoreError(f"{where} is no {what}") from error
    return found
