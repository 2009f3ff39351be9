"""The op's bodies as the kernels of a backend: so that the reference passes what every backend has to."""

from collections.abc import Callable
from functools import partial

import numpy as np

from lcm.backend.contract import Backend, Kernel
from lcm.backend.dispatch import REFERENCE, use_backend
from lcm.backend.selftest import parse
from lcm.ops import CATALOGUE
from lcm.recording import no_grad
from lcm.tensor import Tensor
from lcm.testing.trial import Arguments, bound_of


def backend() -> Backend:
    """Every kernel that there can be, run by its op's body in f32."""
    every = (symbol for op in CATALOGUE.values() for symbol in op.signature.kernels)
    kernels: dict[str, Kernel] = {symbol: partial(_bind, symbol) for symbol in every}
    return Backend(REFERENCE, kernels)


def _bind(symbol: str, arguments: Arguments) -> Callable[[], object]:
    return partial(_gradient if symbol.endswith("_grad") else _forward, symbol, arguments)


def _forward(symbol: str, arguments: Arguments) -> None:
    op, format, _ = parse(symbol)
    bound = bound_of(op, arguments, format)
    with use_backend(REFERENCE), no_grad(), np.errstate(all="ignore"):
        y = op.run_body(bound).data
    for name in op.signature.changed or ("out",):
        arguments[name][...] = y if name == "out" else bound.tensors[name].data


def _gradient(symbol: str, arguments: Arguments) -> None:
    op, format, _ = parse(symbol)
    bound = bound_of(op, arguments, format)
    for name, tensor in bound.tensors.items():
        tensor.requires_grad = arguments.get(f"{name}_grad") is not None
    with use_backend(REFERENCE), no_grad():
        found = op.run_gradient_body(bound, Tensor(arguments["out_grad"]))
    for name, part in zip(bound.tensors, found, strict=True):
        if (result := arguments.get(f"{name}_grad")) is not None:
            result[...] = 0 if part is None else part.data
