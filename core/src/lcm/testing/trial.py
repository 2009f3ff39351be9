"""A trial: one call of one kernel, with arguments that follow from a few words, and its right results."""

import itertools
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lcm import formats
from lcm.backend.dispatch import REFERENCE, use_backend
from lcm.backend.selftest import parse
from lcm.grad import gradient
from lcm.ops import Op
from lcm.ops.cases import NUMBERS, case, in_blocks
from lcm.ops.signature import Bound
from lcm.recording import no_grad
from lcm.tensor import Tensor
from lcm.testing.shapes import LEVELS, busy, shapes
from lcm.testing.tolerances import rule

Arguments = dict[str, Any]

# The kinds of numbers, in the order in which a kernel's trials take them.
KINDS = ("normal", "whole", "wide", "peaks", "normal", "far", "whole")


@dataclass(frozen=True)
class Trial:
    """What makes a call of a kernel, and makes it again."""

    symbol: str
    sizes: Mapping[str, int]
    numbers: str = "normal"  # a key of NUMBERS
    optional: bool = True  # with the arguments that may be left out
    wanted: tuple[str, ...] = ()  # the inputs whose gradients are asked for
    offset: int = 0  # where arrays begin, in numbers behind a multiple of 64 bytes
    seed: int = 0

    def __str__(self) -> str:
        sizes = ", ".join(f"{name}={size}" for name, size in self.sizes.items())
        parts = [sizes, f"{self.numbers} numbers", f"offset {self.offset}", f"seed {self.seed}"]
        if self.wanted:
            parts.append(f"gradients of {' and '.join(self.wanted)}")
        if not self.optional:
            parts.append("without what may be left out")
        return f"{self.symbol}({'; '.join(parts)})"

    @cached_property
    def kind(self) -> tuple[Op, str, bool]:
        """The op, the format of its weights, and whether this is its gradient."""
        return parse(self.symbol)

    @property
    def results(self) -> tuple[str, ...]:
        """The arrays that the kernel has to write."""
        op, _, is_gradient = self.kind
        if is_gradient:
            return tuple(f"{name}_grad" for name in self.wanted)
        return op.signature.changed or ("out",)

    def arguments(self) -> Arguments:
        """The kernel's arguments: arrays, sizes, scalars; always the same numbers."""
        op, format, is_gradient = self.kind
        rng = np.random.default_rng([zlib.crc32(self.symbol.encode()), self.seed])
        bound = case(
            op, rng, shape=self.sizes, format=format, optional=self.optional, numbers=self.numbers,
            varied=True,
        )  # fmt: skip
        if not is_gradient:
            return op.arguments(bound)
        y = right_results(self.symbol, op.arguments(bound), ("out",))["out"].astype(np.float32)
        g = NUMBERS["whole" if self.numbers == "whole" else "normal"](rng, y.shape)
        for name, tensor in bound.tensors.items():
            tensor.requires_grad = name in self.wanted
        return op.gradient_arguments(bound, Tensor(g), Tensor(y))


def right_results(
    symbol: str, arguments: Arguments, names: tuple[str, ...], *, double: bool = True
) -> dict[str, np.ndarray]:
    """What the op's body makes of a kernel's arguments, in f64 or in f32."""
    op, format, _ = parse(symbol)
    bound = bound_of(op, arguments, format, double=double)
    with use_backend(REFERENCE), np.errstate(all="ignore"):
        if "out_grad" not in arguments or names == ("out",):
            with no_grad():
                y = op.run_body(bound).data
            changed = {
                n: numbers_of(t.data, t.format) for n, t in bound.tensors.items() if n in names
            }
            return {n: y if n == "out" else changed[n] for n in names}
        return _gradients(op, bound, arguments, names)


def numbers_of(array: np.ndarray, format: str) -> np.ndarray:
    """The numbers of a result; of f32 and f64 the array itself."""
    return array if format in ("f32", "f64") else formats.decode(array, format, "f64")


def bound_of(op: Op, arguments: Arguments, format: str, *, double: bool = False) -> Bound:
    """The checked arguments of an op that these arguments of a kernel stand for; copies, or f64.

    What is changed in place keeps a format that is not f32: to round to it is a part of the result.
    """
    tensors = {}
    for name, spec in op.signature.arrays.items():
        if (array := arguments[name]) is not None:
            stored = spec.stored_as(format)
            rounds = spec.inout and stored != "f32"
            if double and stored != "i32" and not rounds:
                tensors[name] = Tensor(formats.decode(array, stored, "f64"))
            else:
                tensors[name] = Tensor(array.copy(), stored)
    output = op.signature.output
    specs = [*op.signature.arrays.values(), *([output] if output else [])]
    lead: dict[str, tuple[int, ...]] = {s: (arguments[s],) for spec in specs for s in spec.symbols}
    sizes = {s: arguments[s] for s in op.signature.symbols}
    scalars = {n: arguments[n] for n in op.signature.scalars}
    return Bound(tensors, sizes, scalars, lead)


def _gradients(
    op: Op, bound: Bound, arguments: Arguments, names: tuple[str, ...]
) -> dict[str, np.ndarray]:
    inputs = [bound.tensors[name.removesuffix("_grad")] for name in names]
    for tensor in inputs:
        tensor.requires_grad = True
    y = op.run_body_inline(bound)
    g = Tensor(arguments["out_grad"].astype(y.data.dtype).reshape(y.shape))
    found = gradient(y, inputs, g)
    return {
        name: np.zeros_like(tensor.data) if part is None else part.data
        for name, tensor, part in zip(names, inputs, found, strict=True)
    }


def trials(symbol: str, level: str) -> Iterator[Trial]:
    """Every trial of a kernel at a level."""
    op, format, is_gradient = parse(symbol)
    wanted = subsets(op, format) if is_gradient else [()]
    optional = any(spec.optional for spec in op.signature.arrays.values())
    every = shapes(op, level)
    rounds = -(-LEVELS[level].least // len(every))
    for i, sizes in enumerate([*every * rounds, *busy(op, LEVELS[level].busy)]):
        subset = wanted[i % len(wanted)]
        without = optional and i % 3 == 2 and not set(subset) & _optional(op)
        yield Trial(
            symbol, in_blocks(op, format, sizes), _numbers(op, format, i), not without, subset,
            offset=(0, 1, 3, 4, 8, 15)[i // 2 % 6], seed=i,
        )  # fmt: skip


def subsets(op: Op, format: str) -> list[tuple[str, ...]]:
    """Every choice of gradients that can be wanted; weights that are not f32 have none."""
    names = [
        name for name, spec in op.signature.arrays.items()
        if "f32" in spec.formats and (len(spec.formats) == 1 or format == "f32")
    ]  # fmt: skip
    return [s for n in range(len(names), 0, -1) for s in itertools.combinations(names, n)]


def _optional(op: Op) -> set[str]:
    return {name for name, spec in op.signature.arrays.items() if spec.optional}


def _numbers(op: Op, format: str, i: int) -> str:
    kind = KINDS[i % len(KINDS)]
    results = ("out", *op.signature.changed)
    exact = formats.FORMATS[format].numbers == 1 and any(rule(op.name, r).whole for r in results)
    if kind == "whole" and not exact:
        return "normal"
    return kind
