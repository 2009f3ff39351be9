"""What is remembered while tensors compute: how they were made, and the program that is being made of it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from lcm.memory import Arena
from lcm.primitives import Shape


class Recording:
    """The program that is being made: its steps so far, and the memory that they work in."""

    def __init__(self, arena: Arena) -> None:
        self.steps: list[Callable[[], object]] = []
        self.arena = arena


class _State(threading.local):
    grad_enabled = True
    recording: Recording | None = None
    homes: dict[int, np.ndarray] | None = None  # of leaves by id: free, in this backward pass


state = _State()


@contextmanager
def recording(into: Recording | None) -> Iterator[None]:
    """Inside, whatever computes becomes a step of this recording; None pauses the present one."""
    before, state.recording = state.recording, into
    try:
        yield
    finally:
        state.recording = before


def empty(shape: Shape, dtype: Any) -> np.ndarray:
    """An array to be written: where a program is being made, in the program's memory."""
    if state.recording is None:
        return np.empty(shape, dtype)
    return state.recording.arena.empty(shape, dtype)


def gradient_array(of: object, shape: Shape, dtype: Any) -> np.ndarray:
    """An array for a part of this tensor's gradient: its home, for the first part."""
    home = state.homes.pop(id(of), None) if state.homes else None
    return empty(shape, dtype) if home is None else home.reshape(shape)


def run(step: Callable[[], object]) -> None:
    """Do it now, and again whenever the program being made, if there is one, runs.

    The step may hold arrays only by `without_hold`, else their memory is never used again.
    """
    step()
    if state.recording is not None:
        state.recording.steps.append(step)


@contextmanager
def no_grad() -> Iterator[None]:
    """Inside, nothing remembers how it was made: less memory, no gradients."""
    before, state.grad_enabled = state.grad_enabled, False
    try:
        yield
    finally:
        state.grad_enabled = before


@contextmanager
def enable_grad() -> Iterator[None]:
    """Inside, tensors remember how they were made, even within `no_grad`."""
    before, state.grad_enabled = state.grad_enabled, True
    try:
        yield
    finally:
        state.grad_enabled = before
