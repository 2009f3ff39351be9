"""What every backend has to do: a test a claim, run on each kernel that the backend has.

    pytest --lcm-backend NAME                         an installed backend, or the path of a library
    pytest --lcm-backend NAME --lcm-level full -k linear

Or in a backend's own tests, in a file with `from lcm.testing.conformance import *` and
`pytestmark = pytest.mark.lcm_backend("NAME")`.
"""

import itertools
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lcm.backend.dispatch import REFERENCE
from lcm.backend.selftest import parse
from lcm.errors import BackendError
from lcm.host import current
from lcm.program import Program
from lcm.testing import extremes, special, tiny
from lcm.testing import subject as subjects
from lcm.testing.candidate import Candidate, Run, deaths
from lcm.testing.subject import Subject

# Ops that say that their result may lie where an input lies, and where.
ALIASES = {"add": ("x", "y")}
THREADS = (1, 2, 3)
SHOWN = 4  # problems in a message

Applies = Callable[[Subject, str], bool]


def for_kernels(applies: Applies) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """To which kernels a claim applies."""

    def mark(test: Callable[..., None]) -> Callable[..., None]:
        test.applies = applies  # type: ignore[attr-defined]
        return test

    return mark


def in_children(test: Callable[..., None]) -> Callable[..., None]:
    """A claim that is looked into in child processes, which may die."""
    test.in_children = True  # type: ignore[attr-defined]
    return test


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test on the backend asked for, or on every kernel of it that the claim applies to."""
    if "subject" in metafunc.fixturenames:
        subject = _subject(metafunc)
        metafunc.parametrize("subject", [subject], ids=[subject.backend.name])
    if "level" in metafunc.fixturenames:
        metafunc.parametrize("level", [metafunc.config.getoption("lcm_level")])
    if "candidate" in metafunc.fixturenames:
        subject, level = _subject(metafunc), metafunc.config.getoption("lcm_level")
        applies: Applies = getattr(metafunc.function, "applies", lambda subject, symbol: True)
        every = [Candidate(subject, s, level) for s in subject.kernels if applies(subject, s)]
        metafunc.parametrize("candidate", every, ids=str, indirect=True)


def _subject(metafunc: pytest.Metafunc) -> Subject:
    mark = metafunc.definition.get_closest_marker("lcm_backend")
    given = mark.args[0] if mark else metafunc.config.getoption("lcm_backend")
    if not given:
        raise pytest.Collector.CollectError(
            "which backend is to be tested? pytest --lcm-backend NAME"
        )
    try:
        return subjects.find(given)
    except BackendError as error:
        raise pytest.Collector.CollectError(str(error)) from None


@pytest.fixture
def candidate(
    request: pytest.FixtureRequest, record_property: Callable[[str, Any], None]
) -> Candidate:
    """The kernel under test; one that kills its process is called in child processes only."""
    candidate: Candidate = request.param
    record_property("lcm_kernel", [candidate.subject.backend.name, candidate.symbol])
    in_children = getattr(request.function, "in_children", False)
    if not in_children and candidate.symbol in candidate.deaths().everywhere:
        pytest.skip(f"{candidate.symbol} kills its process")
    return candidate


def none(problems: Iterable[str]) -> None:
    """Fail with the first few problems, if there are any."""
    found = list(problems)
    if found:
        more = [f"… and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        pytest.fail("\n".join([*found[:SHOWN], *more]), pytrace=False)


# Memory.


@in_children
def test_nothing_is_touched_behind_the_end_of_an_array(candidate: Candidate) -> None:
    """In a child process, with arrays that end where its memory ends."""
    none(candidate.deaths().arrays.get(candidate.symbol, ()))


@in_children
@for_kernels(lambda subject, symbol: subject.library is not None)
def test_arguments_are_read_up_to_their_size_and_may_be_longer(candidate: Candidate) -> None:
    """As an older caller and a newer one give them."""
    found = candidate.deaths()
    if candidate.symbol in found.arrays:
        pytest.skip(f"{candidate.symbol} died before")
    none(found.arguments.get(candidate.symbol, ()))


def test_nothing_is_written_beside_the_results(candidate: Candidate) -> None:
    none(candidate.examined().outside)


def test_inputs_stay_as_they_are(candidate: Candidate) -> None:
    none(candidate.examined().changed)


def test_every_number_of_a_result_is_written(candidate: Candidate) -> None:
    """Results hold poison before the call, so nothing that a call before has left can pass."""
    none(candidate.examined().unwritten)


def test_arrays_may_begin_at_any_number(candidate: Candidate) -> None:
    """At every distance from a multiple of 64 bytes that is whole numbers long."""
    places = [replace(t, offset=n) for t in candidate.some(3) for n in range(16)]
    none(problem for run in candidate.runs(places) for problem in run.problems())


@for_kernels(lambda subject, symbol: symbol in ALIASES)
def test_the_result_may_be_written_over_an_input(candidate: Candidate) -> None:
    for run in candidate.runs(candidate.some(20)):
        for name in ALIASES[candidate.symbol]:
            run.guarded.restore()
            arguments = {**run.guarded.arguments, "out": run.guarded.arguments[name]}
            candidate.kernel(arguments)()
            run.guarded.arguments["out"][...] = arguments["out"]
            arguments[name][...] = run.arguments[name]
            none(run.problems(f", written over {name}"))


# Numbers.


def test_results_are_right(
    candidate: Candidate, record_property: Callable[[str, Any], None]
) -> None:
    """Those of the op's body in f64, within the tolerances; and for small whole numbers to the bit."""
    found = candidate.examined()
    assert found.trials, "nothing was tried"
    if found.refused:
        record_property("lcm_refused", [len(found.refused), found.trials, found.refused[0]])
    none(found.wrong)


