"""How cloud-volume's HTTP requests fail: within bounded time, and never as a hole in the segmentation.

cloud-files sends HTTP requests without time-out and takes a 403 for a file that does not exist, which cloud-volume
then reads as background. All its HTTP interfaces share one `requests` adapter, so that is the place to mend both.
"""

from typing import Any

import requests
from cloudfiles.interfaces import HttpInterface
from requests.adapters import HTTPAdapter

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0


class StrictAdapter(HTTPAdapter):
    """Only 404 means that a file does not exist; any other refusal is an error, and nothing waits for ever."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send with a time-out and raise `requests.HTTPError` on 4xx and 5xx other than 404."""
        kwargs["timeout"] = kwargs.get("timeout") or (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
        response = super().send(request, *args, **kwargs)
        if response.status_code != requests.codes.not_found:
            response.raise_for_status()
        return response


def bound_http() -> None:
    """Give every HTTP interface that cloud-files opens from now on the strict adapter."""
    if not isinstance(HttpInterface.adaptor, StrictAdapter):
        HttpInterface.adaptor = StrictAdapter(pool_maxsize=32)
