"""Makes a failed request for a file be tried again without waiting; preloaded by the fork server of the tests."""

import tenacity

from somatic.volume import patience

patience.WAIT = tenacity.wait_none()
