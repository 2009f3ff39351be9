"""What a call of an op costs at least, by its sizes: operations of its products, and bytes of its arrays."""

import math
from collections.abc import Mapping

from lcm import formats
from lcm.ops.op import Op
from lcm.ops.signature import Spec

Sizes = Mapping[str, int]


def flops(op: Op, sizes: Sizes, *, gradient: bool = False) -> float:
    """Operations of the products, a multiply-add counted as two; the gradient of a product is two."""
    return float(eval(op.flops, {}, dict(sizes))) * (2 if gradient else 1)


def traffic(op: Op, sizes: Sizes, *, format: str = "f32", gradient: bool = False) -> int:
    """Bytes that must be read or written; `format` is that of the weights.

    A gradient reads the inputs and the gradient of the result, and writes one for each f32 input.
    """
    arrays, output = op.signature.arrays, op.signature.output
    total = sum(_bytes(op, n, s, sizes, format) * (2 if s.inout else 1) for n, s in arrays.items())
    if output is not None:
        total += _bytes(op, "out", output, sizes, "f32")
    if gradient:
        total += sum(
            math.prod(sizes[s] for s in spec.symbols) * 4
            for spec in arrays.values()
            if "f32" in spec.formats
        )
    return total


def _bytes(op: Op, name: str, spec: Spec, sizes: Sizes, format: str) -> int:
    if name in op.touched:
        count = int(eval(op.touched[name], {}, dict(sizes)))
    else:
        count = math.prod(sizes[s] for s in spec.symbols)
    return formats.FORMATS[format if format in spec.formats else spec.formats[0]].bytes(count)
