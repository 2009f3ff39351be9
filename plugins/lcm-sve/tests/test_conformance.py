"""lcm-sve does what lcm asks of every backend; on a processor without SVE it says what is missing."""

import pytest

from lcm.backend import discovery

verdict = next((one for one in discovery.verdicts() if one.name == "sve"), None)
if verdict is None:
    pytest.skip("lcm-sve cannot be built here: it is not installed", allow_module_level=True)
if verdict.state == "ineligible":
    pytest.skip(f"sve {verdict.reason}", allow_module_level=True)

from lcm.testing.conformance import *  # noqa: E402, F403

pytestmark = pytest.mark.lcm_backend("sve")
