"""Experts: MLPs of which each token goes through a few, by the shares that a router gives them.

N tokens of all texts   D model width   E experts
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from lcm.memory import Arena, without_hold
from lcm.nn import Module
from lcm.program import Program, record
from lcm.recording import empty, no_grad, recording, run, state
from lcm.tensor import Tensor


def largest(scores: Tensor, count: int) -> Tensor:
    """(N, E) bool: where the `count` largest of each row are, the first of equal ones."""
    chosen = empty(scores.shape, np.bool_)
    run(partial(_choose, without_hold(chosen), without_hold(scores.data), count))
    return Tensor(chosen)


def mixed(experts: Sequence[Module], x: Tensor, shares: Tensor) -> Tensor:
    """The sum of what the experts make of x (N, D), each times its shares (N, E), which are mostly 0."""
    if state.grad_enabled and shares.requires_grad:
        return _mixed_by_all(experts, x, shares)
    y = empty(x.shape, np.float32)
    arrays = map(without_hold, (y, x.data, shares.data))
    one = state.recording is not None and len(x) == 1
    run(_OneToken(experts, *arrays) if one else partial(_mix, experts, *arrays))
    return Tensor(y)


def _mixed_by_all(experts: Sequence[Module], x: Tensor, shares: Tensor) -> Tensor:
    """Every expert for every token, so that the same calls are right for any choice."""
    parts = (e(x) * shares.slice(1, i, i + 1) for i, e in enumerate(experts))
    return sum(parts, start=x * 0)


def _mix(experts: Sequence[Module], y: np.ndarray, x: np.ndarray, shares: np.ndarray) -> None:
    """The same by one step, which asks each expert for its tokens only; it has no gradient."""
    y[...] = 0
    with recording(None), no_grad():
        for i in np.flatnonzero(shares.any(0)).tolist():
            rows = np.flatnonzero(shares[:, i])
            y[rows] += experts[i](Tensor(x[rows])).data * shares[rows, i, None]


class _OneToken:
    """The same step for one token, again and again: each expert is a program, recorded when first chosen.

    Else 0.15 ms go into Python for each expert of each layer: of 8 in 48 layers, 60 ms for a token.
    """

    def __init__(
        self, experts: Sequence[Module], y: np.ndarray, x: np.ndarray, shares: np.ndarray
    ) -> None:
        self._experts, self._arrays = experts, (y, x, shares)
        self._programs: dict[int, Program[None]] = {}
        self._arena = Arena()  # of all, since they run one at a time

    def __call__(self) -> None:
        y, _, shares = self._arrays
        y[...] = 0
        for i in np.flatnonzero(shares).tolist():
            if i in self._programs:
                self._programs[i]()
            else:
                self._programs[i] = record(partial(self._ask, i), arena=self._arena)

    def _ask(self, i: int) -> None:
        y, x, shares = self._arrays
        part = self._experts[i](Tensor(x)).data
        run(partial(_add, y, without_hold(part), shares[:, i : i + 1]))


def _choose(chosen: np.ndarray, shares: np.ndarray, count: int) -> None:
    chosen[...] = False
    np.put_along_axis(chosen, np.argsort(-shares, kind="stable")[:, :count], True, axis=1)


def _add(y: np.ndarray, part: np.ndarray, share: np.ndarray) -> None:
    y += part * share
