"""The conformance kit: wrong kernels fail the claim that is about their fault, and right ones fail none."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lcm
from lcm.backend import guards, selftest
from lcm.backend.contract import Backend
from lcm.ops import CATALOGUE
from lcm.ops.cases import possible
from lcm.testing import bodies, conformance, special, tolerances
from lcm.testing.candidate import Candidate
from lcm.testing.shapes import LEVELS, shapes
from lcm.testing.subject import Subject
from lcm.testing.trial import trials

WRONG = Path(__file__).parent / "wrong"
FLAGS = ("-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared")

ENDS = "nothing_is_touched_behind_the_end_of_an_array"
ARGUMENTS = "arguments_are_read_up_to_their_size_and_may_be_longer"
BESIDE = "nothing_is_written_beside_the_results"
INPUTS = "inputs_stay_as_they_are"
WRITTEN = "every_number_of_a_result_is_written"
ANYWHERE = "arrays_may_begin_at_any_number"
OVER = "the_result_may_be_written_over_an_input"
RIGHT = "results_are_right"
LARGEST = "the_largest_products_of_whole_numbers_are_right"
SPECIAL = "numbers_that_are_none_infinite_or_tiny_come_through"
LATE = "a_call_reads_its_arrays_when_it_is_made"
PROGRAM = "calls_in_a_program_give_the_same_bits"
BITS = "the_same_call_gives_the_same_bits"
THREADS = "any_number_of_threads_gives_right_results"
AT_ONCE = "two_threads_may_call_at_once"
MODEL = "a_tiny_model_learns_as_by_the_definitions"

# A backend's own tests.
OWN = """
import pytest
from lcm.testing.conformance import *
pytestmark = pytest.mark.lcm_backend({!r})
"""

# A wrong backend; the level that catches it; the claim that is about its fault; others that fail with it.
FAULTS = [
    ("mask_too_wide", "smoke", BESIDE, {ENDS, ANYWHERE}),
    ("reads_too_far", "smoke", ENDS, set()),
    ("ignores_null", "smoke", ENDS, set()),
    ("crashes", "smoke", ENDS, set()),
    ("changes_its_input", "smoke", INPUTS, {ANYWHERE}),
    ("dropped_tail", "smoke", WRITTEN, {ANYWHERE, RIGHT, SPECIAL}),
    ("stale", "smoke", WRITTEN, {ANYWHERE, RIGHT, MODEL}),
    ("dropped_tail_of_a_sum", "smoke", RIGHT, {ANYWHERE, SPECIAL}),
    ("wrong_sign", "smoke", RIGHT, {ANYWHERE, SPECIAL, MODEL}),
    ("denormal_halves", "smoke", RIGHT, {ANYWHERE}),
    ("sums_in_few_bits", "smoke", LARGEST, set()),
    ("nan_swallowed", "smoke", SPECIAL, set()),
    ("aligned_only", "smoke", ANYWHERE, {RIGHT, SPECIAL}),
    ("not_over_y", "smoke", OVER, set()),
    ("remembers", "smoke", BITS, {LATE, PROGRAM}),
    ("wrong_with_three_threads", "smoke", THREADS, set()),
    ("race", "core", AT_ONCE, set()),
    ("reads_newer_arguments", "smoke", ARGUMENTS, set()),
    ("minds_newer_callers", "smoke", ARGUMENTS, set()),
]  # fmt: skip


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled")

    def compiled(name):
        library = folder / f"{name}.so"
        include = f"-I{lcm.include_dir()}"
        command = ["cc", *FLAGS, include, WRONG / f"{name}.c", "-o", library, "-lm", "-pthread"]
        subprocess.run(command, check=True)
        return library

    return compiled


def pytest_in(folder, *options):
    """A run of pytest in a process of its own: what it printed, and its code."""
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "-p", "no:cacheprovider", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr, done.returncode


def run(backend, level, folder, *options):
    """What the kit printed, and the claims that failed."""
    output, code = pytest_in(folder, "--lcm-backend", backend, "--lcm-level", level, *options)
    failed = set(re.findall(r"^FAILED \S*::test_(\w+)", output, re.MULTILINE))
    assert code == bool(failed), output
    return output, failed


@pytest.fixture(scope="module")
def failures(compiled, tmp_path_factory):
    """The claims that each wrong backend fails at its level, all those of a level in one run."""
    found = {}
    for level in ("smoke", "core"):
        folder = tmp_path_factory.mktemp(level)
        for name in [fault[0] for fault in FAULTS if fault[1] == level]:
            (folder / f"test_{name}.py").write_text(OWN.format(str(compiled(name))))
        output, _ = pytest_in(folder, "--lcm-level", level)
        for name, claim in re.findall(r"^FAILED test_(\w+)\.py::test_(\w+)", output, re.MULTILINE):
            found.setdefault(name, set()).add(claim)
    return found


@pytest.mark.parametrize(("name", "level", "claim", "others"), FAULTS, ids=[f[0] for f in FAULTS])
def test_a_wrong_kernel_fails_the_claim_about_its_fault(failures, name, level, claim, others):
    failed = failures.get(name, set())
    assert claim in failed <= {claim, *others}


def test_what_goes_wrong_in_large_arrays_only_needs_the_level_full(compiled, tmp_path):
    wrong = compiled("wrong_when_large")
    assert run(wrong, "core", tmp_path)[1] == set()
    assert run(wrong, "full", tmp_path)[1] == {RIGHT, WRITTEN}


def test_every_wrong_backend_is_tried():
    named = {name for name, *_ in FAULTS} | {"refuses", "wrong_when_large"}
    assert {path.stem for path in WRONG.glob("*.c")} == named


def test_a_kernel_that_dies_loses_no_report(compiled, tmp_path):
    output, _ = run(compiled("crashes"), "smoke", tmp_path)
    assert re.search(r"silu\(count=33; .* killed the process: SIGSEGV", output)
    assert re.search(r"^silu +FAILS 1 ", output, re.MULTILINE)
    assert re.search(r"^swiglu +passes ", output, re.MULTILINE)


def test_what_a_kernel_refuses_is_said(compiled, tmp_path):
    output, failed = run(compiled("refuses"), "core", tmp_path)
    assert failed == set()
    assert re.search(r"^silu +refuses some +falls back$", output, re.MULTILINE)
    assert re.search(
        r"silu refuses \d+ of \d+ trials: silu\(count=47; .*: it does not support these arguments: "
        r"count above 40", output
    )  # fmt: skip


def test_the_reference_passes(tmp_path):
    assert run("reference", "smoke", tmp_path)[1] == set()


def test_a_backends_own_tests_can_be_chosen_as_ever(compiled, tmp_path):
    (tmp_path / "test_mine.py").write_text(OWN.format(str(compiled("dropped_tail"))))
    output, _ = pytest_in(tmp_path, "-k", "right and silu")
    assert "1 failed" in output and "silu(count=1;" in output, output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lcm-backend", "nosuch"], "no backend 'nosuch' here; there are: "),
        (["--lcm-backend", "/nowhere/k.so"], "/nowhere/k.so: cannot be loaded"),
        (["--pyargs", "lcm.testing.conformance"], "which backend is to be tested?"),
    ],
)
def test_a_backend_that_is_not_there_is_said_in_a_line(tmp_path, options, message):
    output, code = pytest_in(tmp_path, *options)
    assert code and message in output and "Traceback" not in output


def test_pytest_is_left_alone_without_the_option(tmp_path):
    (tmp_path / "test_theirs.py").write_text("def test_theirs(): pass\n")
    output, _ = pytest_in(tmp_path)
    assert output.splitlines()[-1].startswith("1 passed") and "supports" not in output


def test_finding_the_plugin_costs_no_import_of_numpy():
    """pytest loads it in every project, wherever lcm is installed."""
    code = "import sys, lcm.testing.plugin; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_kernel_that_reads_when_it_is_bound_is_caught():
    """What no library does, but Python easily."""

    def silu(a):
        y = a["x"] / (1 + np.exp(-a["x"]))
        return lambda: np.copyto(a["out"], y)

    late = Candidate(Subject("mine", Backend("mine", {"silu": silu})), "silu", "smoke")
    with pytest.raises(pytest.fail.Exception, match="another out if it is bound earlier"):
        conformance.test_a_call_reads_its_arrays_when_it_is_made(late)


# What the kit is made of.


@pytest.mark.parametrize("op", CATALOGUE.values(), ids=lambda op: op.name)
def test_every_size_of_a_level_is_tried(op):
    tried = shapes(op, "core")
    assert all(possible(op, sizes) for sizes in tried)
    for symbol in op.signature.symbols:
        if not any(symbol in condition for condition in op.signature.where):
            assert {sizes[symbol] for sizes in tried} >= set(LEVELS["core"].each), symbol


def test_any_two_symbols_meet_in_any_two_critical_sizes():
    pairs = LEVELS["full"].pairs
    tried = shapes(CATALOGUE["linear"], "full")
    for a, b in (("rows", "inputs"), ("rows", "outputs"), ("inputs", "outputs")):
        assert {(s[a], s[b]) for s in tried} >= {(x, y) for x in pairs for y in pairs}


def test_every_choice_of_gradients_is_asked_for():
    wanted = {t.wanted for t in trials("linear_grad", "smoke")}
    names = ("x", "weight", "bias")
    assert len(wanted) == 7 and set().union(*wanted) == set(names)
    assert any(not t.optional for t in trials("linear_grad", "smoke"))


def test_every_result_has_a_tolerance():
    for symbol in bodies.backend().kernels:
        op, _, is_gradient = selftest.parse(symbol)
        names = op.signature.changed or ("out",)
        if is_gradient:
            names = [f"{n}_grad" for n, s in op.signature.arrays.items() if "f32" in s.formats]
        assert set(names) <= set(tolerances.RULES[op.name]), symbol


def test_special_numbers_are_for_inputs_that_there_are():
    for name, (inputs, kinds) in special.FORWARD.items():
        assert set(inputs) <= set(CATALOGUE[name.partition("__")[0]].signature.arrays)
        assert set(kinds) <= set(special.VALUES)


def test_a_trial_is_the_same_again():
    trial = next(t for t in trials("attention_grad", "core") if min(t.sizes.values()) > 1)
    one, two = trial.arguments(), replace(trial).arguments()
    for name in one.keys() - set(trial.results):
        assert np.array_equal(one[name], two[name]), name


def test_guards_tell_what_was_written_where():
    x, out = np.arange(5, dtype=np.float32), np.empty(3, np.float32)
    guarded = guards.Guarded({"x": x, "out": out, "n": 3}, ["out"], ["out"], offset=3)
    mine = guarded.arguments
    assert mine["x"].tolist() == x.tolist() and mine["n"] == 3 and np.isnan(mine["out"]).all()
    assert guarded.unwritten("out").all()
    for array in (mine["x"], mine["out"]):
        assert array.__array_interface__["data"][0] % 64 == 12
    mine["out"][:] = [1, 2, np.nan]
    assert not guarded.unwritten("out").any() and list(guarded.trespasses()) == []
    beyond = np.lib.stride_tricks.as_strided(mine["out"], (5,))
    beyond[4] = 0
    mine["x"][1] = 7
    assert list(guarded.trespasses()) == [
        "x was changed, from its byte 6 on",
        "4 bytes were written, the first of them 4 bytes behind the end of out",
    ]
    guarded.restore()
    assert list(guarded.trespasses()) == [] and guarded.unwritten("out").all()
