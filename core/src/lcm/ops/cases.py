"""Cases for any op, drawn from its signature: what self-tests, tuning and the conformance kit run."""

import math
import re
import zlib
from collections.abc import Mapping
from functools import cache
from types import CodeType
from typing import Any

import numpy as np

from lcm import formats
from lcm.formats.interleaved import INTERLEAVED
from lcm.ops.op import Op
from lcm.ops.signature import REQUIRED, Bound, Spec
from lcm.tensor import Tensor

# What a case's numbers may be like.
NUMBERS = {
    "normal": lambda rng, shape: rng.standard_normal(shape, np.float32),
    # Sums of products of them are exact in f32, in whatever order they are added.
    "whole": lambda rng, shape: rng.integers(-4, 5, shape).astype(np.float32),
    # Eight decimal orders, where functions are flat, steep or saturated.
    "wide": lambda rng, shape: (
        rng.choice((-1.0, 1.0), shape) * 10.0 ** rng.uniform(-6, 2, shape)
    ).astype(np.float32),
    # Where a difference of large numbers, or exp of one, goes wrong.
    "far": lambda rng, shape: rng.standard_normal(shape, np.float32) + np.float32(100),
    # A few numbers a thousand times larger: exp of one overflows, unless the largest is subtracted.
    "peaks": lambda rng, shape: (
        rng.standard_normal(shape) * np.where(rng.integers(0, 20, shape) == 0, 1000, 1)
    ).astype(np.float32),
}

# Scalars as they are in use, where random ones are too kind: 1 - beta2 is small there.
USUAL: dict[str, dict[str, float | int]] = {
    "adamw_step": {
        "lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.1, "step": 1,
    },
    "sgd_step": {"lr": 1e-2, "momentum": 0.9, "weight_decay": 0.1},
    "rms_norm": {"eps": 1e-6},
    "layer_norm": {"eps": 1e-5},
    "attention": {"scale": 0.125},
    "attention_with_sinks": {"scale": 0.125},
    "self_attention": {"scale": 0.125},
}  # fmt: skip


def sizes(
    op: Op, rng: np.random.Generator, largest: int = 9, most: int = 1 << 62
) -> dict[str, int]:
    """Random sizes from 1 up that fulfil the op's conditions; no array has more than `most` numbers."""
    fixed = fixed_sizes(op)
    while True:
        drawn = {s: int(rng.integers(1, largest + 1)) for s in op.signature.symbols} | fixed
        if possible(op, drawn) and widest(op, drawn) <= most:
            return drawn


