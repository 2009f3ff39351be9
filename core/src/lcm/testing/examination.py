"""What a kernel did in its trials, held against what it had to do."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from lcm import formats
from lcm.backend.contract import Kernel
from lcm.backend.guards import Guarded
from lcm.backend.native import CODES
from lcm.backend.selftest import blank
from lcm.errors import KernelError
from lcm.testing.tolerances import rule
from lcm.testing.trial import Arguments, Trial, numbers_of, right_results, trials

Results = dict[str, np.ndarray]
SHOWN = 5  # problems of a kind


class Refused(Exception):
    """A kernel says that it does not support these arguments."""


@dataclass
class Examination:
    """Everything that was found with one kernel, by what it concerns; a problem is a line."""

    trials: int = 0
    wrong: list[str] = field(default_factory=list)
    unwritten: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def examine(symbol: str, kernel: Kernel, level: str) -> Examination:
    """Run every trial of the level."""
    found = Examination()
    for trial in trials(symbol, level):
        prepared = prepare(trial)
        if prepared is None:
            continue
        arguments, want = prepared
        found.trials += 1
        guarded = guard(trial, arguments)
        try:
            call(kernel, guarded.arguments)
        except Refused as reason:
            found.refused.append(f"{trial}: {reason}")
            continue
        _look(found, trial, arguments, want, guarded)
    return found


def _look(
    found: Examination, trial: Trial, arguments: Arguments, want: Results, guarded: Guarded
) -> None:
    for trespass in guarded.trespasses():
        concerns = found.changed if "was changed" in trespass else found.outside
        concerns.append(f"{trial}: {trespass}")
    for name in blank(trial.kind[0], arguments):
        blank_left = guarded.unwritten(name) & ~np.isnan(want[name])
        if blank_left.any():
            first = tuple(int(i) for i in np.argwhere(blank_left)[0])
            count = int(blank_left.sum())
            found.unwritten.append(
                f"{trial}: {count} numbers of {name} were not written, first at {list(first)}"
            )
    for problem in wrong(trial, arguments, want, guarded.arguments):
        found.wrong.append(f"{trial}: {problem}")


def prepare(trial: Trial) -> tuple[Arguments, Results] | None:
    """The arguments and the right results; None where the op's definition takes no such sizes of 0."""
    try:
        arguments = trial.arguments()
        return arguments, right_results(trial.symbol, arguments, trial.results)
    except (ValueError, ZeroDivisionError):
        if 0 in trial.sizes.values():
            return None
        raise


def guard(trial: Trial, arguments: Arguments) -> Guarded:
    """The arguments between guards, where the trial wants them."""
    hollow = blank(trial.kind[0], arguments)
    return Guarded(arguments, trial.results, hollow, offset=trial.offset)


def call(kernel: Kernel, arguments: Arguments) -> None:
    """Bind and call; `Refused` if the kernel does not support the arguments."""
    try:
        kernel(arguments)()
    except KernelError as error:
        if CODES[1] in str(error):
            raise Refused(str(error)) from None
        raise


def wrong(trial: Trial, arguments: Arguments, want: Results, got: Arguments) -> Iterator[str]:
    """A line for each result that is not right."""
    op = trial.kind[0]
    if not any(want[name].size for name in trial.results):
        return
    given = in_f64(trial, arguments)
    for name in trial.results:
        given.want = want[name]
        line = rule(op.name, name)
        exact = line.whole and trial.numbers == "whole"
        allowed = np.zeros(()) if exact else line.allowed(given)
        yield from _difference(name, want[name], result_of(trial, name, got), allowed)


def result_of(trial: Trial, name: str, got: Arguments) -> np.ndarray:
    """A result's numbers, in whatever format the kernel wrote them."""
    op, format, _ = trial.kind
    spec = op.signature.arrays.get(name)
    return numbers_of(got[name], spec.stored_as(format) if spec else "f32")


def in_f64(trial: Trial, arguments: Arguments) -> SimpleNamespace:
    """The arguments by name, numbers in f64: what a rule of the tolerances reads."""
    op, format, _ = trial.kind
    given: dict[str, Any] = dict(arguments)
    for name, array in arguments.items():
        hollow = name in trial.results and name not in op.signature.arrays
        if isinstance(array, np.ndarray) and array.dtype != np.int32 and not hollow:
            spec = op.signature.arrays.get(name)
            stored = spec.stored_as(format) if spec else "f32"
            given[name] = formats.decode(array, stored, "f64")
    return SimpleNamespace(**given)


def _difference(name: str, want: np.ndarray, got: np.ndarray, allowed: np.ndarray) -> Iterator[str]:
    want, got = want.reshape(got.shape), got.astype(np.float64)
    with np.errstate(all="ignore"):
        error = np.abs(got - want)
    bad = ~(error <= allowed)
    if bad.any():
        limit = np.broadcast_to(allowed, error.shape)
        with np.errstate(all="ignore"):
            excess = np.where(np.isnan(error), np.inf, error / np.maximum(limit, 1e-300))
        at = np.unravel_index(np.argmax(np.where(bad, excess, -1)), error.shape)
        yield (
            f"{int(bad.sum())} of {bad.size} numbers of {name} are wrong; the worst, at "
            f"{[int(i) for i in at]}, is {got[at]:.9g} instead of {want[at]:.9g}; "
            f"an error of {limit[at]:.1e} is allowed"
        )
