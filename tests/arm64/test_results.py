"""On every ready backend, what the reference computes on another processor: losses, tokens, all kernels."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from computed import computed

from lcm.backend import discovery, selftest
from lcm.testing import tiny


@pytest.fixture(scope="module", params=["neon", "sve"])
def backend(request, processor):
    found = {one.name: one for one in discovery.ready()}
    if request.param not in found:
        pytest.skip(f"{request.param} is not ready on {processor}, as it should be")
    return found[request.param]


@pytest.fixture(scope="module")
def found(backend):
    return computed(backend.name)


@pytest.fixture(scope="module")
def wanted():
    return json.loads(Path(os.environ["ARM64_EXPECTED"]).read_text())


def test_tiny_models_have_the_losses_that_the_reference_has(found, wanted):
    assert found["losses"].keys() == wanted["losses"].keys()
    for name, losses in wanted["losses"].items():
        assert losses[-1] < losses[0] - 0.5, "it learns"
        np.testing.assert_allclose(found["losses"][name], losses, rtol=tiny.TOLERANCE)


def test_the_model_in_the_box_goes_on_with_the_same_tokens(found, wanted):
    assert all(map(len, wanted["tokens"]))
    assert [list(tokens) for tokens in found["tokens"]] == wanted["tokens"]


def test_its_kernels_did_it(found, backend):
    """Each that there is, wherever it was asked for."""
    asked = {symbol: ran for symbol, ran in found["ran"].items() if symbol in backend.kernels}
    assert len(asked) > 10 and all(ran == [backend.name] for ran in asked.values()), found["ran"]


def test_every_kernel_is_right_in_cases_beyond_a_vectors_length(backend):
    errors = {n: selftest.worst(n, kernel, 4, 33) for n, kernel in backend.kernels.items()}
    assert errors and not {n: e for n, e in errors.items() if not e < selftest.TOLERANCE}
