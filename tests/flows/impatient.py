"""Makes cloud-files try a failed request again without waiting; preloaded by the fork server of the tests."""

import tenacity
from cloudfiles.interfaces import HttpInterface

HttpInterface.get_file.retry.wait = tenacity.wait_none()
