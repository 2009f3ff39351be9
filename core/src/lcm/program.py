"""Recorded programs: the calls that a function made, with buffers, to make again without Python's part.

Decide once, run many times. While a function is recorded, each kernel call and each primitive that computes
becomes a step; views need none, since they look at the same memory. Replaying runs the steps. What changes
from run to run must be numbers in a tensor that the function was given: the caller writes them in place.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Generic, TypeVar

import numpy as np

from lcm.tensor import Recording, no_grad, recording

R = TypeVar("R")


class Program(Generic[R]):
    """Steps, ready to run, and what the function returned: the tensors in which results appear."""

    def __init__(self, steps: tuple[Callable[[], object], ...], result: R) -> None:
        self.steps = steps
        self.result = result

    def __call__(self) -> R:
        """Run the steps on what is in the buffers now; the result is overwritten by the next run."""
        with np.errstate(all="ignore"):
            for step in self.steps:
                step()
        return self.result

    def __len__(self) -> int:
        return len(self.steps)


def record(function: Callable[[], R], *, gradients: bool = False) -> Program[R]:
    """Run the function once, and return the program that does the same again.

    Without `gradients`, tensors in it do not remember how they were made.
    """
    made = Recording()
    with recording(made), nullcontext() if gradients else no_grad(), np.errstate(all="ignore"):
        result = function()
    return Program(tuple(made.steps), result)
