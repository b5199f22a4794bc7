"""What a store answers when it refuses a file."""

_FORBIDDEN = 403
# S3 and Google's storage give this code for a key that does not exist in a bucket that may not be listed, and for
# one that may not be read. Every other code (an archived object, a bad signature, ...) is about a file that exists.
_DENIED = "AccessDenied"


class Refused(Exception):
    """A store refuses a request, and would refuse it again.

    Parameters
    ----------
    key : str
        Of the file, as its store names it.
    reason : str
        What the store says, on one line.
    status : int, optional
        HTTP status; None where something else than the store's answer keeps every file from being read.
    code : str
        The store's own error code; empty where it gives none.
    """

    def __init__(self, key: str, reason: str, status: int | None = None, code: str = "") -> None:
        super().__init__(reason)
        self.key = key
        self.status = status
        self.code = code

    @property
    def is_answer(self) -> bool:
        """Whether the store has answered about this one file."""
        return self.status is not None

    @property
    def may_be_missing(self) -> bool:
        """Whether a store that does not tell which files it has answers like this for one that it does not have."""
        return self.status == _FORBIDDEN and self.code in ("", _DENIED)
