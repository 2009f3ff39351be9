"""Perplexity: how well a model predicts text that it has not seen, per token and per byte."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from lcm import ops
from lcm.errors import DataError, NumericsError
from lcm.evaluation.rows import scored
from lcm.nn import Model
from lcm.recording import no_grad
from lcm.tensor import Tensor
from lcm.train.split import IGNORE, Batch


@dataclass(frozen=True)
class Evaluation:
    """The mean loss in nats per token, over some tokens and the bytes that they stand for."""

    loss: float
    tokens: int
    bytes: int

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_byte(self) -> float:
        """Comparable between tokenizers, which perplexity is not."""
        return self.loss * self.tokens / math.log(2) / self.bytes


def evaluate(
    model: Model, batches: Iterable[Batch], byte_lengths: np.ndarray, *, exact: bool = False
) -> Evaluation:
    """The model's loss over batches of (inputs, targets), each (batch, context) i32.

    Keys and values are kept in the format that is set; `exact` keeps them as f32. `NumericsError` where the
    loss is no number.
    """
    loss, tokens, size = 0.0, 0, 0
    for batch in batches:
        for logits, targets in scored(model, batch, exact=exact):
            counted = targets[targets != IGNORE]
            with no_grad():
                mean = ops.cross_entropy(logits, Tensor(targets), ignore_index=IGNORE).item()
            if not math.isfinite(mean):
                raise NumericsError(not_a_number(tokens, mean))
            loss += mean * counted.size
            tokens += counted.size
            size += int(byte_lengths[counted].sum())
    if size == 0:
        raise DataError("nothing to evaluate on: the text has no tokens to predict")
    return Evaluation(loss / tokens, tokens, size)


def not_a_number(tokens: int, loss: float) -> str:
    return (
        f"the loss is {loss} after {tokens:,} tokens; the model's weights are damaged, or a number has "
        "become too large: try --backend reference, or LCM_ACTIVATIONS=f32"
    )
