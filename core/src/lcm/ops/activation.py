"""Activations: the non-linear functions between layers, number by number."""

import math

from lcm.ops.op import op
from lcm.ops.signature import f32


@op(split="count")
def gelu(x: f32["*count"], *, tanh: bool = False) -> f32["*count"]:
    """x * Phi(x), exactly or by the tanh approximation (Hendrycks & Gimpel, 2016)."""
    if tanh:
        inner = x * (x * x * (0.044715 * math.sqrt(2 / math.pi)) + math.sqrt(2 / math.pi))
        return x * 0.5 * (inner.tanh() + 1)
    return x * 0.5 * ((x * math.sqrt(0.5)).erf() + 1)


@op(split="count")
def silu(x: f32["*count"]) -> f32["*count"]:
    """x * sigmoid(x)."""
    return x * x.sigmoid()


@op(split="count")
def swiglu(gate: f32["*count"], up: f32["*count"]) -> f32["*count"]:
    """silu(gate) * up (Shazeer, 2020)."""
    return gate * gate.sigmoid() * up


@op(split="count")
def geglu(gate: f32["*count"], up: f32["*count"], *, tanh: bool = False) -> f32["*count"]:
    """gelu(gate) * up (Shazeer, 2020)."""
    return gelu.body(gate, tanh=tanh) * up
