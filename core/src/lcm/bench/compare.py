"""lcm bench compare: whether what was measured twice has become faster or slower, and how sure that is.

The ratio of a case is the old median time by the new one: above 1 the new is faster. Its interval is a
bootstrap's (Efron, 1979): medians of repetitions drawn again from each side's own, 95 % of their ratios.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lcm.bench.results import Results, Row
from lcm.errors import UsageError

DRAWS = 2000
OUTSIDE = 2.5  # per cent on each side
LEAST = 5  # repetitions on each side, below which nothing is concluded
MOST = 500  # repetitions that are drawn from: medians of more are no surer than machines are steady


@dataclass(frozen=True)
class Change:
    """A case on both sides: the ratio of speeds, new to old, and the interval that holds it."""

    case: dict[str, str | int]
    old: float  # median seconds
    new: float
    ratio: float
    low: float
    high: float
    verdict: str  # faster, slower, same, unsure; or why nothing is concluded


def compare(old: Results, new: Results, *, threshold: float = 0.05) -> list[Change]:
    """Every case that both have; `UsageError` where the two cannot be compared.

    `slower`: even the interval's upper end is below 1 - threshold; `faster`: the lower, above 1 + threshold.
    """
    if old.bench != new.bench:
        raise UsageError(
            f"one file is of lcm bench {old.bench}, the other of lcm bench {new.bench}"
        )
    before = {_key(row): row for row in old.rows if row.seconds}
    pairs = [(before[_key(r)], r) for r in new.rows if r.seconds and _key(r) in before]
    if not pairs:
        raise UsageError("the two files have no measured case in common")
    return [_change(a, b, threshold) for a, b in pairs]


def differences(old: Results, new: Results) -> list[str]:
    """What else is not the same, for the reader to judge."""
    said = []
    for fact in ("processor", "cores", "threads"):
        a, b = old.machine.get(fact), new.machine.get(fact)
        if a != b:
            said.append(f"{fact}: {a} before, {b} now")
    keys = [{_key(row) for row in side.rows if row.seconds} for side in (old, new)]
    for name, only in (("before", keys[0] - keys[1]), ("now", keys[1] - keys[0])):
        if only:
            said.append(f"{len(only)} cases were measured only {name}")
    return said


def _change(a: Row, b: Row, threshold: float) -> Change:
    low, high = interval(a.seconds, b.seconds)
    few = min(len(a.seconds), len(b.seconds))
    if few < LEAST:
        verdict = f"measured {few} times: too few"
    elif high < 1 - threshold:
        verdict = "slower"
    elif low > 1 + threshold:
        verdict = "faster"
    else:
        verdict = "same" if 1 - threshold <= low and high <= 1 + threshold else "unsure"
    return Change(dict(b.case), a.median, b.median, a.median / b.median, low, high, verdict)


def interval(old: Sequence[float], new: Sequence[float]) -> tuple[float, float]:
    """Where 95 % of the ratios of redrawn medians lie, old by new."""
    rng = np.random.default_rng(0)
    medians = []
    for side in (old, new):
        numbers = np.asarray(side)
        if len(numbers) > MOST:
            numbers = rng.choice(numbers, MOST, replace=False)
        medians.append(np.median(rng.choice(numbers, (DRAWS, len(numbers))), axis=1))
    low, high = np.percentile(medians[0] / medians[1], [OUTSIDE, 100 - OUTSIDE])
    return float(low), float(high)


def _key(row: Row) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, str(value)) for name, value in row.case.items()))
