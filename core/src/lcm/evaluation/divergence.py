"""Kullback-Leibler divergence: how far a model's next-token probabilities are from a reference's.

The figures are those of llama.cpp's `llama-perplexity --kl-divergence`. Standard errors take the tokens for
independent of each other.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from lcm.errors import DataError, NumericsError, UsageError
from lcm.evaluation.perplexity import not_a_number
from lcm.evaluation.rows import scored
from lcm.nn import Model
from lcm.train.split import IGNORE, Batch


@dataclass(frozen=True)
class Divergence:
    """What was measured at each predicted token, in no promised order: arrays (tokens,), in nats."""

    kl: np.ndarray  # sum of p log(p / q): p is the reference's probability, q the model's
    loss: np.ndarray  # -log q of the token that came
    reference_loss: np.ndarray  # -log p of it
    same: np.ndarray  # bool: the likeliest token of both is one

    def figures(self) -> dict[str, float]:
        """The measurements in words, each with its standard error where it is a mean."""
        change = self.loss - self.reference_loss
        ratio = math.exp(change.mean())
        return {
            "perplexity": math.exp(self.loss.mean()),
            "reference_perplexity": math.exp(self.reference_loss.mean()),
            "perplexity_ratio": ratio,
            "perplexity_ratio_error": ratio * _error(change),
            "kl_mean": float(self.kl.mean()),
            "kl_mean_error": _error(self.kl),
            "kl_median": float(np.median(self.kl)),
            "kl_99th_percentile": float(np.percentile(self.kl, 99)),
            "kl_largest": float(self.kl.max()),
            "same_likeliest": float(self.same.mean()),
            "same_likeliest_error": _error(self.same),
        }


def compare(model: Model, reference: Model, batches: Iterable[Batch]) -> Divergence:
    """Both models over batches of (inputs, targets), each (batch, context) i32.

    Keys and values are kept in the format that is set, but the reference's as f32.
    `UsageError` where their vocabularies differ in size, `NumericsError` where a probability is no number.
    """
    if model.vocabulary != reference.vocabulary:
        raise UsageError(
            f"the model has {model.vocabulary} tokens and the reference {reference.vocabulary}; "
            "compare models with one tokenizer"
        )
    parts: list[tuple[np.ndarray, ...]] = []
    for batch in batches:
        both = zip(scored(model, batch), scored(reference, batch, exact=True), strict=True)
        for (logits, targets), (wanted, _) in both:
            kept = targets != IGNORE
            rows = _rows(logits.data[kept], wanted.data[kept], targets[kept])
            _check(rows, sum(len(part[0]) for part in parts))
            parts.append(rows)
    if sum(len(part[0]) for part in parts) < 2:
        raise DataError("nothing to compare on: the text has fewer than 2 tokens to predict")
    return Divergence(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _rows(logits: np.ndarray, wanted: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, ...]:
    """The fields of `Divergence` for rows of logits (rows, vocabulary) of model and reference."""
    q, p = _log_softmax(logits), _log_softmax(wanted)
    kl = (np.exp(p) * (p - q)).sum(-1)
    place = np.arange(len(targets)), targets
    return kl, -q[place], -p[place], logits.argmax(-1) == wanted.argmax(-1)


def _log_softmax(x: np.ndarray) -> np.ndarray:
    shifted: np.ndarray = x - x.max(-1, keepdims=True).astype(np.float64)
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True))
    return shifted


def _check(rows: tuple[np.ndarray, ...], tokens: int) -> None:
    for part in rows:
        if not np.isfinite(part).all():
            raise NumericsError(not_a_number(tokens, float(part[~np.isfinite(part)][0])))


def _error(values: np.ndarray) -> float:
    """The standard error of the mean."""
    return float(values.std(ddof=1)) / math.sqrt(len(values))
