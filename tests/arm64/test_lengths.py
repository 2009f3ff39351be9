"""One process at every length of vectors: what lcm says there, and the kernels that it opens."""

import ctypes
import os
from pathlib import Path

import pytest

from lcm import host
from lcm.backend import discovery, dispatch, selftest
from lcm.host.features import SVE_LENGTHS

SET_LENGTH, GET_LENGTH = 50, 51  # prctl's PR_SVE_SET_VL and PR_SVE_GET_VL, in bytes
LENGTHS = (128, 256, 512, 1024, 2048)
BUILT = (128, 256, 512)


@pytest.fixture
def set_length(processor, monkeypatch):
    """Make vectors of a length in this thread and in its children, of which the emulator has to be told."""
    if processor != "max":
        pytest.skip(f"{processor} has one length")
    monkeypatch.setenv("LCM_THREADS", "1")
    prctl = ctypes.CDLL(None).prctl
    before = prctl(GET_LENGTH, 0, 0, 0, 0) & 0xFFFF

    def set_length(bits):
        assert prctl(SET_LENGTH, bits // 8, 0, 0, 0) & 0xFFFF == bits // 8
        plain = os.environ["ARM64_CPU"].rpartition("=")[0]
        monkeypatch.setenv("ARM64_CPU", f"{plain}={bits // 8}")
        host.probe.cache_clear()
        dispatch.reset()

    yield set_length
    prctl(SET_LENGTH, before, 0, 0, 0)
    host.probe.cache_clear()
    dispatch.reset()


def test_each_length_has_its_library_or_a_reason_and_the_kernels_are_right(set_length):
    """There and back: what was opened at one length is not used at another."""
    for bits in (*LENGTHS, 256):
        set_length(bits)
        here = host.current()
        assert here.vector_bits.value == bits
        assert [f for f in here.features.value if f in SVE_LENGTHS] == [f"sve{bits}"]
        (said,) = [one for one in discovery.verdicts() if one.name == "sve"]
        choice = dispatch.decide("linear", {"rows": 1, "inputs": 128, "outputs": 352})
        if bits not in BUILT:
            assert said.state == "ineligible" and f"sve{BUILT[0]}" in said.reason, said
            assert choice.backend == "neon"
            continue
        assert (said.state, said.reason) == ("ready", "passed its self-test"), bits
        assert choice.backend == "sve"
        opened = discovery.open_backend("sve")
        assert Path(opened.library).name.startswith(f"kernels_{bits}")
        errors = {n: selftest.worst(n, k, 2, 33) for n, k in opened.kernels.items()}
        assert errors and not {n: e for n, e in errors.items() if not e < selftest.TOLERANCE}, bits
