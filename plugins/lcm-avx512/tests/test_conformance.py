"""lcm-avx512 does what lcm asks of every backend; on a processor without AVX-512 it says what is missing."""

import pytest

from lcm.backend import discovery

verdict = next((one for one in discovery.verdicts() if one.name == "avx512"), None)
if verdict is None:
    pytest.skip("lcm-avx512 cannot be built here: it is not installed", allow_module_level=True)
if verdict.state == "ineligible":
    pytest.skip(f"avx512 {verdict.reason}", allow_module_level=True)

from lcm.testing.conformance import *  # noqa: E402, F403

pytestmark = pytest.mark.lcm_backend("avx512")
