"""On an emulated 64-bit Arm processor, which tools/arm64.py sets up: which it is, and patience with it."""

import os
import sys

import patience
import pytest

from lcm.backend import probe

probe.SECONDS = patience.SECONDS


@pytest.fixture(scope="session")
def processor():
    """Its name among tools/arm64.py's."""
    assert sys.platform == "linux" and os.uname().machine == "aarch64", "tools/arm64.py runs these"
    return os.environ["ARM64"]
