"""Products of matrices: a layer's weights with its inputs, and batches of pairs."""

from lcm.ops.op import op
from lcm.ops.signature import blocks, f32, weights
from lcm.tensor import Tensor

ROUNDED = 32  # numbers of x that `linear_int8` gives one scale
TINY = 2.0**-126  # the smallest normal number


@op(flops="2 * rows * inputs * outputs")
def linear(
    x: f32["*rows inputs"],
    weight: weights["outputs inputs"],
    bias: f32["outputs"] | None = None,
) -> f32["*rows outputs"]:
    """x @ weight.T + bias."""
    y: Tensor = x @ weight.cast(x.format).T
    return y if bias is None else y + bias


@op(flops="2 * rows * inputs * outputs", gradient=False)
def linear_int8(
    x: f32["*rows inputs"],
    weight: blocks["outputs inputs"],
    bias: f32["outputs"] | None = None,
) -> f32["*rows outputs"]:
    """x8 @ weight.T + bias, where x8 is x rounded to whole multiples of max |x| / 127, 32 numbers at a time.

    So the product is one of whole numbers, but for the scales. What is too small for a scale is 0.
    """
    rows, inputs = x.shape
    parts = x.cast("f32").reshape(rows, inputs // ROUNDED, ROUNDED)
    scale = (parts < 0).where(-parts, parts).max() / 127
    too_small = scale < TINY
    whole = too_small.expand(*parts.shape).where(0, parts / too_small.where(1, scale)).round()
    return linear.body((whole * scale).reshape(rows, inputs).cast(x.format), weight, bias)


@op(flops="2 * batch * rows * inner * columns")
def matmul(
    x: f32["*batch rows inner"], y: f32["*batch inner columns"]
) -> f32["*batch rows columns"]:
    """x @ y for every pair in the batch."""
    return x @ y