def in_blocks(op: Op, format: str, drawn: Mapping[str, int]) -> dict[str, int]:
    """These sizes, with the op's weights rounded up to whole blocks of their format."""
    if (stored := op.signature.stored) is None:
        return dict(drawn)
    chosen = formats.FORMATS[stored.stored_as(format)]
    units = zip(stored.symbols[-2:], (chosen.rows, chosen.numbers), strict=True)
    return dict(drawn) | {symbol: -(-drawn[symbol] // unit) * unit for symbol, unit in units}


def fixed_sizes(op: Op) -> dict[str, int]:
    """The sizes that the op's conditions leave no choice of."""
    found = (re.fullmatch(r"(\w+) == (\d+)", condition) for condition in op.signature.where)
    return {match[1]: int(match[2]) for match in found if match}


def possible(op: Op, drawn: Mapping[str, int]) -> bool:
    """Whether arguments of these sizes exist: no numbers need no bound, and 0 divides nothing."""
    try:
        fits = all(_value(condition, drawn) for condition in op.signature.where)
    except ZeroDivisionError:
        return False
    return fits and all(
        _value(spec.bound, drawn) > 0 or 0 in (drawn[s] for s in spec.symbols)
        for spec in op.signature.arrays.values()
        if spec.bound
    )


def widest(op: Op, drawn: Mapping[str, int]) -> int:
    """How many numbers the largest array has."""
    output = op.signature.output
    specs = [*op.signature.arrays.values(), *([output] if output else [])]
    return max(math.prod(drawn[s] for s in spec.symbols) for spec in specs)


def scalars(op: Op, rng: np.random.Generator, *, varied: bool = False) -> dict[str, Any]:
    """Random scalars; a default is kept, but for switches, unless they are to be `varied`."""
    usual = USUAL.get(op.name, {}) if varied and rng.integers(2) else {}
    values: dict[str, Any] = {}
    for name, scalar in op.signature.scalars.items():
        if scalar.type is bool:
            values[name] = bool(rng.integers(2))
        elif name in usual:
            values[name] = usual[name]
        elif scalar.default is not REQUIRED and not (varied and rng.integers(2)):
            values[name] = scalar.default
        elif scalar.type is float:
            values[name] = rng.uniform(0.01, 0.5)
        else:
            values[name] = int(rng.integers(1, 5))
        if scalar.type is float:
            values[name] = float(np.float32(values[name]))  # as a kernel is given it
    return values


def case(
    op: Op,
    rng: np.random.Generator,
    *,
    shape: Mapping[str, int] | None = None,
    format: str = "f32",
    optional: bool = True,
    requires_grad: bool = False,
    numbers: str = "normal",
    varied: bool = False,
) -> Bound:
    """Random arguments of the shape given, checked; `format` is that of the op's weights.

    `numbers` is a key of `NUMBERS`; `varied` draws what has a default too, and ids that are to be ignored.
    """
    shape = in_blocks(op, format, shape or sizes(op, rng))
    values = scalars(op, rng, varied=varied)
    tensors = {
        name: _tensor(spec, shape, format, rng, numbers)
        for name, spec in op.signature.arrays.items()
        if optional or not spec.optional
    }
    for name, tensor in tensors.items():
        tensor.requires_grad = requires_grad and tensor.format == "f32"
        ignored = op.signature.arrays[name].except_scalar
        if varied and ignored:
            tensor.data[rng.integers(0, 4, tensor.shape) == 0] = values[ignored]
    return op.signature.bind(**tensors, **values)


def _tensor(
    spec: Spec, shape: Mapping[str, int], format: str, rng: np.random.Generator, numbers: str
) -> Tensor:
    full = tuple(shape[symbol] for symbol in spec.symbols)
    if spec.bound:
        limit = max(1, _value(spec.bound, shape))
        return Tensor(rng.integers(0, limit, full).astype(np.int32))
    chosen = spec.stored_as(format)
    if formats.FORMATS[chosen].numbers > 1:
        return Tensor(_blocks(chosen, full, rng), chosen)
    drawn = NUMBERS[numbers](rng, full)
    if spec.nonnegative:
        drawn = np.abs(drawn)
    return Tensor(formats.encode(drawn, chosen), chosen)


def _blocks(format: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if format in INTERLEAVED:
        return formats.interleave(_blocks(INTERLEAVED[format].of, shape, rng), format)
    chosen: np.ndarray = rng.choice(_some_blocks(format), formats.FORMATS[format].stored(shape))
    return chosen


@cache
def _some_blocks(format: str) -> np.ndarray:
    """Blocks of random bytes, those whose largest number lies between 1/4 and 4."""
    rng = np.random.default_rng(zlib.crc32(format.encode()))
    storage = formats.FORMATS[format].storage
    drawn = rng.integers(0, 256, (1 << 14, storage.itemsize), np.uint8).view(storage)
    with np.errstate(all="ignore"):
        largest = np.abs(formats.decode(drawn, format)).max(-1)
    chosen: np.ndarray = drawn[:, 0][(largest >= 0.25) & (largest <= 4)]
    return chosen


def _value(expression: str, sizes: Mapping[str, int]) -> Any:
    return eval(_compiled(expression), {}, dict(sizes))


@cache
def _compiled(expression: str) -> CodeType:
    return compile(expression, expression, "eval")
