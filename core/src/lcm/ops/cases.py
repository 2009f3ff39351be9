"""Cases for any op, drawn from its signature: what self-tests, tuning and the conformance kit run."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lcm import formats
from lcm.ops.op import Op
from lcm.ops.signature import REQUIRED, Bound, Spec
from lcm.tensor import Tensor


def sizes(op: Op, rng: np.random.Generator, largest: int = 9) -> dict[str, int]:
    """Random sizes from 1 up that fulfil the op's conditions."""
    while True:
        drawn = {s: int(rng.integers(1, largest + 1)) for s in op.signature.symbols}
        if possible(op, drawn):
            return drawn


def possible(op: Op, drawn: Mapping[str, int]) -> bool:
    """Whether arguments of these sizes exist."""
    bounds = [s.bound for s in op.signature.arrays.values() if s.bound]
    return all(eval(c, {}, dict(drawn)) for c in op.signature.where) and all(
        eval(b, {}, dict(drawn)) > 0 for b in bounds
    )


def scalars(op: Op, rng: np.random.Generator) -> dict[str, Any]:
    """Random scalars; a default is kept, but for switches."""
    values: dict[str, Any] = {}
    for name, scalar in op.signature.scalars.items():
        if scalar.type is bool:
            values[name] = bool(rng.integers(2))
        elif scalar.default is not REQUIRED:
            values[name] = scalar.default
        elif scalar.type is float:
            values[name] = float(np.float32(rng.uniform(0.01, 0.5)))
        else:
            values[name] = int(rng.integers(1, 5))
    return values


def case(
    op: Op,
    rng: np.random.Generator,
    *,
    shape: Mapping[str, int] | None = None,
    format: str = "f32",
    optional: bool = True,
    requires_grad: bool = False,
) -> Bound:
    """Random arguments of the shape given, checked; `format` is that of the op's weights."""
    shape = shape or sizes(op, rng)
    tensors = {
        name: _tensor(spec, shape, format, rng)
        for name, spec in op.signature.arrays.items()
        if optional or not spec.optional
    }
    for tensor in tensors.values():
        tensor.requires_grad = requires_grad and tensor.format == "f32"
    return op.signature.bind(**tensors, **scalars(op, rng))


def _tensor(spec: Spec, shape: Mapping[str, int], format: str, rng: np.random.Generator) -> Tensor:
    full = tuple(shape[symbol] for symbol in spec.symbols)
    if spec.bound:
        limit = eval(spec.bound, {}, dict(shape))
        return Tensor(rng.integers(0, limit, full).astype(np.int32))
    numbers = rng.standard_normal(full, np.float32)
    if spec.nonnegative:
        numbers = np.abs(numbers)
    chosen = format if format in spec.formats else spec.formats[0]
    return Tensor(formats.encode(numbers, chosen), chosen)
