"""Numbers, sizes and lengths of time as people read them: no exponents, no digits that mean nothing."""

import math


def number_in_words(value: float, digits: int = 3) -> str:
    """A number with so many significant digits and no exponent: 0.0123, 4.5, 212, 2,412.

    Parameters
    ----------
    value : float
        Its whole part keeps all of its digits.
    digits : int
        Significant digits; zeros at the end of a fraction are left out.
    """
    if not math.isfinite(value):
        return str(value)
    # First to the digits, since 999.96 has one more before the point when it is rounded.
    rounded = float(f"{value:.{digits - 1}e}")
    exponent = math.floor(math.log10(abs(rounded))) if rounded else 0
    text = f"{value:,.{max(0, digits - 1 - exponent)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def size_in_words(n_bytes: float) -> str:
    """A number of bytes in words: 512 B, 1.5 kB, 640 MB, 2.3 TB."""
    for unit in ("B", "kB", "MB", "GB"):
        if round(n_bytes) < 1000:
            return f"{number_in_words(n_bytes)} {unit}"
        n_bytes /= 1000
    return f"{number_in_words(n_bytes)} TB"


def duration(seconds: float) -> str:
    """A length of time in words: 40 s, 12 min, 3.5 h, 2.1 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:,.1f} days"
