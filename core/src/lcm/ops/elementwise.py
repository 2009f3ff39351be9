"""Arithmetic, number by number: what a model writes as `x + y`, where a backend has a kernel for it."""

from lcm.ops.op import op
from lcm.ops.signature import f32
from lcm.tensor import KERNELS


@op
def add(x: f32["*count"], y: f32["*count"]) -> f32["*count"]:
    """x + y; the result may be written over x or y."""
    return x + y


KERNELS["add"] = add.step
