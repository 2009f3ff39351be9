"""Ops on rows: normalisation and softmax."""

from lcm.ops.op import op
from lcm.ops.signature import f32


@op(split="rows")
def rms_norm(x: f32["*rows width"], weight: f32["width"], *, eps: float) -> f32["*rows width"]:
    """x / rms(x) * weight, over the last axis (Zhang & Sennrich, 2019)."""
    return x * ((x * x).mean() + eps).rsqrt() * weight


@op(split="rows")
def layer_norm(
    x: f32["*rows width"], weight: f32["width"], bias: f32["width"], *, eps: float
) -> f32["*rows width"]:
    """(x - mean(x)) / sqrt(variance(x) + eps) * weight + bias, over the last axis (Ba et al., 2016)."""
    centred = x - x.mean()
    return centred * ((centred * centred).mean() + eps).rsqrt() * weight + bias


@op(split="rows")
def softmax(x: f32["*rows width"]) -> f32["*rows width"]:
    """exp(x) / sum(exp(x)), over the last axis."""
    powers = (x - x.max().detach()).exp()
    return powers * (1 / powers.sum())
