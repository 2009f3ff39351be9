"""Optimiser steps: each changes the parameter, and what it remembers of it, in place.

`grad_scale` multiplies the gradient first: clipping costs no pass of its own.
"""

from lcm.ops.op import op
from lcm.ops.signature import f32, inout


@op(split="count")
def adamw_step(
    param: inout(f32["*count"]),
    m: inout(f32["*count"]),
    v: inout(f32["*count"].at_least_zero()),
    grad: f32["*count"],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
    grad_scale: float = 1.0,
) -> None:
    """Adam with decoupled weight decay (Loshchilov & Hutter, 2019); `step` counts from 1."""
    g = grad * grad_scale
    m = m * beta1 + g * (1 - beta1)
    v = v * beta2 + g * g * (1 - beta2)
    size = (v / (1 - beta2**step)).sqrt() + eps
    return param * (1 - lr * weight_decay) - m / size * (lr / (1 - beta1**step)), m, v


@op(split="count")
def sgd_step(
    param: inout(f32["*count"]),
    velocity: inout(f32["*count"]),
    grad: f32["*count"],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    grad_scale: float = 1.0,
) -> None:
    """Gradient descent with momentum and decoupled weight decay; velocity = momentum * velocity + grad."""
    velocity = velocity * momentum + grad * grad_scale
    return param * (1 - lr * weight_decay) - velocity * lr, velocity
