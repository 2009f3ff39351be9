"""Losses, and the norm that gradients are clipped by."""

import numpy as np

from lcm.ops.op import op
from lcm.ops.signature import f32, i32
from lcm.tensor import Tensor, arange


@op
def cross_entropy(
    logits: f32["*rows classes"],
    targets: i32["*rows"].below("classes", or_equal="ignore_index"),
    *,
    ignore_index: int = -100,
) -> f32[""]:
    """The mean of -log softmax(logits)[target] over the targets that are not ignored; 0 if all are."""
    rows, classes = logits.shape
    ignored = targets.equal(ignore_index)
    place = arange(rows) * classes + ignored.where(0, targets)
    picked = logits.reshape(rows * classes, 1).gather(place)  # (rows, 1)
    largest = logits.max().detach()
    logs = (logits - largest).exp().sum().log() + largest
    losses = ignored.reshape(rows, 1).where(0, logs - picked)
    kept = ignored.where(Tensor(np.zeros((), logits.data.dtype)), 1).sum(0)
    return losses.sum(0, 1).reshape() / (kept.equal(0).where(1, kept)).reshape()


@op
def sum_squares(x: f32["*count"]) -> f32[""]:
    """sum(x^2)."""
    return (x * x).sum(0).reshape()
