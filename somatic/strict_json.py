"""JSON that strangers wrote."""

import json
import math
from typing import Any, NoReturn


def load_json(text: str | bytes) -> Any:
    """Value of a JSON text.

    Raises
    ------
    ValueError
        It is not valid JSON: also of NaN and Infinity, numbers of thousands of digits, and values nested so deeply that
        Python does not read them.
    """
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant[:80]}, which is no number of JSON")
