"""Recorded programs: the calls that a function made, with buffers, to make again without Python's part.

Decide once, run many times. While a function is recorded, each kernel call and each primitive that computes
becomes a step; views need none, since they look at the same memory. Replaying runs the steps. What changes
from run to run must be numbers in a tensor that the function was given: the caller writes them in place.

A kind of step may know how to run several at once: then it has a function `group`, which takes neighbours in
their order and gives fewer steps that do the same.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import groupby
from typing import Generic, TypeVar

import numpy as np

from lcm.memory import Arena
from lcm.recording import Recording, no_grad, recording

R = TypeVar("R")
Step = Callable[[], object]


class Program(Generic[R]):
    """Steps, the calls that run them, and what the function returned: tensors in which results appear."""

    def __init__(self, steps: Sequence[Step], result: R) -> None:
        self.steps = tuple(steps)
        self.result = result
        self.calls = tuple(_grouped(self.steps))

    def __call__(self) -> R:
        """Run the steps on what is in the buffers now; the result is overwritten by the next run."""
        with np.errstate(all="ignore"):
            for call in self.calls:
                call()
        return self.result

    def __len__(self) -> int:
        return len(self.steps)


def record(
    function: Callable[[], R], *, gradients: bool = False, arena: Arena | None = None
) -> Program[R]:
    """Run the function once, and return the program that does the same again.

    Without `gradients`, tensors in it do not remember how they were made. Programs that run one at a time may
    share an arena: a run of one destroys what the others have computed, except for what somebody holds.
    """
    made = Recording(arena or Arena())
    with recording(made), nullcontext() if gradients else no_grad(), np.errstate(all="ignore"):
        result = function()
    return Program(made.steps, result)


def _grouped(steps: Sequence[Step]) -> Iterator[Step]:
    for group, run in groupby(steps, lambda step: getattr(step, "group", None)):
        neighbours = tuple(run)
        yield from group(neighbours) if group else neighbours
