"""lcm-neon does what lcm asks of every backend; on a processor without NEON it says what is missing."""

import pytest

from lcm.backend import discovery

verdict = next((one for one in discovery.verdicts() if one.name == "neon"), None)
if verdict is None:
    pytest.skip("lcm-neon cannot be built here: it is not installed", allow_module_level=True)
if verdict.state == "ineligible":
    pytest.skip(f"neon {verdict.reason}", allow_module_level=True)

from lcm.testing.conformance import *  # noqa: E402, F403

pytestmark = pytest.mark.lcm_backend("neon")
