"""Repeating a call until its time is known well enough, and what the repetitions say."""

import statistics
import time
from collections.abc import Callable, Sequence

from lcm.backend.measure import settle

LEAST, MOST = 5, 1000  # repetitions of a call that fits the budget so often


def repeat(
    call: Callable[[], object], *, budget: float, once: bool = False,
    before: Callable[[], object] | None = None,
) -> tuple[float, ...]:  # fmt: skip
    """The seconds of each repetition, after one that is not counted, for so many seconds in all.

    A call that alone takes longer than the budget, or that is to be made `once`, is not made again. What is
    to be done `before` each is not in its time.
    """
    settle()
    first = _seconds(call, before)
    if once or first > budget:
        return (first,)
    found: list[float] = []
    until = time.perf_counter() + budget
    while len(found) < MOST and (len(found) < LEAST or time.perf_counter() < until):
        found.append(_seconds(call, before))
    return tuple(found)


def _seconds(call: Callable[[], object], before: Callable[[], object] | None) -> float:
    if before:
        before()
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Median, mean, deviation (of the repetitions, 0 of one) and minimum; nothing of nothing."""
    if not seconds:
        return {}
    return {
        "median": statistics.median(seconds),
        "mean": statistics.fmean(seconds),
        "deviation": statistics.stdev(seconds) if len(seconds) > 1 else 0.0,
        "minimum": min(seconds),
    }
