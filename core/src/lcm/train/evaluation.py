"""Evaluation: how well a model predicts text it has not seen, per token and per byte."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from lcm import ops
from lcm.errors import DataError
from lcm.nn import Model
from lcm.recording import no_grad
from lcm.tensor import Tensor
from lcm.text.tokenizer import Tokenizer
from lcm.train.corpus import Corpus
from lcm.train.split import IGNORE, Batch, Split


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


def evaluate(model: Model, batches: Iterable[Batch], byte_lengths: np.ndarray) -> Evaluation:
    """The model's loss over batches of (inputs, targets), each (batch, context) i32."""
    loss, tokens, size = 0.0, 0, 0
    with no_grad():
        for inputs, targets in batches:
            counted = targets[targets != IGNORE]
            mean = ops.cross_entropy(model(Tensor(inputs)), Tensor(targets), ignore_index=IGNORE)
            loss += mean.item() * counted.size
            tokens += counted.size
            size += int(byte_lengths[counted].sum())
    if size == 0:
        raise DataError("nothing to evaluate on: the text has no tokens to predict")
    return Evaluation(loss / tokens, tokens, size)


def as_split(corpus: Corpus, tokenizer: Tokenizer) -> Split:
    """The whole corpus as tokens in memory, each document behind the token that ends a text."""
    end = [] if tokenizer.end is None else [tokenizer.end]
    texts = tokenizer.encode_batch([document.read() for document in corpus.documents])
    return Split("text", [np.array([i for ids in texts for i in end + ids], np.int32)], ())
