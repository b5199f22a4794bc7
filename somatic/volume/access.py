"""How a layer is read: anonymously, or with the credentials of the user."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Access:
    """Whether a layer is read with the user's credentials, and who pays.

    Attributes
    ----------
    credentials : bool
        Sign requests with the user's credentials: those of AWS for s3:// (environment, profile, role of the machine),
        Google's application default credentials for gs://, the entry of the host in ~/.netrc for https://.
    requester_pays : bool
        Accept that the user pays for the requests; only with credentials.
    """

    credentials: bool = False
    requester_pays: bool = False


ANONYMOUS = Access()
"""Without credentials, whatever this machine has."""
