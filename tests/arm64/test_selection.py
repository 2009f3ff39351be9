"""Which libraries are opened on a processor, which backend is preferred there, and what the others say."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import patience
import pytest

from lcm.backend import discovery, dispatch
from lcm.ops import CATALOGUE


class Expected(NamedTuple):
    """The library of each plugin; without one, what the plugin misses."""

    neon: str
    sve: str = ""
    missing: str = "needs sve, which this "

    def ready(self):
        return {name: library for name, library in self._asdict().items() if ".so" in library}


EXPECTED = {
    "n1": Expected("kernels_dotprod.so"),  # Graviton2
    "v1": Expected("kernels_i8mm.so", "kernels_256_i8mm.so"),  # Graviton3
    "n2": Expected("kernels_i8mm.so", "kernels_128_i8mm.so"),  # nearest to Graviton4
    "a72": Expected("kernels.so"),  # Graviton1
    "a64fx": Expected("kernels.so", "kernels_512.so"),
    "max": Expected("kernels_i8mm.so", missing="needs "),  # vectors of 2048 bits
}


@pytest.fixture
def expected(processor):
    return EXPECTED[processor]


def lcm(*arguments, **variables):
    """The command in a process of its own."""
    code = patience.CODE + "from lcm.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments],
        env=os.environ | variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_command_says_what_is_ready_and_what_the_others_miss(expected):
    rows = {row["name"]: row for row in lcm("backends", "--json")}
    for name in ("neon", "sve"):
        said = rows[name]["state"], rows[name]["reason"]
        if name in expected.ready():
            assert said == ("ready", "passed its self-test")
        else:
            assert said[0] == "ineligible" and said[1].startswith(expected.missing), said


def test_the_libraries_are_those_for_the_processors_features(expected):
    opened = {b.name: Path(b.library).name for b in discovery.ready() if b.name != "reference"}
    assert opened == expected.ready()


def test_without_measurements_the_one_that_asks_for_most_is_preferred_for_every_op(expected):
    preferred = "sve" if expected.sve else "neon"
    dispatch.reset()
    symbols = [symbol for op in CATALOGUE.values() for symbol in op.signature.kernels]
    chosen = {symbol: next(iter(dispatch.candidates(symbol))) for symbol in symbols}
    assert symbols and set(chosen.values()) <= {preferred, "reference"}
    choice = dispatch.decide("linear", {"rows": 1, "inputs": 128, "outputs": 352})
    assert (choice.backend, choice.reason) == (preferred, dispatch.PRIOR)


def test_where_sve_is_masked_neon_is_used_and_sve_says_so(expected):
    if not expected.sve:
        pytest.skip("there is no sve to be masked")
    rows = {row["name"]: row for row in lcm("backends", "--json", LCM_ISA_MASK="sve")}
    assert rows["neon"]["state"] == "ready"
    assert rows["sve"]["state"] == "ineligible"
    assert rows["sve"]["reason"] == "needs sve, taken away by environment LCM_ISA_MASK"
    code = (
        "import json\nfrom lcm.backend import dispatch\n"
        "print(json.dumps(dispatch.decide('linear', dict(rows=1, inputs=128, outputs=352)).backend))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=os.environ | {"LCM_ISA_MASK": "sve"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == "neon"