@for_kernels(lambda subject, symbol: special.defined(symbol))
def test_numbers_that_are_none_infinite_or_tiny_come_through(candidate: Candidate) -> None:
    none(special.problems(candidate.symbol, candidate.kernel, candidate.level_name))


@for_kernels(lambda subject, symbol: symbol.startswith("linear_int8__"))
def test_the_largest_products_of_whole_numbers_are_right(candidate: Candidate) -> None:
    none(extremes.problems(candidate.symbol, candidate.kernel, candidate.level_name))


# Calls.


def test_a_call_reads_its_arrays_when_it_is_made(candidate: Candidate) -> None:
    """Not when it is bound: a recorded program runs again with what its arrays then hold."""
    for run in candidate.runs(candidate.some(6)):
        early = run.bits()
        run.guarded.clear()
        late = replace(run, call=candidate.kernel(run.guarded.arguments))
        late.again()
        changed = [name for name, value in late.bits().items() if value != early[name]]
        none(f"{run.trial}: another {name} if it is bound earlier" for name in changed)


def test_the_same_call_gives_the_same_bits(candidate: Candidate) -> None:
    """At once, and after calls of the same kernel with other arguments."""
    runs = [*candidate.runs([*candidate.some(6), *candidate.busy(1)])]
    first = [run.bits() for run in runs]
    for when in ("at once", "after other calls"):
        for run, bits in zip(runs, first, strict=True):
            run.again()
            if when == "at once":
                run.again()
            changed = [name for name, value in run.bits().items() if value != bits[name]]
            none(f"{run.trial}: {name} has other bits when called again {when}" for name in changed)


@for_kernels(lambda subject, symbol: subject.backend.threads is not None)
def test_any_number_of_threads_gives_right_results(candidate: Candidate) -> None:
    """And the same bits whenever it is the same number. Other numbers may add in another order."""
    runs = [*candidate.runs([*candidate.some(4), *candidate.busy(2)])]
    try:
        for threads in THREADS:
            candidate.subject.set_threads(threads)
            for run in runs:
                run.again()
                bits = run.bits()
                none(run.problems(f", with {threads} threads"))
                run.again()
                assert run.bits() == bits, f"{run.trial}: other bits, again with {threads} threads"
    finally:
        candidate.subject.set_threads(current().threads())


def test_two_threads_may_call_at_once(candidate: Candidate) -> None:
    """Each with arguments of its own, over and over: what two calls share would show."""
    runs = [*candidate.runs(candidate.busy(2))]
    if len(runs) < 2:
        pytest.skip(f"{candidate.symbol} refuses arguments of that size")
    alone = [run.bits() for run in runs]
    end = time.monotonic() + candidate.level.seconds
    for _ in range(candidate.level.repeats):
        _at_once(runs)
        for run, bits in zip(runs, alone, strict=True):
            if run.bits() != bits:
                none(run.problems(", called from two threads at once"))
        if time.monotonic() > end:
            break


def _at_once(runs: list[Run]) -> None:
    """Make all the calls at the same time, each some times."""
    ready, errors = threading.Barrier(len(runs)), []

    def work(run: Run) -> None:
        ready.wait()
        try:
            for _ in range(3):
                run.again()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


# The backend as a whole.


def skip_if_deadly(subject: Subject, level: str) -> None:
    """A kernel that kills its process must not be called in this one."""
    for symbol in deaths(subject, level).everywhere:
        pytest.skip(f"{symbol} kills its process")


def test_calls_in_a_program_give_the_same_bits(subject: Subject, level: str) -> None:
    """One call of each kernel, one after the other, in the way in which recorded programs run."""
    skip_if_deadly(subject, level)
    found = (Candidate(subject, symbol, level) for symbol in subject.kernels)
    runs = [run for one in found for run in itertools.islice(one.runs(one.some(2)), 1)]
    alone = [run.bits() for run in runs]
    for run in runs:
        run.guarded.restore()
    Program([run.call for run in runs], None)()
    none(
        f"{r.trial}: other bits in a program"
        for r, b in zip(runs, alone, strict=True)
        if r.bits() != b
    )


def test_it_has_only_kernels_that_there_are(subject: Subject) -> None:
    for symbol in subject.kernels:
        parse(symbol)


@pytest.mark.parametrize("model", tiny.MODELS)
def test_a_tiny_model_learns_as_by_the_definitions(
    subject: Subject, level: str, model: str
) -> None:
    """Ten steps, the same losses; and every kernel that could have run did."""
    skip_if_deadly(subject, level)
    with tiny.running_on(subject.backend) as ran, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it does not have is said in the table of support
        found = tiny.losses(model)
    with tiny.running_on(subjects.find(REFERENCE).backend):
        wanted = tiny.losses(model)
    assert wanted[-1] < wanted[0] - 0.5, "it learns"
    np.testing.assert_allclose(found, wanted, rtol=tiny.TOLERANCE)
    idle = {s for s in ran if s in subject.kernels and list(ran[s]) != [subject.backend.name]}
    assert not idle, f"{idle} were not used"
