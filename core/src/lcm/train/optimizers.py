"""Optimisers: AdamW and SGD, with what they remember of every parameter."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import numpy as np

from lcm import ops
from lcm.errors import FileError, UsageError
from lcm.memory import ALIGNMENT, zeros
from lcm.recording import no_grad
from lcm.tensor import Tensor


class Group:
    """Parameters with one weight decay, side by side in one array: a step is one call for all of them.

    So lie their gradients, and what is remembered of them. All keep their places.
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], decay: float, kinds: tuple[str, ...]
    ) -> None:
        self.parameters, self.decay = dict(parameters), decay
        ends = list(accumulate(_room(p) for p in parameters.values()))
        self._starts = dict(zip(parameters, [0, *ends], strict=False))
        self.values, self.gradient, *memory = (
            Tensor(zeros((ends[-1],), np.float32)) for _ in range(2 + len(kinds))
        )
        self.memory = dict(zip(kinds, memory, strict=True))
        for name, parameter in self.parameters.items():
            place = self.part(self.values, name)
            place[...] = parameter.data
            parameter.data, parameter.home = place, self.part(self.gradient, name)

    def part(self, flat: Tensor, name: str) -> np.ndarray:
        """A parameter's part of one of the group's arrays, in the parameter's shape."""
        start, parameter = self._starts[name], self.parameters[name]
        return flat.data[start : start + parameter.size].reshape(parameter.shape)

    def gather(self) -> None:
        """See that all gradients lie in the group's array; a parameter without one has one of zeros."""
        for name, parameter in self.parameters.items():
            place = self.part(self.gradient, name)
            if parameter.grad is None:
                place[...] = 0
            elif parameter.grad.data is not parameter.home:
                place[...] = parameter.grad.data


class Optimizer(ABC):
    """The parameters in groups, and the steps they take."""

    REMEMBERS: tuple[str, ...]

    def __init__(self, parameters: Mapping[str, Tensor], *, weight_decay: float) -> None:
        self.parameters = dict(parameters)
        self.groups = [
            Group(members, decay, self.REMEMBERS)
            for decay, members in (
                (weight_decay, {n: p for n, p in parameters.items() if decays(p)}),
                (0.0, {n: p for n, p in parameters.items() if not decays(p)}),
            )
            if members
        ]
        self.count = 0

    def gradient_norm(self) -> float:
        """The norm of all gradients together."""
        squares = 0.0
        for group in self.groups:
            group.gather()
            squares += ops.sum_squares(group.gradient).item()
        return math.sqrt(squares)

    def step(self, *, lr: float, grad_scale: float = 1.0) -> None:
        """Take one step with the gradients in `.grad`, times `grad_scale`, and clear them."""
        self.count += 1
        with no_grad():
            for group in self.groups:
                group.gather()
                self._change(group, lr, grad_scale)
        self.clear()

    def clear(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    @abstractmethod
    def _change(self, group: Group, lr: float, scale: float) -> None:
        """Take one step with one group."""

    def state(self) -> dict[str, np.ndarray]:
        """What it remembers, by `<kind>.<parameter>`."""
        return {
            f"{kind}.{name}": group.part(flat, name)
            for group in self.groups
            for name in group.parameters
            for kind, flat in group.memory.items()
        }

    def restore(self, state: Mapping[str, np.ndarray], count: int, where: str) -> None:
        """Take up what `state` gave before; `FileError` where it is of another model."""
        for name, array in self.state().items():
            if name not in state or state[name].shape != array.shape:
                raise FileError(f"{where}: the optimiser's {name!r} is missing or of another shape")
            array[...] = state[name]
        self.count = count


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter, 2019)."""

    REMEMBERS = ("m", "v")

    def __init__(
        self, parameters: Mapping[str, Tensor], *, weight_decay: float = 0.1, beta1: float = 0.9,
        beta2: float = 0.95, eps: float = 1e-8,
    ) -> None:  # fmt: skip
        super().__init__(parameters, weight_decay=weight_decay)
        self._settings: dict[str, Any] = {"beta1": beta1, "beta2": beta2, "eps": eps}

    def _change(self, group: Group, lr: float, scale: float) -> None:
        ops.adamw_step(
            group.values, group.memory["m"], group.memory["v"], group.gradient, lr=lr,
            weight_decay=group.decay, step=self.count, grad_scale=scale, **self._settings,
        )  # fmt: skip


class SGD(Optimizer):
    """Gradient descent with momentum and decoupled weight decay."""

    REMEMBERS = ("velocity",)

    def __init__(
        self, parameters: Mapping[str, Tensor], *, weight_decay: float = 0.0, momentum: float = 0.9
    ) -> None:
        super().__init__(parameters, weight_decay=weight_decay)
        self._momentum = momentum

    def _change(self, group: Group, lr: float, scale: float) -> None:
        ops.sgd_step(
            group.values, group.memory["velocity"], group.gradient, lr=lr,
            momentum=self._momentum, weight_decay=group.decay, grad_scale=scale,
        )  # fmt: skip


OPTIMIZERS: dict[str, Any] = {"adamw": AdamW, "sgd": SGD}


def make(name: str, parameters: Mapping[str, Tensor], **settings: float) -> Optimizer:
    """The optimiser of this name."""
    if name not in OPTIMIZERS:
        raise UsageError(f"no optimiser {name!r}; there are: {', '.join(OPTIMIZERS)}")
    optimizer: Optimizer = OPTIMIZERS[name](parameters, **settings)
    return optimizer


def _room(parameter: Tensor) -> int:
    """Numbers from a parameter's first to the next one's, which begins in a cache line of its own."""
    line = ALIGNMENT // 4
    return -(-parameter.size // line) * line


def decays(parameter: Tensor) -> bool:
    """Matrices shrink; gains and biases, which are vectors, do not."""
    return parameter.ndim >= 2
