"""JSON that strangers wrote."""

import json
from typing import Any


def load_json(text: str | bytes) -> Any:
    """Value of a JSON text.

    Raises
    ------
    ValueError
        It is not valid JSON: also of NaN and Infinity, numbers of thousands of digits, and values nested so deeply that
        Python does not read them.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"it holds {constant}, which JSON does not know")
