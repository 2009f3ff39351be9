"""Products of matrices: a layer's weights with its inputs, and batches of pairs."""

from lcm.ops.op import op
from lcm.ops.signature import f32, weights
from lcm.tensor import Tensor


@op(flops="2 * rows * inputs * outputs")
def linear(
    x: f32["*rows inputs"],
    weight: weights["outputs inputs"],
    bias: f32["outputs"] | None = None,
) -> f32["*rows outputs"]:
    """x @ weight.T + bias."""
    y: Tensor = x @ weight.cast(x.format).T
    return y if bias is None else y + bias


@op(flops="2 * batch * rows * inner * columns")
def matmul(
    x: f32["*batch rows inner"], y: f32["*batch inner columns"]
) -> f32["*batch rows columns"]:
    """x @ y for every pair in the batch."""
    return x @ y
