"""The errors of somatic. Whether one is transient decides what is tried again."""

import re

_LONGEST = 200
_LONGEST_MESSAGE = 1000
_LONGEST_QUOTED = 80
# cloud-volume colours the texts of its errors for a terminal.
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class SomaticError(Exception):
    """Base of all errors that somatic raises on purpose; its text is one printable line for a person.

    Parameters
    ----------
    text : str
        What happened, where, what to do. It may quote a file of a stranger: characters that a terminal would obey are
        written out, and a text of more than 1000 characters is cut.
    """

    def __init__(self, text: str = "") -> None:
        line = printable(str(text))
        super().__init__(line if len(line) <= _LONGEST_MESSAGE else f"{line[: _LONGEST_MESSAGE - 3]}...")


class PermanentError(SomaticError):
    """Trying again with the same input gives the same error."""


class TransientError(SomaticError):
    """Trying again later may succeed."""


class DatasetError(PermanentError):
    """A dataset file, or a table that it names, is not what it must be."""


class NoSuchColumn(DatasetError):
    """A table lacks a column."""


class CaveError(PermanentError):
    """CAVE refused a request for good: unknown name, expired version, malformed query."""


class CaveTokenError(CaveError):
    """CAVE wants a token, does not know this one, or it lacks a permission."""


class CaveUnavailable(TransientError):
    """CAVE did not answer, or answered that something went wrong on its side."""


class VersionNotReady(TransientError):
    """CAVE is still making a version, which takes it hours."""


class SegmentationError(PermanentError):
    """A segmentation that cannot be read as asked: no such layer, no such mip, another version."""


class WrongSegmentation(SegmentationError):
    """The segmentation belongs to another version than the root ids."""


class RefusedLayer(SegmentationError):
    """The store of a layer refuses its files: it is private, or access was revoked. No fault of any cell."""


class RefusedFile(SegmentationError):
    """A store refuses one file of a layer, and serves others."""


class SegmentationUnavailable(TransientError):
    """A file of the segmentation could not be read or decoded."""


class MissingSegment(PermanentError):
    """The root id has no voxel in its cutout."""


class UnknownRoot(PermanentError):
    """The graph has no such root id, or it was none any more at the moment of the version."""


class MissingNucleusMesh(PermanentError):
    """The nucleus segmentation has no mesh for this nucleus."""


class BrokenNucleusMesh(PermanentError):
    """Files of the nucleus mesh are missing or damaged."""


class OpenNucleusMesh(PermanentError):
    """The nucleus mesh cannot be closed, or not without losing part of it."""


class MisplacedNucleus(PermanentError):
    """The nucleus mesh is not where the nucleus is."""


class DegenerateMesh(PermanentError):
    """A mesh of the cell is flat or empty, so that a measure of it is not a number."""


class UnexpectedError(PermanentError):
    """Something failed that somatic did not foresee; a fault of somatic or of a library."""


class CellKilled(PermanentError):
    """Measuring this one cell ended its process, most likely for lack of memory."""


class CellHung(TransientError):
    """Measuring this one cell took longer than it may."""


class ProcessEnded(TransientError):
    """Somebody ended the process of a cell, which says nothing about the cell."""


class Stopped(SomaticError):
    """The extraction was asked to end; trying again would go against that."""


class IncompleteExtraction(TransientError):
    """Some cells of an extraction failed for a reason that may be gone when it runs again."""


class FutileExtraction(IncompleteExtraction):
    """So much failed for now, and nothing else came of it, that going on is of no use."""


class StoreError(PermanentError):
    """The place for results cannot be used as asked."""


class StoreUnavailable(TransientError):
    """The place for results did not answer."""


def printable(text: str) -> str:
    r"""Text on one line in which nothing can move a cursor or recolour a terminal: control characters as `\x1b`."""
    if text.isprintable():
        return text
    blank = re.sub(r"[\t\r\n]+", " ", text)
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in blank)


def quoted(value: object) -> str:
    """A value of a file as an error may quote it: as Python writes it, of at most 80 characters."""
    text = repr(value[: _LONGEST_QUOTED + 1]) if isinstance(value, str) else repr(value)
    return text if len(text) <= _LONGEST_QUOTED else f"{text[:_LONGEST_QUOTED]}..."


def one_line(said: BaseException | str) -> str:
    """What a library or a server says, on one line of at most 200 characters; the type of an error without a text."""
    text = printable(" ".join(_COLOUR.sub("", str(said)).split()))
    if not text and isinstance(said, BaseException):
        text = type(said).__name__
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def typed_line(error: BaseException) -> str:
    """The same of an error, with its type before the text."""
    name, text = type(error).__name__, one_line(error)
    return name if text == name else f"{name}: {text}"
