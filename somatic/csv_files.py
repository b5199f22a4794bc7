"""CSV files as spreadsheets write them: names with blanks around them, other separators, other encodings."""

from collections.abc import Sequence

_BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def tidy_names(names: Sequence[str]) -> list[str]:
    """Names of columns without blanks around them, and without the quotes that are part of a name after a blank."""
    stripped = (name.strip() for name in names)
    return [name[1:-1] if len(name) > 1 and name[0] == name[-1] == '"' else name for name in stripped]


def header_fault(names: Sequence[str]) -> str | None:
    """Say what is wrong with a header that has one column only, or is no text; None where nothing is.

    Parameters
    ----------
    names : sequence of str
        As they are read with commas between them.

    Returns
    -------
    str or None
        To follow "it ".
    """
    if any("\0" in name for name in names):
        return _NOT_UTF8
    found = [said for mark, said in _SEPARATORS.items() if len(names) == 1 and mark in names[0]]
    return f"has {found[0]} between its columns; write commas" if found else None


def encoding_fault(head: bytes) -> str | None:
    """The same of the first bytes of a file."""
    return _NOT_UTF8 if head.startswith(_BYTE_ORDER_MARKS) else None


_NOT_UTF8 = 'is in UTF-16, and not in UTF-8; save it as UTF-8 (in Excel: "CSV UTF-8")'
