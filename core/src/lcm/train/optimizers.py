"""Optimisers: AdamW and SGD, with what they remember of every parameter."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from lcm import ops
from lcm.errors import FileError, UsageError
from lcm.tensor import Tensor, no_grad


class Optimizer(ABC):
    """The parameters, their weight decay by group, and what is remembered of each."""

    REMEMBERS: tuple[str, ...]

    def __init__(self, parameters: Mapping[str, Tensor], *, weight_decay: float) -> None:
        self.parameters = dict(parameters)
        self.decay = {n: weight_decay if decays(p) else 0.0 for n, p in parameters.items()}
        self.memory = {
            n: {kind: Tensor(np.zeros_like(p.data)) for kind in self.REMEMBERS}
            for n, p in parameters.items()
        }
        self.count = 0

    def step(self, *, lr: float, grad_scale: float = 1.0) -> None:
        """Take one step with the gradients in `.grad`, times `grad_scale`, and clear them."""
        self.count += 1
        with no_grad():
            for name, parameter in self.parameters.items():
                if parameter.grad is not None:
                    self._change(name, parameter, parameter.grad, lr, grad_scale)
                parameter.grad = None

    @abstractmethod
    def _change(self, name: str, p: Tensor, grad: Tensor, lr: float, scale: float) -> None:
        """Take one step with one parameter."""

    def state(self) -> dict[str, np.ndarray]:
        """What it remembers, by `<kind>.<parameter>`."""
        return {f"{k}.{n}": t.data for n, kinds in self.memory.items() for k, t in kinds.items()}

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

    def _change(self, name: str, p: Tensor, grad: Tensor, lr: float, scale: float) -> None:
        memory = self.memory[name]
        ops.adamw_step(
            p, memory["m"], memory["v"], grad, lr=lr, weight_decay=self.decay[name],
            step=self.count, grad_scale=scale, **self._settings,
        )  # fmt: skip


class SGD(Optimizer):
    """Gradient descent with momentum and decoupled weight decay."""

    REMEMBERS = ("velocity",)

    def __init__(
        self, parameters: Mapping[str, Tensor], *, weight_decay: float = 0.0, momentum: float = 0.9
    ) -> None:
        super().__init__(parameters, weight_decay=weight_decay)
        self._momentum = momentum

    def _change(self, name: str, p: Tensor, grad: Tensor, lr: float, scale: float) -> None:
        ops.sgd_step(
            p, self.memory[name]["velocity"], grad, lr=lr, momentum=self._momentum,
            weight_decay=self.decay[name], grad_scale=scale,
        )  # fmt: skip


OPTIMIZERS: dict[str, Any] = {"adamw": AdamW, "sgd": SGD}


def make(name: str, parameters: Mapping[str, Tensor], **settings: float) -> Optimizer:
    """The optimiser of this name."""
    if name not in OPTIMIZERS:
        raise UsageError(f"no optimiser {name!r}; there are: {', '.join(OPTIMIZERS)}")
    optimizer: Optimizer = OPTIMIZERS[name](parameters, **settings)
    return optimizer


def decays(parameter: Tensor) -> bool:
    """Matrices shrink; gains and biases, which are vectors, do not."""
    return parameter.ndim >= 2


def gradient_norm(parameters: Mapping[str, Tensor]) -> float:
    """The norm of all gradients together."""
    squares = (ops.sum_squares(p.grad).item() for p in parameters.values() if p.grad is not None)
    return float(np.sqrt(sum(squares)))
