"""The loss of a batch and its gradients, as programs: recorded for a shape once, and replayed ever after."""

import math
from typing import NamedTuple

import numpy as np

from lcm import ops
from lcm.errors import DataError
from lcm.memory import Arena, zeros
from lcm.nn import Model
from lcm.program import Program, record
from lcm.tensor import Tensor
from lcm.train.split import IGNORE

# Tokens that run together: fewer need less memory and stay in the caches, more make larger products.
TOKENS = 2048


class _Recorded(NamedTuple):
    inputs: Tensor
    targets: Tensor
    share: Tensor  # of the batch's loss that these tokens make
    program: Program[Tensor]  # their mean loss
    gradients: dict[str, Tensor | None]


class Gradients:
    """What a model's parameters should change by; `model` must keep its parameters where they are."""

    def __init__(self, model: Model, *, tokens: int = TOKENS) -> None:
        self._model, self._tokens = model, tokens
        self._parameters = model.parameters()
        self._arena = Arena()  # of all programs, since one runs at a time
        self._recorded: dict[tuple[tuple[int, ...], bool], _Recorded] = {}
        for parameter in self._parameters.values():
            if parameter.home is None:
                parameter.home = zeros(parameter.shape, np.float32)

    def add(self, inputs: np.ndarray, targets: np.ndarray) -> float:
        """The mean loss of (B, T) ids; its gradients are added to every parameter's `.grad`."""
        self._check(inputs, "inputs")
        self._check(targets[targets != IGNORE], "targets")
        kept = max(1, int(np.count_nonzero(targets != IGNORE)))
        parts = min(len(inputs), math.ceil(inputs.size / self._tokens))
        loss = 0.0
        for ids, wanted in zip(
            np.array_split(inputs, parts), np.array_split(targets, parts), strict=True
        ):
            share = int(np.count_nonzero(wanted != IGNORE)) / kept
            loss += share * self._add_part(ids, wanted, share)
        return loss

    def _add_part(self, inputs: np.ndarray, targets: np.ndarray, share: float) -> float:
        more = any(p.grad is not None for p in self._parameters.values())
        key = (inputs.shape, more)
        if key not in self._recorded:
            self._recorded[key] = self._record(inputs, targets, share)
            return self._recorded[key].program.result.item()
        recorded = self._recorded[key]
        recorded.inputs.data[...], recorded.targets.data[...] = inputs, targets
        recorded.share.data[...] = share
        loss = recorded.program().item()
        for name, parameter in self._parameters.items():
            parameter.grad = recorded.gradients[name]
        return loss

    def _check(self, ids: np.ndarray, what: str) -> None:
        """A program does not look at ids again, and a kernel reads where they point."""
        if ids.size and not (int(ids.min()) >= 0 and int(ids.max()) < self._model.vocabulary):
            raise DataError(
                f"{what}: ids reach from {ids.min()} to {ids.max()}; "
                f"the model's are 0 … {self._model.vocabulary - 1}"
            )

    def _record(self, inputs: np.ndarray, targets: np.ndarray, share: float) -> _Recorded:
        ids, wanted, weight = (
            Tensor(inputs.copy()),
            Tensor(targets.copy()),
            Tensor(np.float32(share)),
        )

        def loss() -> Tensor:
            found = ops.cross_entropy(self._model(ids), wanted, ignore_index=IGNORE)
            found.backward(weight)
            return found

        program = record(loss, gradients=True, arena=self._arena)
        gradients = {n: p.grad for n, p in self._parameters.items()}
        return _Recorded(ids, wanted, weight, program, gradients)
